"""A connection while the queue is full: what is turned away before there is a request. uvicorn's own machinery, no socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from benchmarks.harness import open_loop
from service.edge.connection import KEEP_ALIVE_S, Connection, MetricsConnection
from service.edge.exchange import Exchange
from service.edge.middleware import Edge
from service.edge.site import Route, Site, Slot
from tests.unit.service.watcher import Watcher

BODY = b'{"images":[]}'
HEAD = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nx-request-id: mine\r\n"
REQUEST = HEAD + b"content-length: %d\r\n\r\n" % len(BODY) + BODY


class Wire(asyncio.Transport):
    """The other end of the connection."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...

    @property
    def statuses(self) -> list[int]:
        """Of the answers so far."""
        return [int(part[:3]) for part in self.written.split(b"HTTP/1.1 ")[1:]]


class Bench:
    """A connection to a site whose queue is full while `full` says so."""

    def __init__(self, kind: type[Connection]) -> None:
        self.full, self.watcher, self.wire = True, Watcher(), Wire()
        self.released = asyncio.Event()
        predict = Route(self._answer, frozenset(("POST",)), frozenset((b"application/json",)), 100)
        health = Route(self._answer)
        routes = {
            "/predict": predict,
            "/v2/models/m/infer": predict,
            "/livez": health,
            "/slow": replace(predict, endpoint=self._later),
        }
        self.site = Site(routes=routes, observer=self.watcher, log=self.watcher.log, full=lambda _: self.full)
        slot = Slot()
        slot.install(self.site)
        config = uvicorn.Config(Edge(_nothing, slot=slot), log_config=None, lifespan="off")
        config.load()
        self.connection = kind(config, ServerState(), {})
        self.connection.connection_made(self.wire)

    async def _answer(self, exchange: Exchange) -> None:
        await exchange.respond(200, b"text/plain", await exchange.read())

    async def _later(self, exchange: Exchange) -> None:
        await self.released.wait()
        await self._answer(exchange)

    async def send(self, data: bytes) -> None:
        """What comes in, and whatever tasks it starts."""
        self.connection.data_received(data)
        for _ in range(10):
            await asyncio.sleep(0)


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Bench]:
    """Runs a scenario at a bench."""

    def run(scenario: Callable[[Bench], Awaitable[None]], kind: type[Connection] = Connection) -> Bench:
        async def main() -> Bench:
            bench = Bench(kind)
            monkeypatch.setattr(Connection, "site", bench.site, raising=False)
            monkeypatch.setattr(Connection, "open", set())
            await scenario(bench)
            bench.connection.connection_lost(None)
            return bench

        return asyncio.run(main())

    return run


def test_a_prediction_is_turned_away_counted_and_logged_and_the_next_one_served(at: Callable[..., Bench]) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.send(REQUEST)
        head, _, body = bench.wire.written.partition(b"\r\n\r\n")
        document = json.loads(body)
        assert (document["status"], document["code"], document["request_id"]) == (503, "queue_full", "mine")
        lines = head.lower().split(b"\r\n")
        assert b"x-request-id: mine" in lines
        assert b"content-type: application/problem+json" in lines
        assert any(line.startswith(b"retry-after: ") for line in lines)
        assert bench.watcher.in_flight == 0
        bench.full = False
        await bench.send(REQUEST)

    bench = at(scenario)
    assert bench.wire.statuses == [503, 200]
    assert bench.wire.written.endswith(BODY)
    assert bench.watcher.codes == ["queue_full"]
    assert bench.watcher.ends == [("/predict", 503), ("/predict", 200)]
    assert [(line["request_id"], line["status"]) for line in bench.watcher.lines] == [("mine", 503), ("mine", 200)]


def test_an_idle_connection_outlives_the_patience_of_load_balancers(at: Callable[..., Bench]) -> None:
    left: list[float] = []

    async def scenario(bench: Bench) -> None:
        bench.full = False
        await bench.send(REQUEST)
        closing = bench.connection.timeout_keep_alive_task
        assert closing is not None
        left.append(closing.when() - asyncio.get_running_loop().time())

    assert at(scenario).wire.statuses == [200]
    assert KEEP_ALIVE_S - 1 < left[0] <= KEEP_ALIVE_S
    assert KEEP_ALIVE_S > open_loop.IDLE_S


def test_it_is_answered_once_all_of_its_body_has_come(at: Callable[..., Bench]) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.send(REQUEST[:-5])
        assert (bench.wire.written, bench.watcher.in_flight) == (b"", 1)
        bench.full = False  # what was said of it holds
        await bench.send(REQUEST[-5:] + REQUEST)

    assert at(scenario).wire.statuses == [503, 200]


def test_the_open_inference_protocol_gets_its_own_kind_of_error(at: Callable[..., Bench]) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.send(REQUEST.replace(b"/predict", b"/v2/models/m/infer"))

    bench = at(scenario)
    assert bench.wire.statuses == [503]
    assert list(json.loads(bench.wire.written.partition(b"\r\n\r\n")[2])) == ["error"]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n", 200),
        (b"GET /predict HTTP/1.1\r\nhost: x\r\n\r\n", 405),
        (b"POST /nowhere HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n", 404),
        (REQUEST.replace(b"application/json", b"text/html"), 415),
        (HEAD + b"content-length: 101\r\n\r\n" + b"x" * 101, 413),
        # These go the long way, where the endpoint refuses: here there is one that does not.
        (HEAD + b"connection: close\r\ncontent-length: 0\r\n\r\n", 200),
        (HEAD + b"expect: 100-continue\r\ncontent-length: 0\r\n\r\n", 200),
    ],
)
def test_what_the_edge_has_to_say_comes_first(at: Callable[..., Bench], request_: bytes, status: int) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.send(request_)

    bench = at(scenario)
    assert [each for each in bench.wire.statuses if each != 100] == [status]
    assert "queue_full" not in bench.watcher.codes
    assert bench.watcher.in_flight == 0


def test_answers_come_in_the_order_of_their_requests(at: Callable[..., Bench]) -> None:
    async def scenario(bench: Bench) -> None:
        bench.full = False
        await bench.send(REQUEST.replace(b"/predict", b"/slow"))
        bench.full = True
        await bench.send(REQUEST)
        assert bench.wire.written == b""
        bench.released.set()
        await bench.send(b"")

    assert at(scenario).wire.statuses == [200, 200]


def test_who_leaves_before_his_body_was_there_is_counted_as_gone(at: Callable[..., Bench]) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.send(REQUEST[:-5])

    bench = at(scenario)
    assert (bench.wire.written, bench.watcher.ends, bench.watcher.in_flight) == (b"", [("/predict", 499)], 0)


def test_a_body_without_end_is_cut(at: Callable[..., Bench]) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.send(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        for _ in range(3):
            await bench.send(b"32\r\n" + b"x" * 50 + b"\r\n")
        assert bench.wire.closed

    assert at(scenario).wire.written == b""


def test_nothing_waits_for_the_queue_on_the_port_for_metrics(at: Callable[..., Bench]) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.send(REQUEST)

    assert at(scenario, MetricsConnection).wire.statuses == [200]
