"""A model of four animals behind a model server, and the same in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from models.classifier import Images
from models.engines.remote.address import RemoteAddress
from models.engines.remote.classifier import RemoteClassifier
from models.engines.remote.options import RemoteOptions
from tests.fakes import FakeClassifier, Shape, linear, noise
from tests.model_server import Model, ModelServer, served

SHAPE: Shape = (5, 7, 3)
QUICK = RemoteOptions(timeout_s=1.0, total_s=1.0, attempts=3, first_pause_s=0.01, longest_pause_s=0.02)

Connect = Callable[..., RemoteClassifier]


@pytest.fixture(scope="module")
def local() -> FakeClassifier:
    return linear(SHAPE, 4, sharpness=1.0)


@pytest.fixture(scope="module")
def images() -> Images:
    return noise(9, SHAPE, 3)


@pytest.fixture
def model(local: FakeClassifier) -> Model:
    """Takes images as they are."""
    return Model(local.answer, SHAPE)


@pytest.fixture
def server(model: Model) -> Iterator[ModelServer]:
    with served(model) as running:
        yield running


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Opens remote classifiers, and closes them."""
    opened: list[RemoteClassifier] = []

    def open_(server: ModelServer, scheme: str = "v2", *, options: RemoteOptions = QUICK, **rest: Any) -> RemoteClassifier:
        rest = {"input_shape": SHAPE} | rest
        opened.append(RemoteClassifier(RemoteAddress.parse(server.address(scheme)), options, **rest))
        return opened[-1]

    yield open_
    for classifier in opened:
        classifier.close()
