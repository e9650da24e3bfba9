"""A gateway whose classifier is on a model server: the same answers as with the model inside, and what happens when that fails."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from models.bundle import ONNX_MODEL, Bundle, write_bundle
from models.engines.onnx import OnnxClassifier
from models.engines.remote.address import RemoteAddress
from models.engines.remote.classifier import RemoteClassifier
from models.engines.remote.fingerprint import Fingerprint
from models.engines.remote.opening import IDENTITY, identity
from models.engines.remote.options import RemoteOptions
from tests.model_server import Model, ModelServer, served
from tests.service.conftest import Server, end, start, wait_until_ready

SHAPE = (28, 28, 1)
DEADLINE_S = 4.0
OPEN = "hauberk_remote_circuit_open"
UNAVAILABLE = {"classifier_failed": 502, "classifier_unavailable": 503, "classifier_too_slow": 504, "deadline_exceeded": 504}


@dataclass(frozen=True)
class Pair:
    """The backdoored classifier as a bundle with its model and as one without, and the server of that model."""

    local: Bundle
    remote: Bundle
    server: ModelServer
    model: OnnxClassifier


@pytest.fixture(scope="module")
def pair(backdoored: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    from models.engines.keras import KerasClassifier
    from models.engines.keras_export import exported

    directory = tmp_path_factory.mktemp("pair")
    graph = exported(KerasClassifier.from_bundle(backdoored)).SerializeToString()
    model = OnnxClassifier(graph, labels=backdoored.labels, input_shape=SHAPE, threads=1)
    interface = {
        "outputs": "probabilities",
        "input_range": [0.0, 1.0],
        "input_shape": list(SHAPE),
        "labels": list(backdoored.labels),
    }
    settings = {key: value for key, value in backdoored.settings.items() if key != "classifier"}
    for name in ("local", "remote"):
        (directory / name).mkdir()
    (directory / "local" / ONNX_MODEL).write_bytes(graph)
    local = write_bundle(
        directory / "local",
        settings=settings | {"classifier": {"engine": "onnx", **interface}},
        calibration=backdoored.calibration,
        card={},
    )
    with served(Model(model.predict, SHAPE, name="digits")) as server:
        address = RemoteAddress.parse(server.address())
        classifier = RemoteClassifier(address, RemoteOptions(), input_shape=SHAPE)
        overlays = backdoored.calibration["strip_overlays"].astype(np.float32) / np.float32(255)
        fingerprint = Fingerprint.of(classifier.predict, overlays)
        remote = write_bundle(
            directory / "remote",
            settings=settings | {"classifier": {"engine": "remote", "remote": str(address), **interface}},
            calibration={**backdoored.calibration, **fingerprint.arrays()},
            card={IDENTITY: identity(classifier)},
        )
        classifier.close()
        yield Pair(local, remote, server, model)


@pytest.fixture(scope="module")
def gateway(pair: Pair, launch: Any, tmp_path_factory: pytest.TempPathFactory, key: str) -> Iterator[Server]:
    settings = {"HAUBERK_BUNDLE": str(pair.remote.directory), "HAUBERK_SECRET": key, "HAUBERK_DEADLINE_S": f"{DEADLINE_S:g}"}
    with launch(tmp_path_factory.mktemp("remote"), **settings) as running:
        yield running


@pytest.fixture
def healthy(pair: Pair, gateway: Server) -> Iterator[ModelServer]:
    """The model server, without a fault before and after."""
    yield pair.server
    pair.server.fault, pair.server.model.scores, pair.server.model.version = None, pair.model.predict, "1"
    if pair.server.is_dead:
        pair.server.start()
    until(lambda: ready(gateway))


def ready(server: Server) -> bool:
    return httpx.get(f"{server.url}/readyz").status_code == 200


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    over = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < over, "it never came true"
        time.sleep(0.05)


def code(answer: httpx.Response) -> str:
    return "" if answer.status_code == 200 else str(answer.json()["code"])


def test_the_same_bundle_answers_the_same_in_process_and_remote(
    pair: Pair, gateway: Server, launch: Any, tmp_path: Path, key: str, digits: Any, triggered: Any
) -> None:
    images = np.concatenate([digits[0][:200], triggered[:40]])
    with launch(tmp_path, HAUBERK_BUNDLE=str(pair.local.directory), HAUBERK_SECRET=key) as local:
        for first in range(0, len(images), 40):
            here, there = (server.ask(images[first : first + 40].tolist()).json()["predictions"] for server in (local, gateway))
            for inside, remote in zip(here, there, strict=True):
                assert (inside["label"], inside["abstained"]) == (remote["label"], remote["abstained"])
                if not inside["abstained"]:
                    np.testing.assert_allclose(inside["probabilities"], remote["probabilities"], atol=1e-6)
    assert sum(one["abstained"] for one in there) == 40


def test_all_rows_of_a_step_go_in_one_call_as_bytes_over_kept_connections(
    healthy: ModelServer, gateway: Server, digits: Any
) -> None:
    before, connections = len(healthy.asked), healthy.connections
    assert gateway.ask(digits[0][:32].tolist()).status_code == 200
    asked = healthy.asked[before:]
    assert all(each.binary for each in asked)
    assert max(len(each.rows) for each in asked) > 32  # images and their probes
    assert healthy.connections <= connections + 1


def codes_under(fault: str, server: ModelServer, gateway: Server, image: Any) -> list[str]:
    """What six requests are answered, one after the other, while the model server has a fault."""
    server.fault = fault
    codes = []
    for _ in range(6):
        started = time.monotonic()
        answer = gateway.ask(image)
        assert time.monotonic() - started < DEADLINE_S + 1
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.status_code == UNAVAILABLE[code(answer)]
        assert "retry-after" in answer.headers or answer.status_code != 503
        assert "secret internals" not in answer.text
        codes.append(code(answer))
    return codes


@pytest.mark.parametrize(
    ("fault", "first"),
    [
        ("fewer_rows", "classifier_failed"),
        ("fewer_columns", "classifier_failed"),
        ("nan", "classifier_failed"),
        ("no_distribution", "classifier_failed"),
        ("no_json", "classifier_failed"),
        ("no_http", "classifier_failed"),
        ("other_name", "classifier_failed"),
        ("huge", "classifier_failed"),
        ("redirect", "classifier_failed"),
        ("status_500", "classifier_failed"),
        ("status_503", "classifier_unavailable"),
        ("lost", "classifier_unavailable"),
        ("silent", "classifier_too_slow"),
        ("drip", "classifier_too_slow"),
    ],
)
def test_a_fault_of_the_model_server_is_a_problem_document_within_the_deadline_and_over_when_the_fault_is(
    healthy: ModelServer, gateway: Server, digits: Any, triggered: Any, fault: str, first: str
) -> None:
    image, suspicious = digits[0][:1].tolist(), triggered[:1].tolist()
    codes = codes_under(fault, healthy, gateway, image)
    for _ in range(2):
        if codes[0] == first:
            break
        assert (
            codes[0] == "classifier_unavailable"
        )  # a look of the gateway's own met the fault before the first request: once more
        healthy.fault = None
        until(lambda: ready(gateway))
        codes = codes_under(fault, healthy, gateway, image)
    assert codes[0] == first
    until(lambda: gateway.metric(OPEN) == 1)
    assert not ready(gateway)
    healthy.fault = None
    until(lambda: ready(gateway))
    assert gateway.ask(image).status_code == 200
    assert gateway.ask(suspicious).json()["predictions"][0]["abstained"]


def test_a_model_server_that_dies_under_load_is_answered_for_and_used_again(
    pair: Pair, healthy: ModelServer, gateway: Server, digits: Any, triggered: Any
) -> None:
    """Half of the clients send a trigger: whatever happens to the model server, it is refused or a problem, and never a label."""
    over = time.monotonic() + 12

    def client(number: int) -> list[tuple[float, int, str, Any]]:
        images, answers = (triggered if number % 2 else digits[0]), []
        with httpx.Client(timeout=30) as session:
            while time.monotonic() < over:
                began = time.monotonic()
                at = int(began * 1000) % 500
                answer = session.post(f"{gateway.url}/predict", json={"images": images[at : at + 2].tolist()})
                told = answer.json()["predictions"] if answer.status_code == 200 else None
                answers.append((time.monotonic() - began, answer.status_code, code(answer), told if number % 2 else None))
                time.sleep(0.02)
        return answers

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        clients = [pool.submit(client, number) for number in range(6)]
        for _ in range(2):
            time.sleep(1.5)
            healthy.die()
            time.sleep(1.5)
            healthy.start()
        answers = [answer for one in clients for answer in one.result()]
    until(lambda: ready(gateway))
    statuses = {status for _, status, _, _ in answers}
    assert {200, 503} <= statuses <= {200, 502, 503, 504}
    assert all(status == UNAVAILABLE[name] for _, status, name, _ in answers if status != 200)
    assert max(seconds for seconds, _, _, _ in answers) < DEADLINE_S + 1
    assert all(one["abstained"] for _, _, _, told in answers for one in told or ())


def test_another_model_at_the_same_address_is_not_served(pair: Pair, healthy: ModelServer, gateway: Server, digits: Any) -> None:
    healthy.model.scores = lambda rows: pair.model.predict(rows)[:, ::-1].copy()
    healthy.die()
    until(lambda: not ready(gateway))  # nobody asked anything
    healthy.start()
    time.sleep(3)
    assert code(gateway.ask(digits[0][:1].tolist())) == "classifier_unavailable"
    assert "it is another model" in gateway.log.read_text()


def test_another_version_is_not_served_from_its_first_answer_on(healthy: ModelServer, gateway: Server, digits: Any) -> None:
    healthy.model.version = "2"
    assert code(gateway.ask(digits[0][:1].tolist())) == "classifier_failed"
    assert code(gateway.ask(digits[0][:1].tolist())) == "classifier_unavailable"


def test_metrics_and_the_log_tell_of_calls_and_of_the_circuit(healthy: ModelServer, gateway: Server, digits: Any) -> None:
    called = 'hauberk_remote_calls_total{outcome="ok"}'
    before = gateway.metric(called)
    gateway.ask(digits[0][:1].tolist())
    assert gateway.metric(called) > before
    healthy.fault = "nan"
    until(lambda: gateway.ask(digits[0][:1].tolist()).status_code == 503)
    healthy.fault = None
    until(lambda: gateway.metric(OPEN) == 0)
    log = gateway.log.read_text()
    assert "the classifier's server is not asked any more" in log
    assert "the classifier's server answers as ever: ready again" in log
    assert "Traceback" not in log


def test_a_start_against_another_model_ends_with_one_sentence(pair: Pair, tmp_path: Path, key: str) -> None:
    other = Model(lambda rows: pair.model.predict(rows)[:, ::-1].copy(), SHAPE, name="digits")
    with served(other) as server:
        started = start(tmp_path, HAUBERK_BUNDLE=str(pair.remote.directory), HAUBERK_SECRET=key, HAUBERK_REMOTE=server.address())
        try:
            started.process.wait(90)
        finally:
            end(started)
    log = started.log.read_text()
    assert "it is another model" in log
    assert "Traceback" not in log


def test_a_start_waits_for_a_server_that_comes_later_at_the_address_of_the_deployment_and_with_its_token(
    pair: Pair, tmp_path: Path, key: str, digits: Any
) -> None:
    (tmp_path / "token").write_text("of the deployment\n".replace(" ", "-"))
    server = ModelServer(Model(pair.model.predict, SHAPE, name="digits-production"), token="of-the-deployment").start()  # noqa: S106
    server.die()
    settings: dict[str, Any] = {"HAUBERK_BUNDLE": str(pair.remote.directory), "HAUBERK_SECRET": key}
    settings |= {"HAUBERK_REMOTE": server.address(), "HAUBERK_REMOTE_TOKEN_FILE": str(tmp_path / "token")}
    started = start(tmp_path / "gateway", **settings)
    try:
        until(lambda: "waiting for the bundle's classifier: cannot reach" in started.log.read_text(), 90)
        server.start()
        wait_until_ready(started)
        assert started.ask(digits[0][:1].tolist()).status_code == 200
        assert "of-the-deployment" not in started.log.read_text()
    finally:
        end(started)
        server.die()


def test_a_start_does_not_wait_for_ever(pair: Pair, tmp_path: Path, key: str) -> None:
    settings: dict[str, Any] = {"HAUBERK_BUNDLE": str(pair.remote.directory), "HAUBERK_SECRET": key, "HAUBERK_REMOTE_WAIT_S": "1"}
    started = start(tmp_path, HAUBERK_REMOTE="v2://127.0.0.1:9/digits", **settings)
    try:
        started.process.wait(90)
    finally:
        end(started)
    assert "cannot reach v2://127.0.0.1:9/digits" in started.log.read_text()
