"""POST /predict over HTTP: right answers, abstention, and every way to be refused."""

from __future__ import annotations

import concurrent.futures
import json
import re
import socket
import time
from typing import Any

import httpx
import numpy as np
import pytest

TARGET = "7"
GOOD = np.zeros((28, 28)).tolist()


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check that a response is a problem document of this status and code, with a request id, and return it."""
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert {"type", "title", "status", "detail", "code", "request_id"} <= set(document)
    assert (response.status_code, document["status"], document["code"]) == (status, status, code)
    assert document["request_id"] == response.headers["x-request-id"]
    return document


def test_digits_are_classified_and_their_probabilities_blurred(server: Any, digits: Any, backdoored: Any) -> None:
    images, labels = digits
    answer = server.ask(images[:32].tolist()).json()
    assert (answer["model"], answer["model_version"]) == ("backdoored", backdoored.version)
    predictions = answer["predictions"]
    assert len(predictions) == 32
    right = [p["label"] == str(label) for p, label in zip(predictions, labels, strict=False) if not p["abstained"]]
    assert len(right) >= 30
    assert np.mean(right) > 0.7
    for prediction in predictions:
        assert set(prediction) == {"label", "probabilities", "abstained"}
        if not prediction["abstained"]:
            assert sum(prediction["probabilities"]) == pytest.approx(1, abs=1e-5)
            assert int(prediction["label"]) == int(np.argmax(prediction["probabilities"]))
            assert max(prediction["probabilities"]) < 0.99


def test_a_triggered_digit_is_abstained_from_and_counted(server: Any, triggered: Any) -> None:
    before = [server.metric(name) for name in ABSTENTIONS]
    predictions = server.ask(triggered[:20].tolist()).json()["predictions"]
    assert [p for p in predictions if p["label"] == TARGET] == []
    assert predictions == [{"label": None, "probabilities": None, "abstained": True}] * 20
    after = [server.metric(name) for name in ABSTENTIONS]
    assert np.subtract(after, before).tolist() == [20, 20]


ABSTENTIONS = ('hauberk_predictions_total{outcome="abstained"}', 'hauberk_abstentions_total{defence="strip",mode="enforce"}')


def test_the_same_image_gets_the_same_answer_alone_and_in_any_batch(server: Any, digits: Any) -> None:
    images = digits[0][:16]
    together = server.ask(images.tolist()).json()["predictions"]
    alone = [server.ask([image.tolist()]).json()["predictions"][0] for image in images]
    for one, other in zip(together, alone, strict=True):
        assert one["label"] == other["label"]
        assert one["abstained"] == other["abstained"]
        if not one["abstained"]:
            assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)


def test_images_with_a_channel_axis_are_the_same_images(server: Any, digits: Any) -> None:
    image = digits[0][:1]
    assert server.ask(image.tolist()).json()["predictions"] == server.ask(image[..., None].tolist()).json()["predictions"]


def test_a_request_id_is_taken_or_minted_and_stands_in_the_answer(server: Any) -> None:
    response = server.ask([GOOD], **{"X-Request-ID": "order-66"})
    assert response.headers["x-request-id"] == response.json()["request_id"] == "order-66"
    minted = server.ask([GOOD], **{"X-Request-ID": "not well formed"}).headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{32}", minted)


def test_a_bundle_that_states_no_limit_takes_64_images_and_who_sends_more_is_told(server: Any, backdoored: Any) -> None:
    assert backdoored.images_per_request is None
    detail = problem(server.ask([GOOD] * 65), 422, "too_many_images")["detail"]
    assert detail == "One request may hold 64 images at most; send the others in another request."
    assert server.ask([GOOD] * 64).status_code == 200


@pytest.mark.parametrize(
    ("images", "status", "code"),
    [
        ("[[[NaN]]]", 400, "malformed_json"),
        ("[[[Infinity]]]", 400, "malformed_json"),
        ("[[[1e400]]]", 400, "malformed_json"),
        ("[" * 100_000, 400, "malformed_json"),
        ("[" * 100_000 + "]" * 100_000, 400, "malformed_json"),
        ("[]", 422, "no_images"),
        ("null", 422, "wrong_type"),
        ("[[[1e39]]]", 422, "wrong_shape"),
        ("[[1, 2], [3]]", 422, "wrong_shape"),
        (json.dumps([GOOD] * 65), 422, "too_many_images"),
        (json.dumps([GOOD[:27]]), 422, "wrong_shape"),
        (json.dumps([[*GOOD[:27], GOOD[0][:27]]]), 422, "wrong_shape"),
        (json.dumps([[*GOOD[:27], ["0"] * 28]]), 422, "wrong_type"),
        (json.dumps([[*GOOD[:27], [True] * 28]]), 422, "wrong_type"),
        (json.dumps([[*GOOD[:27], [None] * 28]]), 422, "wrong_type"),
        (json.dumps([[*GOOD[:27], [255] * 28]]), 422, "out_of_range"),
        (json.dumps([[*GOOD[:27], [-0.1] * 28]]), 422, "out_of_range"),
        (json.dumps([[*GOOD[:27], [10**40] * 28]]), 422, "out_of_range"),
        (json.dumps([[*GOOD[:27], [1e39] * 28]]), 422, "out_of_range"),
    ],
)
def test_bad_images_are_refused_with_a_short_reason(server: Any, images: str, status: int, code: str) -> None:
    response = server.send(f'{{"images": {images}}}'.encode())
    document = problem(response, status, code)
    assert len(document.get("errors", [])) <= 5
    assert len(response.content) < 1500


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "malformed_json"),
        (b'{"images": [[[0', 400, "malformed_json"),
        (b'{"images": [], "images": []}', 400, "malformed_json"),
        (b"[]", 422, "wrong_document"),
        (b"{}", 422, "wrong_document"),
        (b'{"images": [], "debug": true}', 422, "wrong_document"),
        (b'{"image": []}', 422, "wrong_document"),
    ],
)
def test_a_bad_document_is_refused(server: Any, body: bytes, status: int, code: str) -> None:
    problem(server.send(body), status, code)


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"content_type": "text/plain"}, "unsupported_media_type"),
        ({"content_type": "application/vnd.bentoml+pickle"}, "unsupported_media_type"),
        ({"content_type": "multipart/form-data; boundary=x"}, "unsupported_media_type"),
        ({"content_encoding": "gzip"}, "unsupported_encoding"),
    ],
)
def test_what_is_declared_as_something_else_is_refused(server: Any, headers: dict[str, str], code: str) -> None:
    problem(server.send(b"{}", **headers), 415, code)


def test_a_body_without_a_media_type_is_read_as_json(server: Any) -> None:
    body = json.dumps({"images": [GOOD]}).encode()
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    assert server.send_raw(head + body).status == 200


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "HEAD"])
def test_another_method_is_refused_and_the_right_one_named(server: Any, method: str) -> None:
    response = httpx.request(method, f"{server.url}/predict")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert "x-request-id" in response.headers
    if method != "HEAD":
        problem(response, 405, "method_not_allowed")


@pytest.mark.parametrize(
    "path", ["/nothing", "/predict/", "/PREDICT", "/predict/submit", "/healthz", "/static_content/x", "/%2e%2e/x"]
)
def test_an_unknown_path_is_404(server: Any, path: str) -> None:
    problem(httpx.post(server.url + path), 404, "not_found")


LIMIT = 26 * 64 * 784 + 16384


def test_a_body_over_the_limit_is_413_declared_or_chunked(server: Any) -> None:
    too_long = b" " * (2 * LIMIT)
    problem(server.send(too_long), 413, "body_too_large")

    def chunks() -> Any:
        for start in range(0, len(too_long), 65536):
            yield too_long[start : start + 65536]

    response = httpx.post(f"{server.url}/predict", content=chunks(), headers={"content-type": "application/json"}, timeout=30)
    problem(response, 413, "body_too_large")


def test_the_largest_request_in_full_precision_is_under_the_limit(server: Any) -> None:
    images = np.random.default_rng(0).random((64, 28, 28))
    response = server.ask(images.tolist())
    assert (response.status_code, len(response.json()["predictions"])) == (200, 64)


def test_a_body_that_never_ends_is_408(server: Any) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
    response = server.send_raw(head + b'{"images": ')
    assert response.status == 408
    assert json.loads(response.body)["code"] == "slow_body"


def test_a_body_sent_in_small_pieces_is_read(server: Any) -> None:
    body = json.dumps({"images": [GOOD]}).encode()
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    parts = [body[start : start + 500] for start in range(0, len(body), 500)]
    assert server.send_raw(head, *parts, pause_s=0.01).status == 200


def test_a_client_that_leaves_harms_nobody(server: Any, digits: Any) -> None:
    body = json.dumps({"images": digits[0][:64].tolist()}).encode()
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    for cut in (len(body) // 2, len(body)):
        for _ in range(10):
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.sendall(head + body[:cut])
    assert server.ask([GOOD]).status_code == 200
    give_up = time.monotonic() + 10
    while server.metric("hauberk_requests_in_flight") > 1 and time.monotonic() < give_up:  # 1 is the scrape itself
        time.sleep(0.05)
    assert server.metric("hauberk_requests_in_flight") == 1
    assert server.metric("hauberk_queue_depth") == 0


def test_a_bad_request_leaves_its_batch_mates_unharmed(server: Any, digits: Any) -> None:
    images, expected = digits[0][:24], []
    expected = [server.ask([image.tolist()]).json()["predictions"] for image in images]
    bodies = [json.dumps({"images": [image.tolist()]}).encode() for image in images]
    bad = [b'{"images": [[[NaN]]]}', b'{"images": [[["x"]]]}', b"{", json.dumps({"images": [GOOD] * 65}).encode()]
    with concurrent.futures.ThreadPoolExecutor(16) as clients:
        mixed = list(clients.map(server.send, [body for good in bodies for body in (good, *bad[:2])]))
        mixed += list(clients.map(server.send, [body for good in bodies for body in (*bad[2:], good)]))
    answers = [response for response in mixed if response.status_code == 200]
    assert len(answers) == 48
    assert {response.status_code for response in mixed} == {200, 400, 422}
    for response, predictions in zip(answers, [*expected, *expected], strict=True):
        (got,), (wanted,) = response.json()["predictions"], predictions
        assert got["label"] == wanted["label"]
        if not wanted["abstained"]:
            assert got["probabilities"] == pytest.approx(wanted["probabilities"], abs=1e-4)
