"""An account that asks on while it is refused: its refusals are paced, its connections unread meanwhile, and nobody else waits."""

from __future__ import annotations

import asyncio
import time
import tracemalloc
from typing import Any

import pytest

from service.edge import accounts
from service.edge.connection import KEEP_ALIVE_S
from service.edge.exchange import Exchange
from service.edge.site import Route
from service.errors import QueueFull
from tests.unit.service.edge.asking import JSON, POST, ask, serving, site
from tests.unit.service.edge.wire import HEAD, REQUEST, At, Bench
from tests.unit.service.watcher import Watcher

WAIT_S = 0.2


@pytest.fixture(autouse=True)
def pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request is refused at once, and each more a fifth of a second later."""
    monkeypatch.setattr(accounts, "_REFUSED_BYTES_AT_LEAST", 100)
    monkeypatch.setattr(accounts, "REFUSED_BYTES_PER_S", 100 / WAIT_S)
    monkeypatch.setattr(accounts, "REFUSED_AT_ONCE_S", WAIT_S)


async def fill(bench: Bench) -> None:
    await bench.send(REQUEST)
    assert bench.wire.statuses == [503]


def test_a_refusal_waits_and_its_connection_is_not_read_meanwhile(at: At) -> None:
    async def scenario(bench: Bench) -> None:
        await fill(bench)
        await bench.send(REQUEST[:-5])
        assert bench.wire.paused
        await asyncio.sleep(2 * WAIT_S)
        assert (bench.wire.paused, bench.wire.statuses) == (False, [503])  # the rest of it is to come
        await bench.send(REQUEST[-5:])
        assert bench.wire.statuses == [503, 503]

    bench = at(scenario)
    assert bench.watcher.codes == ["queue_full"] * 2
    assert bench.watcher.in_flight == 0


def test_what_came_whole_is_answered_when_it_may_be_and_read_on_after_it(at: At) -> None:
    async def scenario(bench: Bench) -> None:
        await fill(bench)
        began = time.monotonic()
        await bench.send(REQUEST)
        assert (bench.wire.paused, bench.wire.statuses) == (True, [503])
        while len(bench.wire.statuses) < 2:
            await asyncio.sleep(WAIT_S / 20)
        assert time.monotonic() - began > 0.9 * WAIT_S
        assert not bench.wire.paused
        bench.connection.look(asyncio.get_running_loop().time() + KEEP_ALIVE_S - 1)
        assert not bench.wire.closed
        bench.full = False
        await bench.send(REQUEST)

    assert at(scenario).wire.statuses == [503, 503, 200]


def test_another_connection_of_its_account_waits_for_a_later_turn_and_another_account_for_none(at: At) -> None:
    async def scenario(bench: Bench) -> None:
        await fill(bench)
        same, other = bench.connect(), bench.connect("10.0.0.2")
        for (connection, _), name in (((bench.connection, bench.wire), b"second"), (same, b"third"), (other, b"other")):
            await bench.send(REQUEST.replace(b"mine", name), connection)
        while bench.watcher.in_flight:
            await asyncio.sleep(WAIT_S / 20)

    assert [line["request_id"] for line in at(scenario).watcher.lines] == ["mine", "other", "second", "third"]


def test_who_sends_the_next_before_the_refusal_of_the_last_loses_the_connection(at: At) -> None:
    async def scenario(bench: Bench) -> None:
        await fill(bench)
        await bench.send(REQUEST + REQUEST + REQUEST)
        assert bench.wire.statuses == [503] * 3
        assert bench.wire.written.lower().count(b"connection: close") == 1
        assert bench.connection.outlet.ended
        await bench.send(REQUEST)
        assert bench.wire.statuses == [503] * 3

    bench = at(scenario)
    assert bench.watcher.in_flight == 0
    assert [end[1] for end in bench.watcher.ends] == [503] * 3


def test_who_leaves_while_its_refusal_waits_is_counted_as_gone(at: At) -> None:
    async def scenario(bench: Bench) -> None:
        await fill(bench)
        await bench.send(REQUEST)
        bench.connection.connection_lost(None)
        await asyncio.sleep(2 * WAIT_S)
        bench.connection, bench.wire = bench.connect()

    bench = at(scenario)
    assert [end[1] for end in bench.watcher.ends] == [503, 499]
    assert bench.watcher.in_flight == 0


def test_a_server_that_ends_answers_what_waits_to_be_refused(at: At) -> None:
    async def scenario(bench: Bench) -> None:
        await fill(bench)
        await bench.send(REQUEST)
        bench.connection.shutdown()
        assert bench.wire.statuses == [503, 503]
        assert bench.wire.closed

    at(scenario)


def test_a_connection_that_waits_is_not_taken_for_a_slow_client(at: At) -> None:
    async def scenario(bench: Bench) -> None:
        await fill(bench)
        await bench.send(REQUEST[:-5])
        bench.connection.look(asyncio.get_running_loop().time() + 60)
        assert not bench.wire.closed
        await asyncio.sleep(2 * WAIT_S)
        bench.connection.look(asyncio.get_running_loop().time() + 60)
        assert bench.wire.closed  # now it is the client that does not send

    at(scenario)


def test_a_connection_that_is_idle_after_a_refusal_is_closed_as_others_are(at: At) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.send(REQUEST[:-5])
        await bench.send(REQUEST[-5:])
        assert bench.wire.statuses == [503]
        now = asyncio.get_running_loop().time()
        bench.connection.look(now + KEEP_ALIVE_S - 1)
        assert not bench.wire.closed
        bench.connection.look(now + KEEP_ALIVE_S + 1)
        assert bench.wire.closed

    at(scenario)


def test_a_body_of_unknown_length_waits_as_long_as_the_longest(at: At) -> None:
    async def scenario(bench: Bench) -> None:
        long = HEAD.replace(b"mine", b"other") + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n"
        await bench.send(long)
        assert bench.wire.statuses == [503]
        await bench.send(long)
        assert bench.wire.paused

    at(scenario)


def test_a_refusal_by_the_endpoint_waits_too_and_a_server_that_ends_lets_none_wait() -> None:
    async def full(exchange: object) -> None:
        raise QueueFull

    served = site(Watcher(), echo=Route(full, **POST))  # type: ignore[arg-type]
    edge, took = serving(served), []
    for _ in range(3):
        began = time.monotonic()
        ask(edge, client=("10.0.0.9", 1)).problem(503, "queue_full")
        took.append(time.monotonic() - began)
        served.bounds.load.closing = len(took) == 2
    assert took[0] < 0.9 * WAIT_S
    assert took[1] >= 0.9 * WAIT_S
    assert took[2] < 0.9 * WAIT_S


@pytest.mark.parametrize("cut", [False, True], ids=["refused when it was read", "cut while it came"])
def test_a_refusal_that_waits_holds_no_body_and_nothing_made_of_it(cut: bool) -> None:
    piece, pieces, traced = 1 << 20, 8, []

    async def full(exchange: Exchange) -> None:
        body = await exchange.read()
        assert len(body) == piece * pieces
        raise QueueFull

    async def scenario() -> None:
        served = site(Watcher(), echo=Route(full, **{**POST, "body_at_most": piece * pieces}))  # type: ignore[arg-type]
        edge, statuses, waits = serving(served), [], asyncio.Event()
        scope = {"type": "http", "path": "/echo", "method": "POST", "headers": JSON, "client": ("10.0.0.9", 1)}
        left = pieces

        async def receive() -> Any:
            nonlocal left
            left -= 1
            if cut and not left:
                (arriving,) = served.bounds.bodies._arriving
                arriving.cut(QueueFull())
                await asyncio.sleep(60)
            waits.set()
            return {"type": "http.request", "body": bytes(piece), "more_body": left > 0}

        async def send(message: Any) -> None:
            statuses.append(message.get("status"))

        served.clients.account(b"", "10.0.0.9").refusal_waits_s(1, 10.0)  # the next one waits
        tracemalloc.start()
        answer = asyncio.create_task(edge(scope, receive, send))
        await asyncio.sleep(WAIT_S / 2)
        traced.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        assert waits.is_set()
        assert not statuses
        assert served.bounds.bodies.held == 0
        await answer
        assert statuses[0] == 503

    asyncio.run(scenario())
    assert traced[0] < piece
