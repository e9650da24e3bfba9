"""Before there is a request: bytes that are no HTTP, heads without end, clients that stall. Raw sockets, a real server."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from typing import Any

import httpx
import pytest

PATIENCE_S = 5.0  # HAUBERK_DEADLINE_S of the session's server


def refused(response: Any, status: int, code: str) -> None:
    """Check that a response is a problem document with a request id, and the last on its connection."""
    document = json.loads(response.body)
    assert (response.status, document["status"], document["code"]) == (status, status, code)
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-request-id"] == document["request_id"]
    assert response.headers["connection"] == "close"


def until_closed(connection: socket.socket) -> bytes:
    """All that still comes."""
    received = b""
    try:
        while part := connection.recv(65536):
            received += part
    except ConnectionResetError:
        pass
    return received


@pytest.mark.parametrize(
    "data",
    [
        b"GARBAGE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # the first bytes of TLS
        b"GET /livez HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost\x00: x\r\n\r\n",
        b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n12",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    ],
)
def test_bytes_that_are_no_http_are_400_with_an_id(server: Any, data: bytes) -> None:
    refused(server.send_raw(data), 400, "malformed_http")


@pytest.mark.parametrize(
    "head",
    [
        b"GET /livez HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 20_000 + b"\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 2_000_000,
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"".join(b"A%d: x\r\n" % i for i in range(150)) + b"\r\n",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: " + b"x" * 20_000 + b"\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * 2_000_000,
    ],
)
def test_a_head_or_what_surrounds_a_chunk_is_bounded(server: Any, head: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        with contextlib.suppress(OSError):  # refused before all was sent
            connection.sendall(head)
        received = until_closed(connection)
    refused_in_words = received.startswith(b"HTTP/1.1 431 ") and b"head_too_large" in received
    # Who still sends when the connection is closed may lose the answer to the reset.
    assert refused_in_words or (not received and len(head) > 1_000_000)
    assert httpx.get(f"{server.url}/livez").status_code == 200


def test_a_head_just_under_the_limits_is_taken(server: Any) -> None:
    headers = {f"A{i}": "x" * 100 for i in range(90)}
    assert httpx.get(f"{server.url}/livez", headers=headers).status_code == 200


def test_what_was_asked_before_the_garbage_is_answered_first(server: Any) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\nGARBAGE\r\n\r\n")
        received = until_closed(connection)
    assert received.startswith(b"HTTP/1.1 200 OK")
    assert received.endswith(b"alive\n")


def test_requests_sent_in_one_go_are_answered_in_their_order(server: Any) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        for i in range(20):
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Request-ID: id-%02d\r\n\r\n" % i)
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = until_closed(connection)
    assert [received.find(b"id-%02d" % i) for i in range(20)] == sorted(received.find(b"id-%02d" % i) for i in range(20))
    assert received.count(b"200 OK") == 21


def test_a_request_to_change_protocols_is_served_as_it_stands(server: Any) -> None:
    for upgrade in (b"websocket", b"h2c"):
        head = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: " + upgrade + b"\r\n\r\n"
        response = server.send_raw(head)
        assert (response.status, response.body) == (200, b"alive\n")


@pytest.mark.parametrize("begun", [b"", b"GET /livez HTTP/1.1\r\nHost:", b"\r\n"])
def test_a_connection_that_stalls_before_a_request_is_closed(server: Any, begun: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(begun)
        started = time.monotonic()
        received = until_closed(connection)
    assert PATIENCE_S - 1 < time.monotonic() - started < 3 * PATIENCE_S
    assert (b"slow_head" in received) == begun.startswith(b"GET")


def test_a_head_that_trickles_in_is_408(server: Any) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n")
        connection.settimeout(0.3)
        received, give_up = b"", time.monotonic() + 3 * PATIENCE_S
        while not received and time.monotonic() < give_up:
            try:
                connection.sendall(b"A: x\r\n")
                received = connection.recv(65536)
            except TimeoutError:
                continue
    assert received.startswith(b"HTTP/1.1 408 ")


def test_a_client_that_never_reads_is_cut_off_and_holds_nobody_up(server: Any) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(3 * PATIENCE_S)
        connection.connect(("127.0.0.1", server.port))
        request = b"GET /docs.json HTTP/1.1\r\nHost: x\r\n\r\n"
        cut = False
        while not cut:
            assert httpx.get(f"{server.url}/livez").status_code == 200
            try:
                connection.sendall(request * 100)
            except (ConnectionResetError, BrokenPipeError):  # and not a timeout
                cut = True


def test_refusals_of_the_protocol_are_counted_and_logged(server: Any) -> None:
    name = 'hauberk_rejected_inputs_total{reason="malformed_http"}'
    before, routed = server.metric(name), server.metric('hauberk_requests_total{code="400",route="other"}')
    response = server.send_raw(b"GARBAGE\r\n\r\n")
    assert server.metric(name) == before + 1
    assert server.metric('hauberk_requests_total{code="400",route="other"}') == routed + 1
    request_id = response.headers["x-request-id"]
    give_up = time.monotonic() + 5
    while request_id not in server.log.read_text() and time.monotonic() < give_up:
        time.sleep(0.05)
    assert request_id in server.log.read_text()
