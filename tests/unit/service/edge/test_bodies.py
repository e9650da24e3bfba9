"""Who gives way when the bytes of bodies are too many, and which bodies come too slowly."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from service.edge.accounts import Account, Clients
from service.edge.bodies import GRACE_S, LEAST_BYTES_PER_S, Bodies
from service.edge.exchange import Bounds
from service.edge.middleware import Edge
from service.edge.site import Route, Site
from service.errors import Problem, QueueFull, SlowBody
from tests.unit.service.edge.asking import JSON, POST, echo, serving
from tests.unit.service.edge.wire import HEAD, At, Bench, settled
from tests.unit.service.watcher import Watcher


def test_a_body_sent_before_the_last_request_was_answered_is_held_until_its_turn_and_cut_when_there_is_no_room(at: At) -> None:
    body = b"x" * 60
    slow = HEAD.replace(b"/predict", b"/slow") + b"content-length: 0\r\n\r\n"
    second = HEAD + b"content-length: 60\r\n\r\n" + body

    async def scenario(bench: Bench) -> None:
        bench.full = False
        bodies = bench.site.bounds.bodies
        await bench.send(slow + second)
        assert bodies.held == 60
        other, wire = bench.connect()
        await bench.send(slow + second, other)
        assert (wire.closed, bodies.held) == (True, 60 + 60)  # counted until it is gone
        other.connection_lost(None)
        assert bodies.held == 60
        bench.released.set()
        await settled()
        assert (bench.wire.statuses, bodies.held) == ([200, 200], 0)
        assert bench.bodies == [body]

    at(scenario, bodies=Bodies(100))


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Sent:
    """A body, and what it was cut with."""

    def __init__(self, holder: Account) -> None:
        self.holder, self.held = holder, 0
        self.problem: Problem | None = None

    def cut(self, problem: Problem) -> None:
        self.problem = problem


class Room:
    """Bodies of a few accounts, with room for a hundred bytes."""

    def __init__(self, at_most: int = 100) -> None:
        self.clock = Clock()
        self.bodies = Bodies(at_most, self.clock)

    def arrives(self, holder: Account, size: int, *, whole: bool = False) -> Sent:
        self.clock.now += 1
        body = Sent(holder)
        self.bodies.hold(body, size)
        if not whole:
            self.bodies.begin(body)
        return body


@pytest.fixture
def accounts() -> tuple[Account, Account, Account]:
    return Account("a", math.inf), Account("b", math.inf), Account("c", math.inf)


def test_who_fills_the_memory_gives_way_to_who_holds_less(accounts: Any) -> None:
    greedy, modest, other = accounts
    room = Room()
    first, second = room.arrives(greedy, 45), room.arrives(greedy, 45)
    held = room.arrives(modest, 10)
    newcomer = room.arrives(other, 30)
    assert isinstance(first.problem, QueueFull)  # as large, and longer here
    assert (second.problem, held.problem, newcomer.problem) == (None, None, None)
    assert (greedy.held, modest.held, other.held, room.bodies.held) == (45, 10, 30, 85)


def test_who_holds_the_most_is_refused_and_nobody_else(accounts: Any) -> None:
    greedy, modest, _ = accounts
    room = Room()
    held = room.arrives(modest, 40)
    room.arrives(greedy, 60, whole=True)
    with pytest.raises(QueueFull):
        room.arrives(greedy, 1)
    assert held.problem is None


def test_the_slowest_body_of_an_account_gives_way_to_its_other_ones(accounts: Any) -> None:
    (greedy, _, _) = accounts
    room = Room()
    stalled = room.arrives(greedy, 60)
    growing = room.arrives(greedy, 30)
    room.bodies.hold(growing, 20)
    assert isinstance(stalled.problem, QueueFull)
    assert growing.problem is None
    with pytest.raises(QueueFull):  # it is itself the one
        room.bodies.hold(growing, 60)


def test_several_bodies_give_way_when_one_is_not_enough(accounts: Any) -> None:
    greedy, modest, _ = accounts
    room = Room()
    small = [room.arrives(greedy, 10) for _ in range(10)]
    room.arrives(modest, 45, whole=True)
    assert [body.problem is not None for body in small] == [True] * 5 + [False] * 5
    assert room.bodies.held == 95


def test_bodies_that_are_here_are_not_cut(accounts: Any) -> None:
    greedy, modest, _ = accounts
    room = Room()
    body = room.arrives(greedy, 90)
    room.bodies.end(body)
    with pytest.raises(QueueFull):
        room.arrives(modest, 20)
    room.bodies.let_go(body)
    room.arrives(modest, 20)


def test_a_body_that_brings_too_little_is_given_up_and_one_that_brings_enough_is_not(accounts: Any) -> None:
    room = Room(1 << 30)
    stalled, slow, enough = (room.arrives(accounts[0], 100_000) for _ in range(3))
    for _ in range(3):
        room.clock.now += GRACE_S
        if slow.problem is None:
            room.bodies.hold(slow, int(GRACE_S * LEAST_BYTES_PER_S) // 2)
        room.bodies.hold(enough, int((GRACE_S + 2) * LEAST_BYTES_PER_S))
        room.bodies.look()
    assert isinstance(stalled.problem, SlowBody)
    assert isinstance(slow.problem, SlowBody)
    assert enough.problem is None
    assert room.bodies.held == enough.held


def test_a_body_is_not_looked_at_before_its_time(accounts: Any) -> None:
    room = Room()
    body = room.arrives(accounts[0], 10)
    room.clock.now += GRACE_S - 0.1
    room.bodies.look()
    assert body.problem is None


class Senders:
    """Requests to a site that holds a hundred bytes of bodies, each from an address of its own choice."""

    def __init__(self) -> None:
        self.watcher, self.clock = Watcher(), Clock()
        self.bodies = Bodies(100, self.clock)
        route = Route(echo, **{**POST, "body_at_most": 90})  # type: ignore[arg-type]
        self.edge: Edge = serving(
            Site(
                routes={"/echo": route},
                observer=self.watcher,
                bounds=Bounds(60.0, self.bodies),
                clients=Clients(images_per_minute=None),
            )
        )

    def send(self, address: str) -> tuple[asyncio.Queue[dict[str, Any]], list[dict[str, Any]], asyncio.Task[None]]:
        parts: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        sent: list[dict[str, Any]] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "path": "/echo", "method": "POST", "headers": JSON, "client": (address, 1)}
        return parts, sent, asyncio.ensure_future(self.edge(scope, parts.get, send))


def part(size: int, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": b"x" * size, "more_body": more}


@pytest.mark.parametrize(("slowly", "status"), [(False, 503), (True, 408)])
def test_the_client_of_a_body_that_gives_way_is_told_and_the_others_are_answered(slowly: bool, status: int) -> None:
    async def main() -> None:
        senders = Senders()
        parts, sent, task = senders.send("10.0.0.1")
        parts.put_nowait(part(80))
        for _ in range(5):
            await asyncio.sleep(0)
        senders.clock.now += 5
        if slowly:
            senders.bodies.look()
        other_parts, other_sent, other_task = senders.send("10.0.0.2")
        other_parts.put_nowait(part(30, more=False))
        await asyncio.wait_for(asyncio.gather(task, other_task), 10)
        assert (sent[0]["status"], other_sent[0]["status"]) == (status, 200)
        assert other_sent[1]["body"] == b"x" * 30
        assert senders.bodies.held == 0
        assert senders.watcher.in_flight == 0

    asyncio.run(main())


def test_a_request_cancelled_from_outside_stays_cancelled() -> None:
    async def main() -> None:
        senders = Senders()
        parts, _, task = senders.send("10.0.0.1")
        parts.put_nowait(part(80))
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert senders.bodies.held == 0

    asyncio.run(main())
