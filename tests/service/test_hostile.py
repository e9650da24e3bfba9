"""Bad input of every kind on every route: refused in a word, at bounded cost, while neighbours get their answers."""

from __future__ import annotations

import concurrent.futures
import io
import json
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.service.conftest import Server

INFER = "/v2/models/backdoored/infer"
TYPES = {
    "/predict": "application/json",
    "/predict/npy": "application/x-npy",
    "/predict/image": "image/png",
    INFER: "application/json",
}
ROUTES = list(TYPES)
GOOD = np.zeros((28, 28)).tolist()
LIMIT = 26 * 64 * 784 + 16384
DEADLINE_S = 5  # of the session's server


class Bad(NamedTuple):
    """A body that has to be refused with this status."""

    name: str
    path: str
    body: bytes
    status: int


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(side: int, data: bytes, *more: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def images(pixel: str) -> bytes:
    """A JSON document whose last pixel is this text."""
    return json.dumps({"images": [GOOD]}).encode()[:-6].rsplit(b",", 1)[0] + b"," + pixel.encode() + b"]]]}"


def inference(pixel: str = "0", shape: str = "[1,28,28]", more: str = "") -> bytes:
    data = "0," * 783 + pixel
    return f'{{"inputs":[{{"name":"images","datatype":"FP32","shape":{shape},"data":[{data}]}}]{more}}}'.encode()


def bombs() -> Iterator[Bad]:
    """Small bodies that would be large or slow if they were believed."""
    zeros, deep = bytes(100_000_000), 600_000
    yield Bad("a picture of 3.6 gigapixels", "/predict/image", png(60_000, zeros), 422)
    yield Bad("a text that inflates", "/predict/image", png(28, b"", chunk(b"zTXt", b"x\0\0" + zlib.compress(zeros))), 400)
    yield Bad("a profile that inflates", "/predict/image", png(28, b"", chunk(b"iCCP", b"x\0\0" + zlib.compress(zeros))), 400)
    lie = npy(np.zeros((1, 28, 28), np.float32)).replace(b"(1, 28, 28), }" + b" " * 17, b"(" + b"9" * 18 + b", 28, 28), }")
    yield Bad("an array of 3 zettabytes", "/predict/npy", lie, 422)
    yield Bad("an array of many dimensions", "/predict/npy", npy(np.zeros((1,) * 32, np.float32)), 422)
    yield Bad("a tensor of 3 zettabytes", INFER, inference(shape="[1000000000000000000,28,28]"), 422)
    yield Bad("a shape of many dimensions", INFER, inference(shape="[" + "1," * 100_000 + "1]"), 422)
    for path in ("/predict", INFER):
        yield Bad("deep arrays", path, b"[" * deep + b"]" * deep, 400)
        yield Bad("deep objects", path, b'{"a":' * 200_000 + b"0" + b"}" * 200_000, 400)
        yield Bad("many small arrays", path, b'{"images":[' + b"[]," * 400_000 + b"[]]}", 422 if path == "/predict" else 400)
        yield Bad(
            "many keys", path, b"{" + b",".join(b'"%d":0' % i for i in range(100_000)) + b"}", 422 if path == "/predict" else 400
        )
        for unit in (b"{}", b'{"":0}'):
            small = b'{"x":1,"images":[' + b",".join([unit] * (1_200_000 // (len(unit) + 1))) + b"]}"
            yield Bad(f"many times {unit.decode()}", path, small, 422 if path == "/predict" else 400)
        yield Bad("equal keys", path, b"{" + b",".join([b'"a":0'] * 100_000) + b"}", 400)
        yield Bad("long numbers", path, b'{"images":[' + b"9" * 1_200_000 + b"]}", 400)
        yield Bad("one long string", path, b'{"' + b"\\u0041" * 200_000 + b'":0}', 422 if path == "/predict" else 400)


def liars() -> Iterator[Bad]:
    """Ordinary mistakes and lies."""
    zeros = bytes(100_000_000)
    for pixel, status in (
        ("1e400", 400),
        ("NaN", 400),
        ("-Infinity", 400),
        ("1e39", 422),
        ("9" * 400, 400),
        ("null", 422),
        ("true", 422),
    ):
        yield Bad(f"a pixel {pixel[:9]}", "/predict", images(pixel), status)
        yield Bad(f"a pixel {pixel[:9]}", INFER, inference(pixel), status)
    for pixel in ('"0"', "[0]", "{}", "-0.001", "1.001", str(10**40)):
        yield Bad(f"a pixel {pixel[:9]}", "/predict", images(pixel), 422)
        yield Bad(f"a pixel {pixel[:9]}", INFER, inference(pixel), 422)
    for name, text in (("a byte order mark", b"\xef\xbb\xbf"), ("a lone surrogate", b'"\\ud800"'), ("no UTF-8", b'"\xff"')):
        for path in ("/predict", INFER):
            yield Bad(name, path, text + images("0") if text[0] == 0xEF else b'{"images":' + text + b"}", 400)
    yield Bad("UTF-16", "/predict", images("0").decode().encode("utf-16"), 400)
    yield Bad("two documents", "/predict", images("0") * 2, 400)
    yield Bad("a key twice", INFER, inference(more=',"inputs":[]'), 400)
    yield Bad("pickled objects", "/predict/npy", npy(np.array([{"a": print}], object)), 422)
    yield Bad("NaN in binary", "/predict/npy", npy(np.full((1, 28, 28), np.nan, np.float32)), 422)
    yield Bad("a file cut short", "/predict/npy", npy(np.zeros((1, 28, 28), np.float32))[:-4], 400)
    yield Bad("half a picture", "/predict/image", png(28, bytes(29 * 28))[:-30], 400)
    yield Bad("too few pixels", "/predict/image", png(28, bytes(29 * 3)), 400)
    yield Bad("too many pixels", "/predict/image", png(28, zeros), 400)
    yield Bad("a wrong checksum", "/predict/image", png(28, bytes(29 * 28)).replace(b"\x08\0\0\0\0", b"\x08\0\0\0\1", 1), 400)
    yield Bad("another size", "/predict/image", png(29, bytes(30 * 29)), 422)
    yield Bad("no picture", "/predict/image", b"GIF89a" + bytes(1000), 400)


BOMBS, LIARS = tuple(bombs()), tuple(liars())


def send(server: Server, bad: Bad, **headers: str) -> httpx.Response:
    return server.send_to(bad.path, bad.body, content_type=TYPES[bad.path], **headers)


def check_refusal(response: httpx.Response, status: int) -> None:
    assert response.status_code == status
    assert len(response.content) < 1500
    document = response.json()
    if INFER in str(response.url):
        assert list(document) == ["error"]
        assert response.headers["x-request-id"]
    else:
        assert response.headers["content-type"] == "application/problem+json"
        assert document["request_id"] == response.headers["x-request-id"]
        assert len(document.get("errors", ())) <= 5


@pytest.mark.parametrize("bad", BOMBS + LIARS, ids=lambda bad: f"{bad.path} {bad.name}")
def test_every_kind_of_bad_body_is_refused_in_a_word(server: Server, bad: Bad) -> None:
    assert len(bad.body) < LIMIT
    check_refusal(send(server, bad), bad.status)


def test_a_burst_of_bombs_costs_bounded_memory_and_time(server: Server) -> None:
    for bad in BOMBS:  # what the first of a kind loads or sets aside once is no leak
        send(server, bad)
    before, files = server.metric("process_resident_memory_bytes"), server.metric("process_open_fds")
    seconds = server.metric("process_cpu_seconds_total")
    with concurrent.futures.ThreadPoolExecutor(8) as clients:
        responses = list(clients.map(send, [server] * 5 * len(BOMBS), BOMBS * 5))
    assert [response.status_code for response in responses] == [bad.status for bad in BOMBS] * 5
    assert max(response.elapsed.total_seconds() for response in responses) < 10
    assert (server.metric("process_cpu_seconds_total") - seconds) / len(responses) < 0.25
    assert server.metric("process_resident_memory_bytes") - before < 64 << 20
    assert server.metric("process_open_fds") <= files + 8


def test_bad_requests_of_every_kind_leave_the_answers_of_good_ones_as_they_are(server: Server, digits: Any) -> None:
    good = [Bad("good", "/predict/npy", npy(digits[0][i : i + 1]), 200) for i in range(len(BOMBS + LIARS))]
    alone = [send(server, one).json()["predictions"] for one in good]
    mixed = [one for pair in zip(good, BOMBS + LIARS, strict=True) for one in pair]
    with concurrent.futures.ThreadPoolExecutor(16) as clients:
        responses = list(clients.map(send, [server] * len(mixed), mixed))
    assert [response.status_code for response in responses] == [one.status for one in mixed]
    for response, (wanted,) in zip(responses[::2], alone, strict=True):
        (got,) = response.json()["predictions"]
        assert (got["label"], got["abstained"]) == (wanted["label"], wanted["abstained"])
        if not wanted["abstained"]:
            assert got["probabilities"] == pytest.approx(wanted["probabilities"], abs=1e-4)


@pytest.mark.parametrize("path", ROUTES)
def test_a_body_over_the_limit_is_413_as_soon_as_that_is_known(server: Server, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {TYPES[path]}\r\n".encode()
    declared = server.send_raw(head + b"Content-Length: 99999999999\r\n\r\n")  # and not a byte of it
    part = b"%x\r\n%s\r\n" % (LIMIT // 4, b" " * (LIMIT // 4))
    chunked = server.send_raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + part * 5)
    for response in (declared, chunked):
        assert (response.status, response.headers["connection"]) == (413, "close")
        assert response.headers["x-request-id"]


def trickle(server: Server, path: str) -> tuple[int, float]:
    """The answer to a client that sends a byte now and then, and how long it took."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port), timeout=0.5) as connection:
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {TYPES[path]}\r\nContent-Length: 1000\r\n\r\n".encode()
        )
        while time.monotonic() - began < 4 * DEADLINE_S:
            connection.sendall(b"[")
            try:
                return int(connection.recv(4096).split()[1]), time.monotonic() - began
            except TimeoutError:
                continue
    raise AssertionError("no answer")


def test_senders_who_trickle_are_408_in_time_on_every_route_and_hold_nobody_up(server: Server) -> None:
    with concurrent.futures.ThreadPoolExecutor(32) as clients:
        slow = [clients.submit(trickle, server, path) for path in ROUTES * 8]
        beside = [server.ask([GOOD]) for _ in range(20)]
        ends = [one.result() for one in slow]
    assert {response.status_code for response in beside} == {200}
    assert max(response.elapsed.total_seconds() for response in beside) < DEADLINE_S
    assert {status for status, _ in ends} == {408}
    assert max(seconds for _, seconds in ends) < DEADLINE_S + 5


def test_numbers_at_the_edge_of_what_a_double_can_say_are_numbers(server: Server) -> None:
    for pixel in ("-0", "-0.0", "1e-400", "-1e-400", "1E0", "0." + "3" * 2000, "1" + "." + "0" * 500):
        assert send(server, Bad("", "/predict", images(pixel), 200)).status_code == 200
        assert send(server, Bad("", INFER, inference(pixel), 200)).status_code == 200


def test_a_picture_with_all_that_is_no_pixels_is_answered_like_one_without(server: Server, digits: Any) -> None:
    rows = (digits[0][0] * 255).round().astype(np.uint8)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    inflates = zlib.compress(bytes(100_000_000))
    chunks = [chunk(kind, b"x\0\0" + inflates) for kind in (b"iCCP", b"zTXt")] + [chunk(b"eXIf", bytes(1000))]
    adorned, plain = (send(server, Bad("", "/predict/image", png(28, data, *more), 200)) for more in (chunks, ()))
    assert Image.open(io.BytesIO(png(28, data))).size == (28, 28)
    assert adorned.json()["predictions"] == plain.json()["predictions"]


def test_a_request_for_a_websocket_is_answered_as_the_plain_request_it_also_is(server: Server) -> None:
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    for path, status in ((b"/predict", 405), (b"/readyz", 200), (b"/nothing", 404)):
        response = server.send_raw(b"GET %s HTTP/1.1\r\nHost: x\r\nX-Request-ID: ws-1\r\n%s\r\n" % (path, upgrade))
        assert (response.status, response.headers["x-request-id"], response.headers["connection"]) == (status, "ws-1", None)
