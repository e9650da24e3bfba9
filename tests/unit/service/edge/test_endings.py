"""How a connection ends: a refusal in the midst of an upload is heard, a half-closed one is answered, a slow reader is cut."""

from __future__ import annotations

import asyncio

import pytest

from service.edge import connection, exchange, outlet
from service.edge.bodies import LEAST_BYTES_PER_S
from tests.unit.service.edge.wire import HEAD, REQUEST, At, Bench, settled

TOO_LONG = HEAD + b"content-length: 101\r\n\r\n"
HEAD_ALONE = b"HTTP/1.1 204 No Content\r\n\r\n"
WAITS_S = 10.0


def test_a_client_in_the_midst_of_an_upload_hears_of_its_refusal_and_is_read_until_it_ends(at: At) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.send(TOO_LONG)
        assert (bench.wire.statuses, bench.wire.ended, bench.wire.closed, bench.wire.paused) == ([413], True, False, False)
        for _ in range(200):
            await bench.send(b"x" * (1 << 18))  # 50 MiB
        assert not bench.wire.closed
        assert not bench.connection.eof_received()  # closes it

    assert at(scenario).wire.statuses == [413]


@pytest.mark.parametrize(
    "refused", [b"GARBAGE\r\n\r\n", HEAD + b"a: " + b"x" * 20_000, HEAD + b"transfer-encoding: chunked\r\n\r\nZZ"]
)
def test_whoever_sends_what_is_refused_hears_of_it_too(at: At, refused: bytes) -> None:
    async def scenario(bench: Bench) -> None:
        bench.full = False
        await bench.send(refused)
        await bench.send(REQUEST)
        assert (bench.wire.ended, bench.wire.closed) == (True, False)

    bench = at(scenario)
    assert len(bench.wire.statuses) == 1
    assert bench.watcher.in_flight == 0


