"""Heads that can be read in two ways, offers of another protocol, lengths of any number of digits."""

from __future__ import annotations

import json

import pytest

from service.edge.framing import complaint, declared_length
from tests.unit.service.edge.wire import BODY, HEAD, REQUEST, At, Bench

FRAMED = b"content-length: %d\r\n\r\n%s" % (len(BODY), BODY)
CHUNKED = b"transfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
JSON = b"content-type: application/json\r\n"
# As the JDK's HttpClient sends it by default, and as curl --http2 does.
JDK = (
    b"POST /predict HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nContent-Length: %d\r\nHost: 127.0.0.1:3000\r\n"
    b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nUpgrade: h2c\r\nUser-Agent: Java-http-client/17.0.15\r\n"
    b"Content-Type: application/json\r\n\r\n%s" % (len(BODY), BODY)
)
CURL = (
    b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:3000\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\nConnection: Upgrade, HTTP2-Settings\r\n"
    b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
    % (len(BODY), BODY)
)


@pytest.mark.parametrize("request_", [JDK, CURL], ids=["jdk", "curl"])
def test_a_request_that_offers_another_protocol_keeps_its_body_and_its_connection(at: At, request_: bytes) -> None:
    async def scenario(bench: Bench) -> None:
        bench.full = False
        await bench.send(request_ * 2)
        for i in range(len(request_)):
            await bench.send(request_[i : i + 1])
        await bench.send(REQUEST)

    bench = at(scenario)
    assert (bench.wire.statuses, bench.bodies) == ([200] * 4, [BODY] * 4)
    assert b"connection: close" not in bench.wire.written.lower()


@pytest.mark.parametrize(
    "request_",
    [
        HEAD + b"connection: upgrade\r\nupgrade: websocket\r\n" + CHUNKED,
        HEAD + b"upgrade: h2c\r\nupgrade: websocket\r\nconnection: keep-alive\r\nconnection: upgrade\r\n" + FRAMED,
        HEAD.replace(b"HTTP/1.1", b"HTTP/1.0") + b"connection: upgrade\r\nupgrade: h2c\r\n" + FRAMED,
    ],
)
def test_every_form_of_an_offer_is_served_as_if_it_had_not_been_made(at: At, request_: bytes) -> None:
    async def scenario(bench: Bench) -> None:
        bench.full = False
        await bench.send(request_)

    bench = at(scenario)
    assert (bench.wire.statuses, bench.bodies) == ([200], [BODY])


def test_many_offers_in_one_go_are_all_answered(at: At) -> None:
    async def scenario(bench: Bench) -> None:
        bench.full = False
        offer = b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
        bench.connection.data_received(offer * 2000)
        while bench.connection.pipeline:
            await bench.send(b"")

    assert at(scenario).wire.statuses == [200] * 2000


def test_an_offer_while_the_queue_is_full_is_turned_away_like_any_request(at: At) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.send(JDK + REQUEST)

    bench = at(scenario)
    assert bench.wire.statuses == [503, 503]
    assert bench.watcher.in_flight == 0


