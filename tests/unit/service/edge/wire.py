"""A connection with uvicorn's own machinery and no socket: what came in, what went out, and whether it is closed."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from service.edge.connection import Connection
from service.edge.crowd import Crowd
from service.edge.exchange import Bounds, Exchange
from service.edge.middleware import Edge
from service.edge.site import Route, Site, Slot
from tests.unit.service.watcher import Watcher

BODY = b'{"images":[]}'
HEAD = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nx-request-id: mine\r\n"
REQUEST = HEAD + b"content-length: %d\r\n\r\n" % len(BODY) + BODY


class Wire(asyncio.Transport):
    """The other end of the connection. `stuck`: bytes of the answers that it has not read."""

    def __init__(self, address: str = "10.0.0.1") -> None:
        super().__init__({"peername": (address, 4711)})
        self.written = b""
        self.closed = self.ended = self.paused = False
        self.stuck = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.ended
        self.written += bytes(data)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def get_write_buffer_size(self) -> int:
        return self.stuck

    @property
    def statuses(self) -> list[int]:
        """Of the answers so far."""
        return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", self.written)]


class Bench:
    """Connections to a site whose queue is full while `full` says so; the first is `connection`, its other end `wire`."""

    def __init__(self, kind: type[Connection], monkeypatch: pytest.MonkeyPatch, **bounds: Any) -> None:
        self.full, self.watcher, self.kind = True, Watcher(), kind
        self.released = asyncio.Event()
        self.bodies: list[bytes] = []
        predict = Route(self._answer, frozenset(("POST",)), frozenset((b"application/json",)), 100)
        health = Route(self._answer)
        routes = {
            "/predict": predict,
            "/v2/models/m/infer": predict,
            "/livez": health,
            "/slow": replace(predict, endpoint=self._later),
        }
        watcher = self.watcher
        self.site = Site(routes=routes, observer=watcher, log=watcher.log, full=lambda _: self.full, bounds=Bounds(**bounds))
        slot = Slot()
        slot.install(self.site)
        self.config = uvicorn.Config(Edge(_nothing, slot=slot), log_config=None, lifespan="off")
        self.config.load()
        self.state = ServerState()
        monkeypatch.setattr(Connection, "site", self.site, raising=False)
        monkeypatch.setattr(Connection, "open", set())
        monkeypatch.setattr(kind, "crowd", Crowd())
        self.connection, self.wire = self.connect()

    def connect(self, address: str = "10.0.0.1") -> tuple[Connection, Wire]:
        """One more connection."""
        connection, wire = self.kind(self.config, self.state, {}), Wire(address)
        connection.connection_made(wire)
        return connection, wire

    async def _answer(self, exchange: Exchange) -> None:
        self.bodies.append(await exchange.read())
        await exchange.respond(200, b"text/plain", self.bodies[-1])

    async def _later(self, exchange: Exchange) -> None:
        await exchange.read()
        await exchange.unless_client_leaves(self.released.wait())
        await exchange.respond(200, b"text/plain", b"late")

    async def send(self, data: bytes, connection: Connection | None = None) -> None:
        """What comes in, and whatever tasks it starts."""
        (connection or self.connection).data_received(data)
        await settled()


async def settled() -> None:
    """Let the tasks that can go on do so."""
    for _ in range(10):
        await asyncio.sleep(0)


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError


At = Callable[..., Bench]
Scenario = Callable[[Bench], Awaitable[None]]
