"""A gateway over HTTP as a classifier, against a real server with scripted answers."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from attacks.attack import BudgetSpent
from attacks.gateway.http_client import retry_after_s
from attacks.gateway.remote import GatewayClassifier, GatewayGone, Stopped
from models.errors import InvalidInput
from tests.fakes import noise

SHAPE = (4, 3, 1)
LABELS = ("cat", "dog", "owl")
IMAGES_AT_MOST = 8

Answer = tuple[int, bytes, dict[str, str]]


def described(**changes: Any) -> dict[str, Any]:
    """What `/` of a gateway says."""
    facts: dict[str, Any] = {
        "model": "animals",
        "model_version": "0123456789ab",
        "input_shape": list(SHAPE),
        "classes": len(LABELS),
    }
    return facts | {"defences": [{"name": "strip", "mode": "enforce"}]} | changes


def documented() -> dict[str, Any]:
    """The parts of `/docs.json` that matter."""
    batches = [{"type": "array", "maxItems": IMAGES_AT_MOST}] * 2
    schemas = {
        "Images": {"properties": {"images": {"oneOf": batches}}},
        "Prediction": {"properties": {"label": {"enum": [*LABELS, None]}}},
    }
    return {"components": {"schemas": schemas}}


def as_json(document: Any, status: int = 200, **headers: str) -> Answer:
    return status, json.dumps(document).encode(), {name.replace("_", "-"): value for name, value in headers.items()}


def predictions(images: np.ndarray) -> Answer:
    """Abstains from images whose first pixel is black; else the shares of the first three pixels."""
    rows: list[dict[str, Any]] = []
    for image in images:
        pixels = image.ravel()[:3].astype(np.float64)
        if pixels[0] == 0:
            rows.append({"label": None, "probabilities": None, "abstained": True})
        else:
            shares = (pixels / pixels.sum()).tolist()
            rows.append({"label": LABELS[int(np.argmax(shares))], "probabilities": shares, "abstained": False})
    return as_json({"model": "animals", "predictions": rows})


@dataclass
class Gateway:
    """A server; `predict` may be replaced by something that misbehaves."""

    facts: Answer = field(default_factory=lambda: as_json(described()))
    docs: Answer = field(default_factory=lambda: as_json(documented()))
    predict: Callable[[np.ndarray], Answer] = predictions
    batches: list[int] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    connections: set[Any] = field(default_factory=set)
    url: str = ""


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    state = Gateway()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.respond({"/": state.facts, "/docs.json": state.docs}.get(self.path, (404, b"", {})))

        def do_POST(self) -> None:
            assert self.path == "/predict/npy"
            assert self.headers["content-type"] == "application/x-npy"
            images = np.load(io.BytesIO(self.rfile.read(int(self.headers["content-length"]))), allow_pickle=False)
            state.batches.append(len(images))
            state.keys.append(self.headers["authorization"])
            state.connections.add(self.client_address)
            self.respond(state.predict(images))

        def respond(self, answer: Answer) -> None:
            status, body, headers = answer
            self.send_response(status)
            for name, value in ({"content-length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            try:
                self.wfile.write(body)
            except ConnectionError:  # a client that has read enough hangs up
                self.close_connection = True

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


def some(n: int) -> np.ndarray:
    return noise(n, SHAPE, 5) * np.float32(0.9) + np.float32(0.1)


def once(first: Answer) -> Callable[[np.ndarray], Answer]:
    """Answers so the first time, and well from then on."""
    waiting = [first]
    return lambda images: waiting.pop() if waiting else predictions(images)


def test_it_reads_the_gateways_own_description(gateway: Gateway) -> None:
    with GatewayClassifier(gateway.url + "/") as remote:
        assert (remote.input_shape, remote.labels) == (SHAPE, LABELS)
        served = remote.served
        assert (served.model, served.version, served.images_at_most) == ("animals", "0123456789ab", IMAGES_AT_MOST)
        assert served.defences == (("strip", "enforce"),)


def test_probabilities_are_those_of_the_answer_and_refusals_are_rows_of_zeros(gateway: Gateway) -> None:
    images = some(5)
    images[2, 0, 0] = 0
    with GatewayClassifier(gateway.url) as remote:
        answers = remote.predict(images)
        first = images.reshape(5, -1)[:, :3]
        expected = first / first.sum(axis=1, keepdims=True)
        expected[2] = 0
        np.testing.assert_allclose(answers, expected, rtol=1e-5)
        assert answers.dtype == np.float32
        assert (remote.traffic.queries, remote.traffic.refused) == (5, 1)
        assert len(remote.traffic.latency_s) == 1


def test_batches_are_cut_to_the_size_of_a_request_and_share_a_connection(gateway: Gateway) -> None:
    with GatewayClassifier(gateway.url, api_key="a-key") as remote:
        assert remote.predict(some(19)).shape == (19, 3)
        assert remote.predict(some(0)).shape == (0, 3)
    assert gateway.batches == [8, 8, 3]
    assert len(gateway.connections) == 1
    assert set(gateway.keys) == {"Bearer a-key"}


def test_the_budget_is_kept_exactly_and_earlier_answers_are_handed_over(gateway: Gateway) -> None:
    images = some(30)
    with GatewayClassifier(gateway.url, queries_at_most=21) as remote:
        remote.predict(images[:2])
        with pytest.raises(BudgetSpent, match="as many images have been sent as may be: 21") as end:
            remote.predict(images)
        assert len(end.value.answered) == 19
        assert remote.traffic.queries == sum(gateway.batches) == 21
        remote.queries_at_most = 24
        assert remote.predict(images[:3]).shape == (3, 3)
        assert remote.ended is None


@pytest.mark.parametrize("status", [429, 503])
def test_it_waits_as_long_as_the_gateway_asks_for(gateway: Gateway, status: int) -> None:
    gateway.predict = once(as_json({}, status, retry_after="1"))
    with GatewayClassifier(gateway.url) as remote:
        started = time.monotonic()
        assert remote.predict(some(3)).all()
        assert 1.0 <= time.monotonic() - started < 3
        traffic = remote.traffic
        assert (traffic.queries, traffic.requests, traffic.turned_away, traffic.waited_s) == (3, 2, 1, 1.0)


def test_a_wait_beyond_the_patience_is_not_begun(gateway: Gateway) -> None:
    gateway.predict = lambda images: as_json({}, 503, retry_after="3600")
    with GatewayClassifier(gateway.url, patience_s=10) as remote:
        started = time.monotonic()
        with pytest.raises(GatewayGone, match=r"is busy \(status 503\) and has to be waited for 3600 s"):
            remote.predict(some(3))
        assert time.monotonic() - started < 5
        assert isinstance(remote.ended, InvalidInput)


def test_503_for_ever_ends_with_the_patience_and_is_not_asked_again(gateway: Gateway) -> None:
    gateway.predict = lambda images: as_json({}, 503)
    with GatewayClassifier(gateway.url, patience_s=1.5) as remote:
        for _ in range(2):
            with pytest.raises(GatewayGone, match=r"patience of 1\.5 s"):
                remote.predict(some(3))
        assert len(gateway.batches) == 2
        assert remote.traffic.queries == 0


def test_a_body_too_large_is_sent_again_in_parts(gateway: Gateway) -> None:
    gateway.predict = lambda images: predictions(images) if len(images) <= 3 else as_json({}, 413)
    with GatewayClassifier(gateway.url) as remote:
        assert remote.predict(some(8)).all()
        assert remote.traffic.queries == 8
    assert gateway.batches == [8, 4, 2, 2, 2, 2]


def test_what_ran_into_the_deadline_counts_as_spent(gateway: Gateway) -> None:
    gateway.predict = once(as_json({}, 504, retry_after="0"))
    with GatewayClassifier(gateway.url) as remote:
        assert remote.predict(some(4)).all()
        assert remote.traffic.queries == 8


MISBEHAVIOUR: dict[str, tuple[Callable[[np.ndarray], Answer], str]] = {
    "garbage": (lambda images: (200, b"\x00garbage", {}), "expected predictions from"),
    "another document": (lambda images: as_json([1, 2]), "expected predictions from"),
    "too few": (lambda images: predictions(images[1:]), "expected 3 predictions of 3 classes"),
    "texts": (
        lambda images: as_json({"predictions": [{"abstained": False, "probabilities": ["a", "b", "c"]}] * len(images)}),
        "expected predictions",
    ),
    "not shares": (
        lambda images: as_json({"predictions": [{"abstained": False, "probabilities": [2.0, -1.0, 0.0]}] * len(images)}),
        "expected 3 predictions",
    ),
    "a redirect": (lambda images: (307, b"", {"location": "/elsewhere"}), r"does not take the images \(status 307\)"),
    "no key": (lambda images: as_json({}, 401), "asks for an API key it knows"),
    "an error of its own": (lambda images: as_json({}, 500), r"does not take the images \(status 500\)"),
}


@pytest.mark.parametrize("what", MISBEHAVIOUR)
def test_an_answer_that_is_none_ends_it_in_one_sentence(gateway: Gateway, what: str) -> None:
    gateway.predict, sentence = MISBEHAVIOUR[what]
    with GatewayClassifier(gateway.url) as remote, pytest.raises(GatewayGone, match=sentence) as end:
        remote.predict(some(3))
    assert "\n" not in str(end.value)
    assert end.value.answered.shape == (0, 3)


def test_an_endless_answer_is_not_read_to_its_end(gateway: Gateway) -> None:
    gateway.predict = lambda images: (200, b" " * (8 << 20), {})
    with GatewayClassifier(gateway.url) as remote, pytest.raises(GatewayGone, match="an answer of more than"):
        remote.predict(some(3))


def test_a_gateway_that_goes_away_leaves_its_earlier_answers(gateway: Gateway) -> None:
    def hang_up(images: np.ndarray) -> Answer:
        if len(gateway.batches) == 1:
            return predictions(images)
        return 200, b"", {"content-length": "100", "connection": "close"}

    gateway.predict = hang_up
    with GatewayClassifier(gateway.url) as remote, pytest.raises(GatewayGone, match="stopped answering") as end:
        remote.predict(some(12))
    assert len(end.value.answered) == 8


def test_it_stops_when_told_to_even_while_it_waits(gateway: Gateway) -> None:
    gateway.predict = lambda images: as_json({}, 503, retry_after="60")
    with GatewayClassifier(gateway.url) as remote:
        timer = threading.Timer(0.3, remote.stop)
        timer.start()
        started = time.monotonic()
        with pytest.raises(Stopped):
            remote.predict(some(3))
        assert time.monotonic() - started < 5
        timer.join()


DESCRIPTIONS: dict[str, tuple[dict[str, Answer], str]] = {
    "a page": ({"facts": (200, b"<html>", {})}, "no JSON at /"),
    "another service": ({"facts": as_json({"hello": "world"})}, "its description is of another form"),
    "no such document": ({"docs": as_json({}, 404)}, "status 404 for /docs.json"),
    "classes that are not named": ({"facts": as_json(described(classes=4))}, "its description contradicts itself"),
    "a list": ({"facts": as_json([])}, "its description is of another form"),
    "a redirect": ({"facts": (302, b"", {"location": "http://127.0.0.1:1/"})}, "status 302 for /"),
}


@pytest.mark.parametrize("what", DESCRIPTIONS)
def test_what_is_no_gateway_is_refused_in_one_sentence(gateway: Gateway, what: str) -> None:
    changes, sentence = DESCRIPTIONS[what]
    for name, answer in changes.items():
        setattr(gateway, name, answer)
    with pytest.raises(InvalidInput, match=f"expected a Hauberk gateway at {gateway.url}, got something else .*{sentence}"):
        GatewayClassifier(gateway.url)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("127.0.0.1:3000", "begins with http:// or https://"),
        ("ftp://127.0.0.1", "begins with http:// or https://"),
        ("file:///etc/passwd", "begins with http:// or https://"),
        ("http://user:secret@127.0.0.1", "host, port and path only"),
        ("http://127.0.0.1/?key=1", "host, port and path only"),
        ("http://127.0.0.1:port", "expected the URL of a gateway"),
        ("http://127.0.0.1:9", "cannot reach http://127.0.0.1:9"),
    ],
)
def test_a_url_that_leads_nowhere_is_refused_in_one_sentence(url: str, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence) as refusal:
        GatewayClassifier(url)
    assert "secret" not in str(refusal.value)


def test_a_key_that_would_break_a_header_is_refused_without_being_shown(gateway: Gateway) -> None:
    with pytest.raises(InvalidInput, match="printable ASCII") as refusal:
        GatewayClassifier(gateway.url, api_key="s3cret\r\nx: y")
    assert "s3cret" not in str(refusal.value)


def test_retry_after_is_a_number_or_a_date() -> None:
    assert retry_after_s("17") == 17
    assert retry_after_s(None) is None
    assert retry_after_s("soon") is None
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 28 <= (retry_after_s(soon) or 0) <= 30
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0
