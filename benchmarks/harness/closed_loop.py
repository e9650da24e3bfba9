"""python -m benchmarks.harness.closed_loop: keep-alive connections that each send when they have their answer, from a cheap process.

    each client: send a prepared request -> read its answer to the end -> note the time -> (pause) -> the next request

One request at a time on each connection, no pipelining. The requests are bytes made beforehand, taken in turn from one cycle, so
that every contender gets the same ones. Of an answer only the status, the length and the number of abstained rows are looked at.
Requests that begin in the window are the cell's latencies, those under way at its end are waited for; what ends within the window
is its throughput. Failures are samples like any other: a refused or lost connection has status 0, a request that timed out -1.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import time
from array import array
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import uvloop
from numpy.typing import NDArray

LOST, TIMED_OUT = 0, -1
_COLUMNS = 4
_RETRY_S = _LOOK_S = 0.1
_HEAD_ENDS = b"\r\n\r\n"
_LENGTH = b"content-length:"
_ABSTAINED = b'"abstained":true'

AnyLoad = TypeVar("AnyLoad")


@dataclass(frozen=True)
class Load:
    """What is asked of a server on this machine.

    Args:
        clients: connections; each has one request under way.
        seconds, warm_up_s: the window, and what runs before it uncounted.
        pause_s: between an answer and the next request of a client.
    """

    port: int
    clients: int
    seconds: float
    warm_up_s: float = 1.0
    timeout_s: float = 60.0
    pause_s: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What came of a load.

    Attributes:
        samples: [n, 4] in order of their ends: began and ended in seconds from the start of the window (negative: warm-up),
            status, abstained rows.
        seconds: the window.
        processor_share: what the generator itself took of one processor during the window.
    """

    samples: NDArray[np.float64]
    seconds: float
    processor_share: float

    def save(self, path: Path) -> None:
        """Write it as an .npz file."""
        np.savez(path, samples=self.samples, seconds=np.float64(self.seconds), processor_share=np.float64(self.processor_share))

    @classmethod
    def read(cls, path: Path) -> Outcome:
        """What `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            return cls(file["samples"], float(file["seconds"]), float(file["processor_share"]))


def save_requests(path: Path, requests: Sequence[bytes]) -> None:
    """Write prepared requests, head and body, for `read_requests`."""
    np.savez(path, bytes=np.frombuffer(b"".join(requests), np.uint8), ends=np.cumsum([len(request) for request in requests]))


def read_requests(path: Path) -> list[bytes]:
    """What `save_requests` wrote."""
    with np.load(path, allow_pickle=False) as file:
        everything, ends = file["bytes"].tobytes(), file["ends"].tolist()
    return [everything[first:last] for first, last in itertools.pairwise([0, *ends])]


async def run(load: Load, requests: Sequence[bytes]) -> Outcome:
    """Load a server, until the last request that began in the window has ended."""
    return await _Generator(load, requests).run()


class _Generator:
    def __init__(self, load: Load, requests: Sequence[bytes]) -> None:
        self.load = load
        self.requests: Iterator[bytes] = itertools.cycle(requests)
        self.connections: set[_Connection] = set()
        self._samples = array("d")
        self._opens = time.perf_counter() + load.warm_up_s
        self._closes = self._opens + load.seconds

    async def run(self) -> Outcome:
        watch = asyncio.create_task(self._time_out())
        processor = asyncio.create_task(self._processor_s())
        await asyncio.gather(*(self._client() for _ in range(self.load.clients)))
        watch.cancel()
        share = await processor / self.load.seconds
        return Outcome(np.array(self._samples).reshape(-1, _COLUMNS), self.load.seconds, share)

    def over(self) -> bool:
        """Whether the window is closed: nothing begins any more."""
        return time.perf_counter() >= self._closes

    def add(self, began: float, status: int, abstained: int = 0) -> None:
        """Note a request that ends now."""
        self._samples.extend((began - self._opens, time.perf_counter() - self._opens, status, abstained))

    async def _client(self) -> None:
        loop = asyncio.get_running_loop()
        while not self.over():
            began = time.perf_counter()
            try:
                _, connection = await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self.load.port)
            except OSError:
                self.add(began, LOST)
                await asyncio.sleep(_RETRY_S)
            else:
                await connection.closed

    async def _time_out(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            late = time.perf_counter() - self.load.timeout_s
            for connection in [c for c in self.connections if c.began is not None and c.began < late]:
                connection.give_up()

    async def _processor_s(self) -> float:
        """Processor seconds this process takes while the window is open."""
        await asyncio.sleep(self._opens - time.perf_counter())
        before = time.process_time()
        await asyncio.sleep(self._closes - time.perf_counter())
        return time.process_time() - before


class _Connection(asyncio.Protocol):
    """One client's connection; `began` is when its request under way began."""

    def __init__(self, generator: _Generator) -> None:
        self._generator = generator
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.began: float | None = None
        self._received, self._wanted = b"", 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._generator.connections.add(self)
        self._ask()

    def _ask(self) -> None:
        if self._generator.over():
            self._transport.close()
        elif not self._transport.is_closing():
            request = next(self._generator.requests)
            self.began = time.perf_counter()
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received = self._received + data if self._received else data
        if not self._wanted:
            self._wanted = length_of_answer(self._received)
        if self._wanted and len(self._received) >= self._wanted:
            self._answered()

    def _answered(self) -> None:
        if self.began is None or len(self._received) > self._wanted:
            raise RuntimeError("the server sent more than it was asked for")
        self._generator.add(self.began, int(self._received[9:12]), self._received.count(_ABSTAINED))
        self.began = None
        self._received, self._wanted = b"", 0
        if self._generator.load.pause_s:
            asyncio.get_running_loop().call_later(self._generator.load.pause_s, self._ask)
        else:
            self._ask()

    def give_up(self) -> None:
        """The request under way has timed out."""
        self._fail(TIMED_OUT)
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(LOST)
        self._generator.connections.discard(self)
        self.closed.set_result(None)

    def _fail(self, status: int) -> None:
        if self.began is not None:
            self._generator.add(self.began, status)
            self.began = None


def length_of_answer(received: bytes) -> int:
    """Bytes of the whole answer; 0 while its head is incomplete. Only answers that say their length are understood."""
    end = received.find(_HEAD_ENDS)
    if end < 0:
        return 0
    head = received[: end + 2].lower()
    at = head.find(_LENGTH)
    if at < 0:
        raise RuntimeError(f"expected an answer with a content-length, got {head[:200]!r}")
    return end + len(_HEAD_ENDS) + int(head[at + len(_LENGTH) : head.index(b"\r\n", at)])


def main_of(
    kind: type[AnyLoad], run: Callable[[AnyLoad, Sequence[bytes]], Coroutine[Any, Any, Outcome]], about: str | None
) -> None:
    """The command line of a load generator: run one load of this kind and write its samples."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("load", help=f"{kind.__name__}'s arguments as JSON")
    parser.add_argument("requests", type=Path, help="what save_requests wrote")
    parser.add_argument("out", type=Path, help="an .npz file to write")
    given = parser.parse_args()
    requests = read_requests(given.requests)
    gc.collect()
    gc.freeze()
    uvloop.run(run(kind(**json.loads(given.load)), requests)).save(given.out)


if __name__ == "__main__":
    main_of(Load, run, __doc__)
