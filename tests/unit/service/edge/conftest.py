"""A middleware before three paths: one takes a body, one is BentoML's, one is not logged."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from service.edge.connection import Connection
from service.edge.middleware import Edge, pass_on
from service.edge.site import Route
from tests.unit.service.edge.asking import POST, echo, serving, site
from tests.unit.service.edge.wire import At, Bench, Scenario
from tests.unit.service.watcher import Watcher


@pytest.fixture
def watcher() -> Watcher:
    return Watcher()


@pytest.fixture
def edge(watcher: Watcher) -> Edge:
    return serving(site(watcher, echo=Route(echo, **POST), schema=Route(pass_on), health=Route(echo, logged=False)))  # type: ignore[arg-type]


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> At:
    """Runs a scenario at a bench."""

    def run(scenario: Scenario, kind: type[Connection] = Connection, **bounds: Any) -> Bench:
        async def main() -> Bench:
            bench = Bench(kind, monkeypatch, **bounds)
            await scenario(bench)
            bench.connection.connection_lost(None)
            return bench

        return asyncio.run(main())

    return run
