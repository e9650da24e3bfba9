"""The load generator against a small server that keeps books of its own."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from benchmarks.harness.closed_loop import LOST, TIMED_OUT, Load, Outcome, read_requests, run, save_requests

REQUESTS = [b"POST /predict HTTP/1.1\r\ncontent-length: 3\r\n\r\n" + body for body in (b"one", b"two", b"six")]


def answer(status: int, body: bytes = b"{}") -> bytes:
    return b"HTTP/1.1 %d Whatever\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body


@dataclass
class Book:
    """What the server saw. `answers` are given in turn; an empty one hangs up, None never comes."""

    answers: Sequence[bytes | None]
    delay_s: float = 0.0
    pieces: int = 1
    connections: int = 0
    early: int = 0
    seen: list[bytes] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                self.seen.append(await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(3))
                reply = self.answers[(len(self.seen) - 1) % len(self.answers)]
                await asyncio.sleep(self.delay_s)
                # Whatever came meanwhile came without waiting for this answer.
                self.early += len(reader._buffer)  # type: ignore[attr-defined]
                if reply is None:
                    await reader.read()
                if not reply:
                    return
                self.statuses[int(reply[9:12])] += 1
                await self._write(writer, reply)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _write(self, writer: asyncio.StreamWriter, reply: bytes) -> None:
        size = -(-len(reply) // self.pieces)
        for start in range(0, len(reply), size):
            writer.write(reply[start : start + size])
            await writer.drain()
            await asyncio.sleep(0)


@asynccontextmanager
async def listening(book: Book) -> AsyncIterator[Book]:
    server = await asyncio.start_server(book.serve, "127.0.0.1", 0)
    book.port = server.sockets[0].getsockname()[1]
    async with server:
        yield book


async def deserted_port() -> int:
    """A port where somebody has listened and nobody does."""
    async with listening(Book([])) as book:
        return book.port


def load(book: Book, **options: float) -> Outcome:
    async def both() -> Outcome:
        async with listening(book):
            return await run(Load(**({"port": book.port, "clients": 3, "seconds": 0.2, "warm_up_s": 0.05} | options)), REQUESTS)  # type: ignore[arg-type]

    return asyncio.run(asyncio.wait_for(both(), 10))


def statuses(outcome: Outcome) -> Counter[int]:
    return Counter(outcome.samples[:, 2].astype(int).tolist())


def test_every_answer_is_one_sample_with_its_status() -> None:
    book = Book([answer(200), answer(200), answer(503)], delay_s=0.001)
    outcome = load(book)
    assert statuses(outcome) == book.statuses
    assert set(book.statuses) == {200, 503}
    assert len(outcome.samples) == len(book.seen)


def test_requests_are_taken_in_turn_and_sent_as_they_are() -> None:
    book = Book([answer(200)])
    load(book, clients=1)
    assert book.seen == [REQUESTS[i % len(REQUESTS)] for i in range(len(book.seen))]


def test_each_client_keeps_one_connection_and_waits_for_an_answer_before_it_asks_again() -> None:
    book = Book([answer(200)], delay_s=0.002)
    load(book, clients=4)
    assert book.connections == 4
    assert book.early == 0
    assert len(book.seen) > 8


def test_a_latency_is_the_time_until_the_end_of_the_answer() -> None:
    outcome = load(Book([answer(200)], delay_s=0.02))
    began, ended, _, _ = outcome.samples.T
    assert ((ended - began) >= 0.02).all()
    assert np.median(ended - began) < 0.1


def test_the_warm_up_has_negative_times_and_nothing_begins_after_the_window() -> None:
    outcome = load(Book([answer(200)], delay_s=0.005))
    began, ended = outcome.samples[:, 0], outcome.samples[:, 1]
    assert began.min() < 0
    assert began.max() < outcome.seconds
    assert (np.diff(ended) >= 0).all()


def test_an_unhurried_client_pauses_after_each_answer() -> None:
    outcome = load(Book([answer(200)]), clients=1, pause_s=0.03)
    began, ended, _, _ = outcome.samples.T
    assert len(began) > 2
    assert (began[1:] - ended[:-1] >= 0.029).all()


@pytest.mark.parametrize("pieces", [1, 2, 7, 40])
def test_an_answer_that_comes_in_pieces_is_read_to_its_end_and_its_refused_rows_are_counted(pieces: int) -> None:
    body = b'{"predictions":[{"abstained":true},{"abstained":false},{"abstained":true}]}'
    outcome = load(Book([answer(200, body), answer(200)], pieces=pieces), clients=1)
    assert outcome.samples[:4, 3].tolist() == [2, 0, 2, 0]


def test_a_request_without_an_answer_is_a_sample_that_timed_out() -> None:
    outcome = load(Book([answer(200), None]), clients=1, timeout_s=0.05)
    late = outcome.samples[outcome.samples[:, 2] == TIMED_OUT]
    assert len(late) >= 1
    assert (late[:, 1] - late[:, 0] >= 0.05).all()
    assert set(statuses(outcome)) == {200, TIMED_OUT}


def test_a_lost_connection_is_a_sample_and_the_client_connects_again() -> None:
    book = Book([answer(200), answer(200), b""])
    outcome = load(book, clients=1)
    assert book.connections > 1
    assert statuses(outcome)[LOST] == len(book.seen) - book.statuses[200] >= 1


def test_a_server_that_refuses_connections_is_all_failures() -> None:
    async def to_nobody() -> Outcome:
        return await run(Load(await deserted_port(), clients=2, seconds=0.15, warm_up_s=0), REQUESTS)

    outcome = asyncio.run(asyncio.wait_for(to_nobody(), 10))
    assert set(statuses(outcome)) == {LOST}


def test_requests_and_outcomes_survive_their_files(tmp_path: Path) -> None:
    save_requests(tmp_path / "requests.npz", REQUESTS)
    assert read_requests(tmp_path / "requests.npz") == REQUESTS
    outcome = Outcome(np.array([[-0.1, 0.2, 200.0, 1.0]]), 3.0, 0.25)
    outcome.save(tmp_path / "outcome.npz")
    again = Outcome.read(tmp_path / "outcome.npz")
    assert (again.samples == outcome.samples).all()
    assert (again.seconds, again.processor_share) == (3.0, 0.25)
