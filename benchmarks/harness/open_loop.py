"""python -m benchmarks.harness.open_loop: requests that arrive at a constant rate, whatever has become of those before; in
a process of its own.

    every 1/rate seconds: an idle keep-alive connection, or a new one -> send -> read -> note (intended start, end, status)

An open loop: latencies count from when a request was meant to begin, so that a queue shows. A client that behaves: it closes a connection
whose answer says `Connection: close`, and stops for good when `/readyz` says 503, as a load balancer would. Failures are samples.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import time
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from benchmarks.harness.closed_loop import LOST, TIMED_OUT, Outcome, length_of_answer, main_of

_READY = b"GET /readyz HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"
_CLOSE, _RETRY = b"connection: close", b"retry-after:"
NOT_TOLD, CHANGED = -2, -3
"""In the fourth column of a sample: refused with 429 or 503 without Retry-After; answered otherwise than the same request before."""
IDLE_S = 60.0
"""A connection that is idle for longer is not used again, as load balancers have it: its server may be closing it."""
_STATUS_BEGINS, _STATUS_ENDS = 9, 12  # in "HTTP/1.1 200"
_LOOK_S = 0.1
_LABEL = re.compile(rb'"label":("[^"]*"|null)')


@dataclass(frozen=True)
class Arrivals:
    """What is asked of a server on this machine.

    Args:
        rate: requests a second.
        connections: at most; arrivals beyond wait for one, as behind a proxy with a pool.
        from_sent: latencies count from when a request was sent, not from when it was meant to be.
        heed_readiness: look at /readyz ten times a second, and stop for good when it is not 200.
    """

    port: int
    rate: float
    seconds: float
    warm_up_s: float = 1.0
    timeout_s: float = 60.0
    connections: int = 16_384
    from_sent: bool = False
    heed_readiness: bool = False


async def run(load: Arrivals, requests: Sequence[bytes]) -> Outcome:
    """Send, until the last request has ended. The samples' times are from the end of the warm-up."""
    return await _Generator(load, requests).run()


@dataclass(slots=True)
class _Request:
    """One on its way. `began` is what its latency counts from, `turn` when it had a connection or was about to get one."""

    number: int
    content: bytes
    began: float
    turn: float = 0.0
    timed_out: bool = False


