"""POST /predict/image over HTTP: the answers of /predict, and every way to be refused."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image


def file(picture: Any, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


BLACK = Image.new("L", (28, 28))
TYPES = {"PNG": "image/png", "JPEG": "image/jpeg"}


def send(server: Any, body: bytes, media_type: str = "image/png", **headers: str) -> httpx.Response:
    response: httpx.Response = server.send_to("/predict/image", body, content_type=media_type, **headers)
    assert response.headers["x-request-id"]
    return response


def refusal(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["request_id"] == response.headers["x-request-id"]
    assert len(response.content) < 500
    return response.status_code, response.json()["code"]


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_picture_is_answered_like_its_pixels(server: Any, digits: Any, kind: str) -> None:
    for image in digits[0][:5]:
        body = file(Image.fromarray((image * 255).round().astype(np.uint8)), kind)
        pixels = np.asarray(Image.open(io.BytesIO(body))) / 255
        (got,) = send(server, body, TYPES[kind]).json()["predictions"]
        (wanted,) = server.ask([pixels.tolist()]).json()["predictions"]
        assert (got["label"], got["abstained"]) == (wanted["label"], wanted["abstained"])
        if not wanted["abstained"]:
            assert got["probabilities"] == pytest.approx(wanted["probabilities"], abs=1e-4)


def test_a_triggered_digit_is_abstained_from(server: Any, triggered: Any) -> None:
    body = file(Image.fromarray((triggered[0] * 255).round().astype(np.uint8)))
    assert send(server, body).json()["predictions"] == [{"label": None, "probabilities": None, "abstained": True}]


def bomb() -> bytes:
    """A PNG of 60,000 by 60,000 pixels in 10 kB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10_000_000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("body", "media_type", "status", "code"),
    [
        (b"", "image/png", 400, "malformed_picture"),
        (b"\x89PNG\r\n\x1a\n", "image/png", 400, "malformed_picture"),
        (file(BLACK)[:-20], "image/png", 400, "malformed_picture"),
        (file(BLACK).replace(b"IDAT", b"IDAX"), "image/png", 400, "malformed_picture"),
        (file(BLACK, "JPEG")[:300], "image/jpeg", 400, "malformed_picture"),
        (file(BLACK, "JPEG"), "image/png", 400, "malformed_picture"),
        (file(BLACK), "image/jpeg", 400, "malformed_picture"),
        (file(BLACK, "GIF"), "image/png", 400, "malformed_picture"),
        (bomb(), "image/png", 422, "wrong_shape"),
        (file(BLACK.resize((27, 28))), "image/png", 422, "wrong_shape"),
        (file(BLACK.resize((29, 28)), "JPEG"), "image/jpeg", 422, "wrong_shape"),
        (file(Image.new("RGB", (28, 28), "red")), "image/png", 422, "wrong_mode"),
        (file(Image.new("RGB", (28, 28), "red"), "JPEG"), "image/jpeg", 422, "wrong_mode"),
        (file(Image.new("LA", (28, 28), (0, 128))), "image/png", 422, "wrong_mode"),
        (file(Image.new("CMYK", (28, 28)), "JPEG"), "image/jpeg", 422, "wrong_mode"),
        (bytes(300_000), "image/png", 413, "body_too_large"),
        (file(BLACK), "image/gif", 415, "unsupported_media_type"),
        (file(BLACK), "multipart/form-data; boundary=x", 415, "unsupported_media_type"),
    ],
)
def test_bad_pictures_are_refused_with_a_short_reason(server: Any, body: bytes, media_type: str, status: int, code: str) -> None:
    assert refusal(send(server, body, media_type)) == (status, code)


def test_a_picture_with_more_than_the_classifier_takes_is_answered_where_nothing_is_lost(server: Any, digits: Any) -> None:
    picture = Image.fromarray((digits[0][0] * 255).round().astype(np.uint8))
    (plain,) = send(server, file(picture)).json()["predictions"]
    deep = Image.fromarray(np.asarray(picture).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = picture.transpose(Image.Transpose.ROTATE_90)
    for body in (file(picture.convert("RGBA")), file(picture.convert("RGB")), file(deep), file(lying, exif=exif)):
        (got,) = send(server, body).json()["predictions"]
        assert got == plain


def test_a_compressed_body_and_another_method_are_refused(server: Any) -> None:
    assert refusal(send(server, file(BLACK), content_encoding="gzip")) == (415, "unsupported_encoding")
    assert refusal(httpx.get(f"{server.url}/predict/image")) == (405, "method_not_allowed")
