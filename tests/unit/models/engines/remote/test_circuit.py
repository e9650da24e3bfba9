"""When calls stop being made, and what makes them start again: looks at fixed probes, not clients."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from models.classifier import Images
from models.engines.remote.calls import Unobserved
from models.engines.remote.circuit import FAILURES_AT_MOST, Circuit
from models.engines.remote.fingerprint import ANSWERS, PROBES, TOLERANCE, Fingerprint
from models.engines.remote.watch import Watch
from models.errors import InvalidBundle, RemoteBadAnswer, RemoteFailure, RemoteIsAnother, RemoteTooSlow, RemoteUnreachable
from tests.fakes import FakeClassifier, linear
from tests.model_server import ModelServer
from tests.unit.models.engines.remote.conftest import SHAPE, Connect


class Told(Unobserved):
    """What the circuit says."""

    def __init__(self) -> None:
        self.reasons: list[str | None] = []

    def circuit(self, reason: str | None) -> None:
        self.reasons.append(reason)


def until(true: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)


@pytest.mark.parametrize("failure", [RemoteUnreachable("gone"), RemoteTooSlow("slow")])
def test_it_opens_after_failures_in_a_row_only_and_tells_once(failure: RemoteFailure) -> None:
    told = Told()
    circuit = Circuit(told)
    for _ in range(FAILURES_AT_MOST - 1):
        circuit.failed(failure)
    circuit.succeeded()
    for _ in range(FAILURES_AT_MOST - 1):
        circuit.failed(failure)
        circuit.check()
    circuit.failed(failure)
    circuit.failed(failure)
    with pytest.raises(RemoteUnreachable, match=str(failure)) as refused:
        circuit.check()
    assert refused.value.retry_after_s
    assert told.reasons == [str(failure)]
    circuit.looked(None)
    circuit.check()
    assert told.reasons == [str(failure), None]


def test_a_clients_bad_answers_do_not_open_it_but_ask_for_a_look() -> None:
    circuit = Circuit(Unobserved())
    for _ in range(10 * FAILURES_AT_MOST):
        circuit.failed(RemoteBadAnswer("NaN"))
    circuit.check()
    assert circuit.wanted.is_set()


@pytest.mark.parametrize("failure", [RemoteBadAnswer("NaN"), RemoteIsAnother("another")])
def test_bad_answers_to_the_probes_open_it_at_once(failure: RemoteFailure) -> None:
    circuit = Circuit(Unobserved())
    circuit.looked(failure)
    with pytest.raises(RemoteUnreachable):
        circuit.check()


def test_another_model_in_a_clients_answer_opens_it_at_once() -> None:
    circuit = Circuit(Unobserved())
    circuit.failed(RemoteIsAnother("another"))
    with pytest.raises(RemoteUnreachable):
        circuit.check()


def test_no_call_is_made_while_it_is_open(server: ModelServer, connect: Connect, images: Images) -> None:
    classifier = connect(server)
    before = len(server.asked)
    classifier.circuit.open("closed for the day")
    with pytest.raises(RemoteUnreachable, match="closed for the day"):
        classifier.predict(images)
    assert len(server.asked) == before


def test_a_watch_closes_it_when_the_same_model_is_back_and_keeps_it_open_for_another(
    server: ModelServer, connect: Connect, images: Images, local: FakeClassifier
) -> None:
    classifier = connect(server)
    fingerprint = Fingerprint.of(classifier.predict, images)
    watch = Watch(lambda: classifier.look(fingerprint), classifier.circuit, every_s=0.05)
    watch.start()
    try:
        server.die()
        until(lambda: classifier.circuit.reason is not None)  # without a client's request
        server.model.scores = linear(SHAPE, 4, seed=1).answer
        server.start()
        until(lambda: "another model" in str(classifier.circuit.reason))
        with pytest.raises(RemoteUnreachable, match="another model"):
            classifier.predict(images)
        server.model.scores = local.answer
        until(lambda: classifier.circuit.reason is None, 12)
        assert np.allclose(classifier.predict(images), local.answer(images))
    finally:
        watch.stop()


def test_a_watch_looks_soon_when_a_client_had_a_bad_answer(server: ModelServer, connect: Connect, images: Images) -> None:
    classifier = connect(server)
    fingerprint = Fingerprint.of(classifier.predict, images)
    watch = Watch(lambda: classifier.look(fingerprint), classifier.circuit, every_s=60)
    watch.start()
    try:
        server.fault = "nan"
        with pytest.raises(RemoteBadAnswer):
            classifier.predict(images)
        until(lambda: classifier.circuit.reason is not None)
    finally:
        watch.stop()


def test_many_bad_answers_cause_few_looks() -> None:
    circuit, looks = Circuit(Unobserved()), [0]

    def look() -> None:
        looks[0] += 1

    watch = Watch(look, circuit, every_s=60)
    watch.start()
    end = time.monotonic() + 1
    while time.monotonic() < end:
        circuit.failed(RemoteBadAnswer("NaN"))
        time.sleep(0.001)
    watch.stop()
    assert 1 <= looks[0] <= 10


def test_a_fingerprint_tells_models_apart_that_agree_on_clean_images() -> None:
    """Two classifiers, sure of themselves on every image, that differ in nothing but a shift of the boundary."""
    rng = np.random.default_rng(0)
    directions = np.eye(2, dtype=np.float32)
    clean = np.repeat(directions, 8, axis=0).reshape(16, 1, 2, 1)[rng.permutation(16)]

    def model(shift: float) -> Callable[[Images], np.ndarray[tuple[int, int], np.dtype[np.float32]]]:
        def predict(images: Images) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
            margin = 20 * (images[:, 0, 0, 0] - images[:, 0, 1, 0] + shift)
            return np.stack([1 / (1 + np.exp(-margin)), 1 / (1 + np.exp(margin))], axis=1).astype(np.float32)

        return predict

    assert np.abs(model(0.0)(clean) - model(0.05)(clean)).max() < TOLERANCE
    fingerprint = Fingerprint.of(model(0.0), clean)
    fingerprint.check(model(0.0), "here")
    fingerprint.check(lambda images: model(0.0)(images) + np.float32(1e-4), "here")  # rounding
    with pytest.raises(RemoteIsAnother, match="differ by 0"):
        fingerprint.check(model(0.05), "here")


@pytest.mark.parametrize("broken", ["missing", "type", "shape", "empty", "classes"])
def test_a_bundle_without_a_whole_fingerprint_is_refused(local: FakeClassifier, images: Images, broken: str) -> None:
    fingerprint = Fingerprint.of(local.predict, images)
    arrays = fingerprint.arrays()
    again = Fingerprint.from_arrays(arrays, SHAPE, 4)
    assert np.array_equal(again.probes, fingerprint.probes)
    if broken == "missing":
        del arrays[ANSWERS]
    elif broken == "type":
        arrays[PROBES] = arrays[PROBES].astype(np.float32)
    elif broken == "shape":
        arrays[PROBES] = arrays[PROBES][:, :-1]
    elif broken == "empty":
        arrays = {name: array[:0] for name, array in arrays.items()}
    else:
        arrays[ANSWERS] = arrays[ANSWERS][:, :-1]
    with pytest.raises(InvalidBundle, match="answers to some probes"):
        Fingerprint.from_arrays(arrays, SHAPE, 4)
