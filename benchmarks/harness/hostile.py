"""python -m benchmarks.harness.hostile: clients that try to starve their neighbours, in a process of its own.

They come from an address of their own (127.0.0.2), keep to a stated rate where they have one, and come back when they are turned away.
Each ends after a time, and prints how often it got which status.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop

from benchmarks.harness.closed_loop import LOST, length_of_answer, read_requests
from benchmarks.harness.requests import http_request

ADDRESS = "127.0.0.2"
_JSON_BYTES = (1 << 18) - 64
_PIECE = 1 << 14
_SMALLEST = 1 << 12
_PATIENCE_S, _RETRY_S = 30.0, 0.05
_IDLE_HEAD = b"GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
_LONG_ANSWER = b"GET /docs.json HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
_PIPELINED, _RECEIVE_BUFFER = 50, 4096


@dataclass(frozen=True)
class Hostility:
    """What is done to a server on this machine.

    Args:
        kind: of `KINDS`.
        connections: held at a time. seconds: how long.
        bytes_per_second: sent by all connections together; without, each sends when it has its answer.
    """

    kind: str
    port: int
    connections: int
    seconds: float
    bytes_per_second: float | None = None


def costly_bodies() -> list[bytes]:
    """Requests of 256 KiB that hold many small things and no image: empty objects, empty keys, ragged rows."""
    objects = b'{"x":1,"images":[' + b"{}," * (_JSON_BYTES // 3) + b"{}]}"
    keys = b'{"":0' + b',"":0' * (_JSON_BYTES // 5) + b"}"
    rows = b'{"images":[[' + b"[0],[0,0]," * (_JSON_BYTES // 10) + b"[]]]}"
    return [http_request("/predict", "application/json", body) for body in (objects, keys, rows)]


class _Attacker:
    def __init__(self, task: Hostility, requests: Sequence[bytes]) -> None:
        self.task = task
        self.requests = itertools.cycle(requests or [b""])
        self.statuses: Counter[int] = Counter()
        self.ends = time.monotonic() + task.seconds

    async def run(self) -> None:
        work = KINDS[self.task.kind]
        await asyncio.gather(*(self._until_the_end(work) for _ in range(self.task.connections)))

    async def _until_the_end(self, work: Callable[[_Attacker, _Socket], Awaitable[None]]) -> None:
        """One connection after the other."""
        while (left := self.ends - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._once(work)

    async def _once(self, work: Callable[[_Attacker, _Socket], Awaitable[None]]) -> None:
        try:
            connection = await _Socket.to(self.task.port)
        except OSError:
            self.statuses[LOST] += 1
            await asyncio.sleep(_RETRY_S)
            return
        try:
            await work(self, connection)
        except OSError:
            self.statuses[LOST] += 1
        finally:
            connection.close()
        await asyncio.sleep(_RETRY_S)

    async def pace(self, sent: int) -> None:
        """Wait as long as so many bytes take at this connection's share of the rate."""
        if self.task.bytes_per_second is not None:
            await asyncio.sleep(sent * self.task.connections / self.task.bytes_per_second)


class _Socket:
    """A connection from the attacker's address."""

    def __init__(self, raw: socket.socket) -> None:
        self._raw = raw
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def to(cls, port: int) -> _Socket:
        raw = socket.socket()
        raw.setblocking(False)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        raw.bind((ADDRESS, 0))
        try:
            await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", port))
        except BaseException:
            raw.close()
            raise
        return cls(raw)

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._raw, data)

    async def receive(self, most: int = 1 << 16) -> bytes:
        """Raises: OSError: closed."""
        part = await self._loop.sock_recv(self._raw, most)
        if not part:
            raise ConnectionResetError
        return part

    async def status(self, within_s: float = _PATIENCE_S) -> int:
        """Read one answer to its end; its status."""
        received = b""
        try:
            async with asyncio.timeout(within_s):
                while not (wanted := length_of_answer(received)) or len(received) < wanted:
                    received += await self.receive()
        except TimeoutError:
            raise ConnectionResetError from None
        return int(received[9:12])

    def close(self) -> None:
        self._raw.close()


async def _ask(attacker: _Attacker, connection: _Socket) -> None:
    """Whole requests, one after the other."""
    while True:
        request = next(attacker.requests)
        for start in range(0, len(request), _PIECE):
            piece = request[start : start + _PIECE]
            await connection.send(piece)
            await attacker.pace(len(piece))
        attacker.statuses[await connection.status()] += 1


async def _leave_unfinished(attacker: _Attacker, connection: _Socket) -> None:
    """Bodies that lack their last byte, half as long after each refusal that says there is no room for so much."""
    size = _JSON_BYTES * 4
    while True:
        head = http_request("/predict", "application/json", b"").replace(b"content-length: 0", b"content-length: %d" % size)
        await connection.send(head)
        for start in range(0, size - 1, _PIECE):
            piece = b"0" * min(_PIECE, size - 1 - start)
            await connection.send(piece)
            await attacker.pace(len(piece))
        status = await connection.status()
        attacker.statuses[status] += 1
        size = max(_SMALLEST, size // 2) if status in (413, 503) else size


async def _idle(attacker: _Attacker, connection: _Socket) -> None:
    """A request, and then nothing more."""
    await connection.send(_IDLE_HEAD)
    attacker.statuses[await connection.status()] += 1
    await connection.receive()


async def _read_slowly(attacker: _Attacker, connection: _Socket) -> None:
    """Long answers, of which a byte a second is read."""
    await connection.send(_LONG_ANSWER * _PIPELINED)
    attacker.statuses[0] += 0
    while True:
        await connection.receive(1)
        await asyncio.sleep(1.0)


KINDS: dict[str, Callable[[_Attacker, _Socket], Awaitable[None]]] = {
    "ask": _ask,
    "unfinished": _leave_unfinished,
    "idle": _idle,
    "slow_reader": _read_slowly,
}


def command(task: Hostility, requests: Path | None = None) -> list[str]:
    """The arguments of Python that do it."""
    return ["-m", "benchmarks.harness.hostile", json.dumps(asdict(task)), *([str(requests)] if requests else [])]


def main() -> None:
    """Do it, and print the statuses as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", help="Hostility's arguments as JSON")
    parser.add_argument("requests", type=Path, nargs="?", help="what save_requests wrote")
    given = parser.parse_args()
    requests = read_requests(given.requests) if given.requests else []
    attacker = _Attacker(Hostility(**json.loads(given.task)), requests)
    uvloop.run(attacker.run())
    print(json.dumps({str(status): count for status, count in sorted(attacker.statuses.items())}))


if __name__ == "__main__":
    main()
