"""The hostile clients of the benchmark do what they are measured for, and keep to their rate."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import orjson
import pytest

from benchmarks.harness import hostile
from benchmarks.harness.hostile import ADDRESS, Hostility, costly_bodies

ANSWER = b"HTTP/1.1 %d Whatever\r\ncontent-length: 2\r\n\r\n{}"


@dataclass
class Book:
    """What a small server saw: bodies declared and come, addresses, connections open at a time."""

    status: int = 200
    declared: list[int] = field(default_factory=list)
    came: int = 0
    peers: set[str] = field(default_factory=set)
    most_open: int = 0
    now_open: int = 0
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.now_open += 1
        self.most_open = max(self.most_open, self.now_open)
        self.peers.add(writer.get_extra_info("peername")[0])
        try:
            while True:
                await self._one(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.now_open -= 1
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"content-length: " in head:
            self.declared.append(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
            wanted = self.declared[-1] - (self.status == 503)
            self.came += len(await reader.readexactly(wanted))
        writer.write(ANSWER % self.status)
        await writer.drain()


@asynccontextmanager
async def listening(book: Book) -> AsyncIterator[Book]:
    server = await asyncio.start_server(book.serve, "127.0.0.1", 0)
    book.port = server.sockets[0].getsockname()[1]
    async with server:
        yield book


def attack(book: Book, kind: str, requests: Sequence[bytes] = (), **options: float) -> dict[int, int]:
    async def both() -> dict[int, int]:
        async with listening(book):
            task = Hostility(**({"kind": kind, "port": book.port, "connections": 3, "seconds": 0.5} | options))  # type: ignore[arg-type]
            attacker = hostile._Attacker(task, requests)
            await attacker.run()
            return dict(attacker.statuses)

    return asyncio.run(asyncio.wait_for(both(), 20))


def test_whole_requests_come_from_an_address_of_their_own() -> None:
    book = Book(status=422)
    statuses = attack(book, "ask", costly_bodies())
    assert statuses[422] >= 3
    assert book.peers == {ADDRESS}


def test_a_rate_is_kept_however_fast_the_server_answers() -> None:
    book = Book()
    attack(book, "ask", costly_bodies(), bytes_per_second=200_000.0)
    assert len(book.declared) <= 3  # each would have had dozens of answers in half a second without a rate


def test_a_body_that_is_never_whole_is_half_as_long_after_each_refusal() -> None:
    book = Book(status=503)
    attack(book, "unfinished", connections=1)
    first, second, third = book.declared[:3]
    assert (second, third) == (first // 2, first // 4)


def test_idle_connections_are_all_open_at_a_time() -> None:
    book = Book()
    assert attack(book, "idle", connections=20)[200] == 20
    assert book.most_open == 20


def test_costly_bodies_stay_below_256_kib_and_are_the_json_they_seem() -> None:
    for request in costly_bodies():
        body = request.partition(b"\r\n\r\n")[2]
        assert 200_000 < len(body) <= 1 << 18
        orjson.loads(body)


def test_a_kind_that_is_none_is_refused() -> None:
    with pytest.raises(KeyError):
        attack(Book(), "polite")