class _Generator:
    """No task, timer or lock per request: what the generator takes of a processor, the server on this machine does not get."""

    def __init__(self, load: Arrivals, requests: Sequence[bytes]) -> None:
        self.load = load
        self._requests: Iterator[tuple[int, bytes]] = itertools.cycle(enumerate(requests))
        self._labels: dict[int, list[bytes]] = {}
        self._idle: list[_Connection] = []
        self._busy: set[_Connection] = set()
        self._waiting: deque[_Request] = deque()
        self._connecting: set[asyncio.Task[None]] = set()
        self._open = self._under_way = 0
        self._samples = array("d")
        self._opens = time.perf_counter() + load.warm_up_s
        self._told_to_stop = False

    async def run(self) -> Outcome:
        watches = [asyncio.create_task(self._time_out())]
        if self.load.heed_readiness:
            watches.append(asyncio.create_task(self._watch_readiness()))
        processor = time.process_time()
        intended = time.perf_counter()
        ends = self._opens + self.load.seconds
        while intended < ends and not self._told_to_stop:
            await asyncio.sleep(max(0.0, intended - time.perf_counter()))
            self._under_way += 1
            self._give_turn(_Request(*next(self._requests), intended))
            intended += 1 / self.load.rate
        took = time.perf_counter() - (self._opens - self.load.warm_up_s)
        share = (time.process_time() - processor) / took
        while self._under_way:
            await asyncio.sleep(_LOOK_S / 10)
        for watch in watches:
            watch.cancel()
        for connection in self._idle:
            connection.close()
        return Outcome(np.array(self._samples).reshape(-1, 4), min(self.load.seconds, took - self.load.warm_up_s), share)

    def _give_turn(self, request: _Request) -> None:
        """Send it by the connection that was in use last, or by a new one; where there may be none, it waits."""
        connection = self._reused()
        if connection is None and self._open >= self.load.connections:
            self._waiting.append(request)
            return
        request.turn = time.perf_counter()
        if self.load.from_sent:
            request.began = request.turn
        if connection is not None:
            self._send(connection, request)
            return
        self._open += 1
        task = asyncio.create_task(self._connect(request))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    def _send(self, connection: _Connection, request: _Request) -> None:
        self._busy.add(connection)
        connection.ask(request)

    def _reused(self) -> _Connection | None:
        long_ago = time.perf_counter() - IDLE_S
        while self._idle and self._idle[0].idle_since < long_ago:
            self._idle.pop(0).close()
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        return None

    async def _connect(self, request: _Request) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.load.timeout_s):
                _, connection = await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self.load.port)
        except OSError as failure:
            # A time-out of our own, that is: one of the kernel's is an OSError with a number.
            self._note(request, TIMED_OUT if isinstance(failure, TimeoutError) and failure.errno is None else LOST)
            self._freed()
            return
        if connection.usable:
            self._send(connection, request)
        else:  # lost already, and counted as such
            self._note(request, LOST)

    def answered(self, connection: _Connection, request: _Request, status: int, told: int, answer: bytes) -> None:
        """A connection has the whole answer, and is idle unless it closes."""
        self._busy.discard(connection)
        if status == 200:
            labels = _LABEL.findall(answer)
            told = 0 if self._labels.setdefault(request.number, labels) == labels else CHANGED
        self._note(request, status, told)
        if connection.usable:
            connection.idle_since = time.perf_counter()
            self._idle.append(connection)
            if self._waiting:
                self._give_turn(self._waiting.popleft())

    def lost(self, connection: _Connection, request: _Request | None) -> None:
        """A connection is gone, with the request that was under way on it."""
        self._busy.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if request is not None:
            self._note(request, TIMED_OUT if request.timed_out else LOST)
        self._freed()

    def _freed(self) -> None:
        self._open -= 1
        if self._waiting:
            self._give_turn(self._waiting.popleft())

    def _note(self, request: _Request, status: int, told: int = 0) -> None:
        self._under_way -= 1
        self._samples.extend((request.began - self._opens, time.perf_counter() - self._opens, status, told))

    async def _time_out(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            late = time.perf_counter() - self.load.timeout_s
            for connection in [each for each in self._busy if each.request is not None and each.request.turn < late]:
                connection.give_up()

    async def _watch_readiness(self) -> None:
        while not self._told_to_stop:
            await asyncio.sleep(_LOOK_S)
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.load.port)
                writer.write(_READY)
                self._told_to_stop = (await reader.readexactly(_STATUS_ENDS))[_STATUS_BEGINS:] == b"503"
                writer.close()


class _Connection(asyncio.Protocol):
    """A keep-alive connection; `request` is under way on it."""

    def __init__(self, generator: _Generator) -> None:
        self._generator = generator
        self.request: _Request | None = None
        self.idle_since = 0.0
        self._received, self._wanted = b"", 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    @property
    def usable(self) -> bool:
        """Whether it can take another request."""
        return not self._transport.is_closing()

    def ask(self, request: _Request) -> None:
        """Send a request."""
        self.request = request
        self._received, self._wanted = b"", 0
        self._transport.write(request.content)

    def close(self) -> None:
        """No request goes this way any more."""
        self._transport.close()

    def give_up(self) -> None:
        """The request under way has timed out."""
        if self.request is not None:
            self.request.timed_out = True
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._received = self._received + data if self._received else data
        self._wanted = self._wanted or length_of_answer(self._received)
        if not self._wanted or len(self._received) < self._wanted or self.request is None:
            return
        request, self.request = self.request, None
        head = self._received.partition(b"\r\n\r\n")[0].lower()
        status = int(self._received[_STATUS_BEGINS:_STATUS_ENDS])
        if _CLOSE in head:
            self._transport.close()
        told = NOT_TOLD if status in (429, 503) and _RETRY not in head else 0
        self._generator.answered(self, request, status, told, self._received)

    def connection_lost(self, exc: Exception | None) -> None:
        request, self.request = self.request, None
        self._generator.lost(self, request)


if __name__ == "__main__":
    main_of(Arrivals, run, __doc__)
