"""The open loop against the small server that keeps books of its own."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import numpy as np
import pytest

from benchmarks.harness import open_loop
from benchmarks.harness.closed_loop import LOST, TIMED_OUT, Outcome
from benchmarks.harness.open_loop import CHANGED, NOT_TOLD, Arrivals, run
from tests.unit.benchmarks.harness.test_closed_loop import REQUESTS, Book, answer, deserted_port, listening, statuses

CLOSING = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"
RETRY = b"HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 2\r\n\r\n{}"


def arrive(book: Book, **options: Any) -> Outcome:
    async def both() -> Outcome:
        async with listening(book):
            return await run(
                Arrivals(**({"port": book.port, "rate": 200, "seconds": 0.3, "warm_up_s": 0.05} | options)), REQUESTS
            )

    return asyncio.run(asyncio.wait_for(both(), 10))


def test_requests_arrive_at_their_rate_whatever_becomes_of_those_before() -> None:
    outcome = arrive(Book([answer(200)], delay_s=0.1))
    began, ended, _, _ = outcome.samples[np.argsort(outcome.samples[:, 0])].T
    assert len(began) == pytest.approx(70, abs=2)
    np.testing.assert_allclose(np.diff(began), 1 / 200, atol=1e-6)  # as intended, not as the machine managed
    assert began[0] == pytest.approx(-0.05, abs=0.005)
    assert (ended - began >= 0.1).all()


def test_every_request_is_one_sample_and_connections_are_used_again() -> None:
    book = Book([answer(200), RETRY])
    outcome = arrive(book)
    assert statuses(outcome) == book.statuses
    assert set(book.statuses) == {200, 503}
    assert book.early == 0
    assert book.connections < len(book.seen) / 2


def test_beyond_the_connections_requests_wait_and_their_latency_counts_from_when_they_were_meant_to_begin_or_were_sent() -> None:
    book = Book([answer(200)], delay_s=0.02)
    meant = arrive(book, connections=2)
    assert book.connections == 2
    assert len(meant.samples) == len(book.seen) == pytest.approx(70, abs=2)
    assert (meant.samples[:, 1] - meant.samples[:, 0]).max() > 0.2
    sent = arrive(Book([answer(200)], delay_s=0.02), connections=2, from_sent=True)
    assert np.median(sent.samples[:, 1] - sent.samples[:, 0]) < 0.1


def test_a_refusal_that_does_not_say_when_to_come_again_is_marked() -> None:
    outcome = arrive(Book([answer(503), RETRY, answer(429)]))
    told = Counter(map(tuple, outcome.samples[:, 2:].astype(int).tolist()))
    assert set(told) == {(503, NOT_TOLD), (503, 0), (429, NOT_TOLD)}


def test_an_answer_that_differs_from_the_last_to_the_same_request_is_marked() -> None:
    steady, other = answer(200, b'{"predictions":[{"label":"3"}]}'), answer(200, b'{"predictions":[{"label":null}]}')
    assert not (arrive(Book([steady] * 3)).samples[:, 3] == CHANGED).any()
    assert (arrive(Book([steady] * 30 + [other])).samples[:, 3] == CHANGED).any()


def test_a_connection_that_says_it_closes_is_not_used_again() -> None:
    book = Book([CLOSING])
    outcome = arrive(book)
    assert book.connections == len(book.seen) == len(outcome.samples)
    assert set(statuses(outcome)) == {200}


def test_lost_connections_and_late_answers_are_samples() -> None:
    lost = arrive(Book([answer(200), b""]))
    assert statuses(lost)[LOST] >= 1
    late = arrive(Book([answer(200), answer(200), None]), timeout_s=0.1)
    samples = late.samples[late.samples[:, 2] == TIMED_OUT]
    assert len(samples) >= 1
    assert (samples[:, 1] - samples[:, 0] >= 0.1).all()
    assert set(statuses(late)) == {200, TIMED_OUT}


def test_where_nobody_listens_every_request_is_lost() -> None:
    async def to_nobody() -> Outcome:
        return await run(Arrivals(await deserted_port(), rate=100, seconds=0.2, connections=2), REQUESTS)

    outcome = asyncio.run(asyncio.wait_for(to_nobody(), 10))
    assert set(statuses(outcome)) == {LOST}


def test_a_client_that_heeds_readiness_stops_when_it_is_told() -> None:
    class Unready(Book):
        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if await reader.read(1) == b"G":
                await self._write(writer, RETRY)
                writer.close()
                return
            rest = await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(3)
            self.seen.append(rest)
            await self._write(writer, CLOSING)
            writer.close()

    book = Unready([])
    outcome = arrive(book, seconds=5.0, heed_readiness=True)
    assert outcome.seconds < 1.0
    assert len(outcome.samples) == len(book.seen) < 200


def test_an_idle_connection_that_is_old_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_loop, "IDLE_S", 0.0)
    book = Book([answer(200)])
    arrive(book)
    assert book.connections > len(book.seen) / 2
