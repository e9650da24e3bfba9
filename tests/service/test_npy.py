"""POST /predict/npy over HTTP: the answers of /predict, and every way to be refused."""

from __future__ import annotations

import io
from typing import Any

import httpx
import numpy as np
import pytest

GOOD = np.zeros((1, 28, 28), np.float32)


def file(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def send(server: Any, body: bytes, media_type: str = "application/x-npy", **headers: str) -> httpx.Response:
    response: httpx.Response = server.send_to("/predict/npy", body, content_type=media_type, **headers)
    assert response.headers["x-request-id"]
    return response


def refusal(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["request_id"] == response.headers["x-request-id"]
    return response.status_code, response.json()["code"]


def test_every_way_to_write_the_same_images_gets_the_same_answer(server: Any, digits: Any) -> None:
    images = digits[0][:8]
    expected = server.ask(images.tolist()).json()["predictions"]
    as_bytes = (images * 255).round().astype(np.uint8)
    for array in (images, images[..., None], as_bytes, images.astype(">f4"), np.asfortranarray(images)):
        predictions = send(server, file(array)).json()["predictions"]
        for got, wanted in zip(predictions, expected, strict=True):
            assert (got["label"], got["abstained"]) == (wanted["label"], wanted["abstained"])
            assert got["probabilities"] == pytest.approx(wanted["probabilities"], abs=1e-4)


def test_a_triggered_digit_is_abstained_from(server: Any, triggered: Any) -> None:
    predictions = send(server, file(triggered[:20])).json()["predictions"]
    assert predictions == [{"label": None, "probabilities": None, "abstained": True}] * 20


def test_the_largest_request_is_taken(server: Any) -> None:
    response = send(server, file(np.random.default_rng(0).random((64, 28, 28), np.float32)))
    assert (response.status_code, len(response.json()["predictions"])) == (200, 64)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "malformed_npy"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", 400, "malformed_npy"),
        (file(GOOD)[:-1], 400, "malformed_npy"),
        (file(GOOD) + b"\0", 400, "malformed_npy"),
        (file(GOOD).replace(b"(1, 28, 28)", b"(9, 28, 28)"), 400, "malformed_npy"),
        (file(GOOD).replace(b"(1, 28, 28)", b"(10**9, 28)"), 400, "malformed_npy"),
        (file(np.array([{"a": 1}], object)), 422, "wrong_datatype"),
        (file(GOOD.astype(np.float64)), 422, "wrong_datatype"),
        (file(GOOD.astype("f4,u1")), 422, "wrong_datatype"),
        (file(GOOD[:, :27]), 422, "wrong_shape"),
        (file(GOOD[0]), 422, "wrong_shape"),
        (file(GOOD).replace(b"(1, 28, 28), }" + b" " * 20, b"(999999999999999, 999999999999999)}"), 422, "wrong_shape"),
        (file(GOOD[:0]), 422, "no_images"),
        (file(np.zeros((65, 28, 28), np.uint8)), 422, "too_many_images"),
        (file(GOOD + np.float32(np.nan)), 422, "out_of_range"),
        (file(GOOD + np.float32(np.inf)), 422, "out_of_range"),
        (file(GOOD - 1), 422, "out_of_range"),
        (file(GOOD + 255), 422, "out_of_range"),
        (b" " * 3_000_000, 413, "body_too_large"),
    ],
)
def test_bad_files_are_refused_with_a_short_reason(server: Any, body: bytes, status: int, code: str) -> None:
    response = send(server, body)
    assert refusal(response) == (status, code)
    assert len(response.content) < 500


def test_what_is_declared_as_something_else_is_refused(server: Any) -> None:
    for media_type in ("application/json", "application/octet-stream", "application/vnd.bentoml+pickle"):
        response = send(server, file(GOOD), media_type)
        assert refusal(response) == (415, "unsupported_media_type")
        assert response.headers["accept"] == "application/x-npy"
    assert refusal(send(server, file(GOOD), content_encoding="gzip")) == (415, "unsupported_encoding")


def test_another_method_is_refused(server: Any) -> None:
    assert refusal(httpx.get(f"{server.url}/predict/npy")) == (405, "method_not_allowed")


def test_requests_are_counted_under_their_route(server: Any) -> None:
    name = 'hauberk_requests_total{code="200",route="/predict/npy"}'
    send(server, file(GOOD))
    before = server.metric(name)
    send(server, file(GOOD))
    assert server.metric(name) == before + 1