POST = b"POST /predict HTTP/1.1\r\n" + JSON
OLD = b"POST /predict HTTP/1.0\r\n" + JSON


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (POST + FRAMED, 400, "malformed_http"),  # no Host
        (POST + b"host: x\r\nhost: x\r\n" + FRAMED, 400, "malformed_http"),
        (POST + b"host: x\r\nHost: y\r\n" + FRAMED, 400, "malformed_http"),
        (OLD + b"host: x\r\nhost: y\r\n" + FRAMED, 400, "malformed_http"),
        *(
            (POST + b"host: " + host + b"\r\n" + FRAMED, 400, "malformed_http")
            for host in (b"a b", b"a, b", b"a/b", b"http://a", b"a@b", b"\xff", b"a" * 400)
        ),
        (HEAD + b"content-length: 5\r\n" + CHUNKED, 400, "malformed_http"),
        (HEAD + b"content-length: 5\r\ncontent-length: 5\r\n\r\n12345", 400, "malformed_http"),
        (HEAD + b"transfer-encoding: gzip, chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n", 400, "malformed_http"),
        (HEAD + b"transfer-encoding: identity\r\n\r\n0\r\n\r\n", 400, "malformed_http"),
        (HEAD + b"transfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400, "malformed_http"),
        (HEAD + b"transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400, "malformed_http"),
        (HEAD + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n", 400, "malformed_http"),
        (OLD + CHUNKED, 400, "malformed_http"),
        (HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, "unsupported_transfer_coding"),
        (HEAD + b"transfer-encoding: gzip\r\n" + CHUNKED, 501, "unsupported_transfer_coding"),
        (REQUEST.replace(b"HTTP/1.1", b"HTTP/2.0"), 505, "unsupported_version"),
        (REQUEST.replace(b"HTTP/1.1", b"HTTP/0.9"), 505, "unsupported_version"),
        (b"GET /livez\r\n\r\n", 505, "unsupported_version"),
    ],
)
@pytest.mark.parametrize("full", [False, True])
def test_what_can_be_read_in_two_ways_is_refused_and_the_connection_ended(
    at: At, request_: bytes, status: int, code: str, full: bool
) -> None:
    async def scenario(bench: Bench) -> None:
        bench.full = full
        await bench.send(request_ + REQUEST)

    bench = at(scenario)
    assert (bench.wire.statuses, bench.watcher.codes, bench.bodies) == ([status], [code], [])
    head, _, body = bench.wire.written.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    assert json.loads(body)["code"] == code
    assert bench.wire.ended


@pytest.mark.parametrize(
    "request_",
    [
        OLD + FRAMED,  # HTTP/1.0 has no Host
        HEAD + CHUNKED,
        HEAD + CHUNKED.replace(b"chunked", b"Chunked"),
        *(
            POST + b"host:" + host + b"\r\n" + FRAMED
            for host in (b"", b" a.example:3000", b" [::1]:3000", b" under_score", b" x%41")
        ),
    ],
)
def test_what_has_one_reading_is_served(at: At, request_: bytes) -> None:
    async def scenario(bench: Bench) -> None:
        bench.full = False
        await bench.send(request_)

    bench = at(scenario)
    assert (bench.wire.statuses, bench.bodies) == ([200], [BODY])


def test_what_follows_a_chunked_body_is_no_part_of_the_head(at: At) -> None:
    async def scenario(bench: Bench) -> None:
        bench.full = False
        await bench.send(HEAD + CHUNKED[:-2] + b"x-request-id: other\r\ncontent-encoding: gzip\r\n\r\n" + REQUEST)

    bench = at(scenario)
    assert (bench.wire.statuses, bench.bodies) == ([200, 200], [BODY, BODY])
    assert b"other" not in bench.wire.written


@pytest.mark.parametrize("zeros", [1, 30, 5000])
def test_a_length_with_zeros_before_it_is_that_length(at: At, zeros: int) -> None:
    async def scenario(bench: Bench) -> None:
        bench.full = False
        for length in (len(BODY), 101):
            await bench.send(HEAD + b"content-length: " + b"0" * zeros + b"%d\r\n\r\n" % length + BODY)

    bench = at(scenario)
    assert bench.wire.statuses == [200, 413]


@pytest.mark.parametrize(
    ("text", "length"),
    [(b"", -1), (b"0", 0), (b"007", 7), (b"0" * 5000, 0), (b"-1", -1), (b"1e3", -1), (b"\xb2", -1), (b"9" * 5000, int("9" * 20))],
)
def test_a_declared_length_is_a_number_whatever_its_digits(text: bytes, length: int) -> None:
    assert declared_length(text) == length


def test_a_head_as_clients_send_it_has_nothing_to_complain_of() -> None:
    assert complaint("1.1", [(b"host", b"x"), (b"content-length", b"3")]) is None
    assert complaint("1.0", []) is None
