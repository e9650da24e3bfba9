"""A middleware before three paths: one takes a body, one is BentoML's, one is not logged."""

from __future__ import annotations

import pytest

from service.edge.middleware import Edge, pass_on
from service.edge.site import Route
from tests.unit.service.edge.asking import POST, echo, serving, site
from tests.unit.service.watcher import Watcher


@pytest.fixture
def watcher() -> Watcher:
    return Watcher()


@pytest.fixture
def edge(watcher: Watcher) -> Edge:
    return serving(site(watcher, echo=Route(echo, **POST), schema=Route(pass_on), health=Route(echo, logged=False)))  # type: ignore[arg-type]
