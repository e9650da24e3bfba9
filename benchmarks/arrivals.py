"""python -m benchmarks.arrivals: requests that arrive at a constant rate, whatever has become of those before; in a process of its own.

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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from benchmarks.load import LOST, TIMED_OUT, Outcome, length_of_answer, main_of

_READY = b"GET /readyz HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"
_CLOSE, _RETRY = b"connection: close", b"retry-after:"
NOT_TOLD, CHANGED = -2, -3
"""In the fourth column of a sample: refused with 429 or 503 without Retry-After; answered otherwise than the same request before."""
IDLE_S = 60.0
"""A connection that is idle for longer is not used again, as load balancers have it: its server may be closing it."""
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


class _Generator:
    def __init__(self, load: Arrivals, requests: Sequence[bytes]) -> None:
        self.load = load
        self._requests: Iterator[tuple[int, bytes]] = itertools.cycle(enumerate(requests))
        self._labels: dict[int, list[bytes]] = {}
        self.idle: list[_Connection] = []
        self._samples = array("d")
        self._under_way: set[asyncio.Task[None]] = set()
        self._opens = time.perf_counter() + load.warm_up_s
        self._told_to_stop = False
        self._connections = asyncio.Semaphore(load.connections)

    async def run(self) -> Outcome:
        watch = asyncio.create_task(self._watch_readiness()) if self.load.heed_readiness else None
        processor = time.process_time()
        intended = time.perf_counter()
        ends = self._opens + self.load.seconds
        while intended < ends and not self._told_to_stop:
            await asyncio.sleep(max(0.0, intended - time.perf_counter()))
            task = asyncio.create_task(self._ask(*next(self._requests), intended))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            intended += 1 / self.load.rate
        took = time.perf_counter() - (self._opens - self.load.warm_up_s)
        share = (time.process_time() - processor) / took
        while self._under_way:
            await asyncio.wait(self._under_way)
        if watch is not None:
            watch.cancel()
        return Outcome(np.array(self._samples).reshape(-1, 4), min(self.load.seconds, took - self.load.warm_up_s), share)

    async def _ask(self, number: int, request: bytes, intended: float) -> None:
        status, told = LOST, 0
        async with self._connections:
            began = time.perf_counter() if self.load.from_sent else intended
            try:
                async with asyncio.timeout(self.load.timeout_s):
                    connection = self._reused() or await self._connect()
                    status, told, answer = await connection.ask(request)
                if status == 200:
                    labels = _LABEL.findall(answer)
                    told = 0 if self._labels.setdefault(number, labels) == labels else CHANGED
            except TimeoutError:
                status = TIMED_OUT
            except OSError:
                pass
            now = time.perf_counter()
        self._samples.extend((began - self._opens, now - self._opens, status, told))

    def _reused(self) -> _Connection | None:
        """The connection that was in use last."""
        long_ago = time.perf_counter() - IDLE_S
        while self.idle and self.idle[0].idle_since < long_ago:
            self.idle.pop(0).close()
        return self.idle.pop() if self.idle else None

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: _Connection(self.idle), "127.0.0.1", self.load.port)
        return connection

    async def _watch_readiness(self) -> None:
        while not self._told_to_stop:
            await asyncio.sleep(0.1)
            with contextlib.suppress(OSError):
                status, _, _ = await (await self._connect()).ask(_READY)
                self._told_to_stop = status == 503


class _Connection(asyncio.Protocol):
    def __init__(self, idle: list[_Connection]) -> None:
        self._idle = idle
        self.idle_since = 0.0
        self._received, self._wanted = b"", 0
        self._answer: asyncio.Future[tuple[int, int, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    async def ask(self, request: bytes) -> tuple[int, int, bytes]:
        """Status, `NOT_TOLD` for a refusal that does not say when to come again, and the whole answer.

        Raises: OSError when the connection is lost.
        """
        self._received, self._wanted = b"", 0
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            return await self._answer
        except asyncio.CancelledError:
            self._transport.abort()
            raise

    def close(self) -> None:
        """No request goes this way any more."""
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._wanted = self._wanted or length_of_answer(self._received)
        if not self._wanted or len(self._received) < self._wanted or self._answer is None or self._answer.done():
            return
        head = self._received.partition(b"\r\n\r\n")[0].lower()
        status = int(self._received[9:12])
        if _CLOSE in head:
            self._transport.close()
        else:
            self.idle_since = time.perf_counter()
            self._idle.append(self)
        self._answer.set_result((status, NOT_TOLD if status in (429, 503) and _RETRY not in head else 0, self._received))

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self._idle:
            self._idle.remove(self)
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError())


if __name__ == "__main__":
    main_of(Arrivals, run, __doc__)