def test_what_is_dropped_after_a_refusal_is_bounded(at: At) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.send(TOO_LONG)
        part = bytes(1 << 20)
        for _ in range(outlet._DROPPED_AT_MOST // len(part)):
            await bench.send(part)
        assert not bench.wire.closed
        await bench.send(b"x")
        assert bench.wire.closed

    at(scenario)


def test_a_client_that_never_ends_after_a_refusal_is_cut_after_a_while(at: At) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.send(TOO_LONG)
        now = asyncio.get_running_loop().time()
        bench.connection.look(now)
        bench.connection.look(now + outlet._DROP_S - 1)
        assert not bench.wire.closed
        bench.connection.look(now + outlet._DROP_S + 1)
        assert bench.wire.closed

    at(scenario)


def test_bytes_that_begin_no_request_do_not_keep_a_connection_open(at: At) -> None:
    async def scenario(bench: Bench) -> None:
        bench.full = False
        await bench.send(REQUEST)
        await bench.send(b"\r\n")
        now = asyncio.get_running_loop().time()
        bench.connection.look(now + WAITS_S - 1)
        assert not bench.wire.closed
        bench.connection.look(now + WAITS_S + 1)
        assert bench.wire.closed

    at(scenario)


def test_a_connection_whose_answer_was_heard_is_closed_at_once(at: At) -> None:
    async def scenario(bench: Bench) -> None:
        bench.full = False
        await bench.send(REQUEST.replace(b"host: x", b"host: x\r\nconnection: close"))
        assert (bench.wire.ended, bench.wire.closed) == (False, True)

    assert at(scenario).wire.statuses == [200]


def test_a_whole_request_is_answered_although_its_client_has_ended_its_side(at: At) -> None:
    async def scenario(bench: Bench) -> None:
        bench.full = False
        await bench.send(REQUEST.replace(b"/predict", b"/slow"))
        assert bench.connection.eof_received()
        bench.released.set()
        await settled()
        assert bench.wire.closed

    bench = at(scenario)
    assert bench.wire.statuses == [200]
    assert b"connection: close" in bench.wire.written


def test_requests_in_one_go_are_all_answered_to_a_client_that_has_ended_its_side(at: At) -> None:
    async def scenario(bench: Bench) -> None:
        bench.full = False
        bench.connection.data_received(REQUEST.replace(b"/predict", b"/slow") + REQUEST)
        await settled()
        assert bench.connection.eof_received()
        bench.released.set()
        for _ in range(3):
            await settled()
        assert bench.wire.closed

    assert at(scenario).wire.statuses == [200, 200]


@pytest.mark.parametrize("begun", [b"", REQUEST, REQUEST[:-1], REQUEST[:30]])
def test_a_client_that_ends_its_side_with_no_request_waiting_is_let_go(at: At, begun: bytes) -> None:
    async def scenario(bench: Bench) -> None:
        bench.full = False
        await bench.send(begun)
        assert not bench.connection.eof_received()

    at(scenario)


@pytest.mark.parametrize(("version", "asked"), [(b"HTTP/1.1", True), (b"HTTP/1.0", False)])
def test_a_client_that_has_ended_its_side_is_asked_whether_it_is_there(
    at: At, monkeypatch: pytest.MonkeyPatch, version: bytes, asked: bool
) -> None:
    monkeypatch.setattr(connection, "_PROBE_AFTER_S", 0.001)

    async def scenario(bench: Bench) -> None:
        bench.full = False
        await bench.send(REQUEST.replace(b"/predict", b"/slow").replace(b"HTTP/1.1", version))
        assert bench.connection.eof_received()
        for _ in range(3):
            await asyncio.sleep(0.001)
        while asked and 100 not in bench.wire.statuses:
            await asyncio.sleep(0.001)
        bench.connection.connection_lost(ConnectionResetError())  # what bytes to a client that has left lead to
        while bench.watcher.in_flight:
            await asyncio.sleep(0.001)

    bench = at(scenario)
    assert bench.wire.statuses[:1] == ([100] if asked else [])
    assert bench.watcher.ends == [("/slow", 499)]


def test_a_request_that_waits_for_long_is_one_task_and_ends_when_its_client_leaves(at: At) -> None:
    async def scenario(bench: Bench) -> None:
        bench.full = False
        tasks = len(asyncio.all_tasks())
        await bench.send(REQUEST.replace(b"/predict", b"/slow"))
        await asyncio.sleep(2 * exchange._PATIENCE_S)
        assert len(asyncio.all_tasks()) == tasks + 1
        bench.connection.connection_lost(None)
        await settled()
        assert bench.watcher.ends == [("/slow", 499)]

    at(scenario)


def test_an_answer_goes_out_in_one_write_and_a_head_without_a_body_alone(at: At, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(bench: Bench) -> None:
        bench.full, writes, write = False, list[bytes](), bench.wire.write

        def noted(data: bytes) -> None:
            writes.append(data)
            write(data)

        monkeypatch.setattr(bench.wire, "write", noted)
        await bench.send(REQUEST)
        await bench.send(b"HEAD /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        assert len(writes) == 2
        assert bench.wire.statuses == [200, 200]

    at(scenario)


def test_a_head_that_is_held_goes_out_before_the_connection_closes_and_not_after_it(at: At) -> None:
    async def scenario(bench: Bench) -> None:
        for close, out in (
            (bench.connection.outlet.close, HEAD_ALONE),
            (bench.connection.outlet.cut, HEAD_ALONE),
            (bench.wire.close, b""),
        ):
            bench.wire.closed, bench.wire.written = False, b""
            bench.connection.outlet.write(HEAD_ALONE)
            assert bench.connection.outlet.unread == len(HEAD_ALONE)
            close()
            await settled()
            assert bench.wire.written == out
            assert bench.connection.outlet.unread == 0

    at(scenario)


def test_a_reader_is_cut_that_takes_fewer_bytes_than_it_has_to_and_one_that_takes_them_is_not(at: At) -> None:
    async def scenario(bench: Bench) -> None:
        bench.full = False
        await bench.send(REQUEST)
        now = asyncio.get_running_loop().time()

        def waits(stuck: int, s: float) -> bool:
            nonlocal now
            now += s
            bench.wire.stuck = stuck
            bench.connection.look(now)
            return not bench.wire.closed

        takes = int(LEAST_BYTES_PER_S * (WAITS_S + 1))
        assert waits(5 * takes, 1)
        assert waits(4 * takes, WAITS_S + 1)
        assert waits(3 * takes, WAITS_S + 1)
        bench.connection.outlet.write(bytes(takes))  # more to read, and as much was read
        assert waits(3 * takes, WAITS_S + 1)
        assert waits(0, WAITS_S + 1)
        assert waits(takes, 1)
        assert waits(takes - 9, 9)
        assert not waits(takes - 11, 2)  # a byte a second

    at(scenario, body_timeout_s=WAITS_S)
