"""Whatever a model server answers, in whichever protocol, a classifier gets probabilities or a failure, in time and within bounds."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest

from models.classifier import Images
from models.errors import RemoteBadAnswer, RemoteTooSlow, RemoteUnreachable
from tests.fakes import FakeClassifier
from tests.model_server import FAULTS, Model, ModelServer, served
from tests.unit.models.engines.remote.conftest import QUICK, Connect

# TensorFlow Serving's answers name neither the model nor the request.
UNNAMED = ("other_name", "other_request")
LOST = ("cut",)
FORMS = {"bytes": {}, "bytes_then_json": {"gives_bytes": False}, "json": {"takes_bytes": False}}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_answer_of_the_open_inference_protocol_is_a_failure(
    model: Model, connect: Connect, images: Images, fault: str, form: str
) -> None:
    with served(model, **FORMS[form]) as server:
        classifier = connect(server)
        assert classifier.binary is (form != "json")
        server.fault = fault
        with pytest.raises(RemoteUnreachable if fault in LOST else RemoteBadAnswer) as failed:
            classifier.predict(images)
        assert str(failed.value).isprintable()
        assert "secret internals" not in str(failed.value)


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault not in UNNAMED])
def test_a_bad_answer_of_tensorflow_serving_is_a_failure(
    server: ModelServer, connect: Connect, images: Images, fault: str
) -> None:
    classifier = connect(server, "tfs")
    server.fault = fault
    with pytest.raises(RemoteUnreachable if fault in LOST else RemoteBadAnswer):
        classifier.predict(images)


@pytest.mark.parametrize("scheme", ["v2", "tfs"])
@pytest.mark.parametrize("fault", ["silent", "drip", "slow"])
def test_a_server_that_is_too_slow_is_left_in_time_and_not_asked_again(
    server: ModelServer, connect: Connect, images: Images, scheme: str, fault: str
) -> None:
    classifier = connect(server, scheme)
    server.fault, server.delay_s, before = fault, 5.0, len(server.asked)
    started = time.monotonic()
    with pytest.raises(RemoteTooSlow, match="did not answer in time"):
        classifier.predict(images)
    assert QUICK.timeout_s * 0.9 < time.monotonic() - started < QUICK.timeout_s + 0.7
    assert len(server.asked) == before + 1


@pytest.mark.parametrize(
    ("fault", "asked"), [("lost", 3), ("status_503", 3), ("status_429", 3), ("status_500", 1), ("status_400", 1)]
)
def test_a_call_that_nobody_answered_is_made_again_and_one_that_was_answered_is_not(
    server: ModelServer, connect: Connect, images: Images, fault: str, asked: int
) -> None:
    classifier = connect(server)
    classifier.close()  # so that no connection is kept, whose loss would cost no attempt
    server.fault, before = fault, len(server.asked)
    with pytest.raises(RemoteBadAnswer if asked == 1 else RemoteUnreachable):
        classifier.predict(images)
    assert len(server.asked) == before + asked


def test_a_failure_leaves_nothing_behind_that_the_next_answer_could_be_taken_from(
    server: ModelServer, connect: Connect, images: Images, local: FakeClassifier
) -> None:
    classifier = connect(server)
    for fault in ("slow", *FAULTS):
        server.fault, server.delay_s = fault, 1.2
        with pytest.raises((RemoteTooSlow, RemoteBadAnswer, RemoteUnreachable)):
            classifier.predict(images[:2])
        server.fault = None
        np.testing.assert_allclose(classifier.asked(images), local.answer(images), atol=1e-6)


@pytest.mark.parametrize("fault", ["huge", "huge_declared", "endless_head"])
def test_an_answer_without_end_takes_no_memory(server: ModelServer, connect: Connect, images: Images, fault: str) -> None:
    classifier = connect(server)
    server.fault = fault
    tracemalloc.start()
    try:
        with pytest.raises(RemoteBadAnswer):
            classifier.predict(images)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_a_server_that_dies_is_unreachable_and_is_used_again_when_it_is_back(
    server: ModelServer, connect: Connect, images: Images, local: FakeClassifier
) -> None:
    classifier = connect(server)
    server.die()
    with pytest.raises(RemoteUnreachable, match=r"cannot reach .*refused"):
        classifier.predict(images)
    server.start()
    np.testing.assert_allclose(classifier.predict(images), local.answer(images), atol=1e-6)


def test_a_kept_connection_that_the_server_closed_costs_no_attempt(
    server: ModelServer, connect: Connect, images: Images, local: FakeClassifier
) -> None:
    classifier = connect(server)
    server.die()
    server.start()  # as a restart, or a limit of idle time, between two requests
    assert np.allclose(classifier.predict(images), local.answer(images), atol=1e-6)


def test_a_redirect_is_not_followed(server: ModelServer, connect: Connect, images: Images) -> None:
    classifier = connect(server)
    server.fault, before = "redirect", len(server.asked)
    with pytest.raises(RemoteBadAnswer, match=r"redirects .*not followed"):
        classifier.predict(images)
    assert len(server.asked) == before + 1


def test_no_proxy_of_the_environment_is_used(
    server: ModelServer, connect: Connect, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert len(connect(server).predict(images)) == len(images)
