"""The audit log: a thread of its own, a bounded queue, nothing lost in silence."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from defences.defended_classifier import Decisions, Trace
from models.classifier import Images
from service.edge.exchange import Source
from service.errors import NotReady, OverBudget, Unauthorised
from service.observing import audit_log as audit
from service.observing.audit_file import AuditFile, Unwritten
from service.observing.audit_log import Appendable, AuditLog
from tests.unit.service.audit_lines import read

SOURCE = Source("r-1", "", "/predict")


class Memory:
    """A file that keeps its lines; `open` lets it take them, and it takes none while it is `full`."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.threads: set[str] = set()
        self.entered, self.open = threading.Event(), threading.Event()
        self.open.set()
        self.full = self.closed = False
        self.writes = 0

    def write(self, lines: Sequence[bytes]) -> None:
        self.entered.set()
        self.writes += 1
        self.threads.add(threading.current_thread().name)
        assert self.open.wait(10)
        if self.full:
            self.lines.append(lines[0])
            raise Unwritten(1, "no space left on device")
        self.lines.extend(lines)

    def close(self) -> None:
        self.closed = True


class Counts:
    """What became of lines."""

    def __init__(self) -> None:
        self.written = 0
        self.lost: Counter[str] = Counter()

    def audited(self, lines: int) -> None:
        self.written += lines

    def audit_lost(self, reason: str, lines: int) -> None:
        self.lost[reason] += lines


def images(count: int) -> Images:
    return np.zeros((count, 2, 3, 1), np.float32)


def answered(count: int) -> Decisions:
    return Decisions(np.ones((count, 1), np.float32), np.zeros(count, bool), np.zeros(count, np.int64), Trace())


def run(scenario: Callable[[AuditLog], Awaitable[Any]], file: Appendable, counts: Counts, **options: Any) -> None:
    """Run a scenario against a log of its own, within ten seconds, and close that."""

    async def main() -> None:
        log = AuditLog(file, counts, secret=b"", model="insects", model_version="0123456789ab", labels=("ant",), **options)
        await asyncio.wait_for(scenario(log), 10)
        await log.close(10)

    asyncio.run(main())


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.001)


def test_every_image_has_a_line_in_order_and_the_end_writes_what_waits() -> None:
    file, counts = Memory(), Counts()

    async def scenario(log: AuditLog) -> None:
        log.started("1.0", [("strip", "enforce")], secret_is_random=True)
        for count in (1, 2, 3):
            log.decided(SOURCE, images(count), answered(count))

    run(scenario, file, counts)
    events = read(file.lines)
    assert [event["event"] for event in events] == ["started", *["decision"] * 6, "stopped"]
    assert [event["sequence"] for event in events] == list(range(8))
    assert [(event["row"], event["rows"]) for event in events[1:7]] == [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
    assert len({event["writer"] for event in events}) == 1
    assert (counts.written, counts.lost) == (8, Counter())
    assert file.closed
    assert file.threads == {"hauberk-audit"}


def test_many_decisions_are_written_together() -> None:
    file, counts = Memory(), Counts()

    async def scenario(log: AuditLog) -> None:
        for _ in range(300):
            log.decided(SOURCE, images(1), answered(1))

    run(scenario, file, counts)
    assert len(file.lines) == 301
    assert file.writes <= 3


@pytest.mark.parametrize("limit", [{"waiting_lines": 6}, {"waiting_bytes": 6 * images(1).nbytes}])
def test_while_the_disk_stands_still_nobody_waits_and_what_does_not_fit_is_counted_and_told_once(
    limit: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    file, counts = Memory(), Counts()
    file.open.clear()

    async def scenario(log: AuditLog) -> None:
        log.decided(SOURCE, images(2), answered(2))
        await until(file.entered.is_set)
        for _ in range(4):
            log.decided(SOURCE, images(2), answered(2))
        assert counts.lost == {"queue": 4}
        file.open.set()
        await until(lambda: counts.written == 6)
        log.decided(SOURCE, images(2), answered(2))

    run(scenario, file, counts, **limit)
    events = read(file.lines)
    assert [event["sequence"] for event in events] == [0, 1, 2, 3, 4, 5, 10, 11, 12]  # the gap is what was lost
    assert events[-1] == {**events[-1], "event": "stopped", "lost": 4}
    assert [record.message for record in caplog.records] == ["the audit log does not keep up: lines are lost"]


def test_a_disk_that_takes_no_more_is_counted_and_told_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    file, counts = Memory(), Counts()
    file.full = True
    caplog.set_level(logging.INFO)

    async def scenario(log: AuditLog) -> None:
        for lost in (3, 6):
            log.decided(SOURCE, images(4), answered(4))
            await until(lambda lost=lost: counts.lost["disk"] == lost)  # type: ignore[misc]
        file.full = False

    run(scenario, file, counts)
    assert [event["sequence"] for event in read(file.lines)] == [0, 4, 8]
    assert counts.written == 3
    assert [record.message for record in caplog.records] == [
        "the audit log cannot be written (no space left on device): lines are lost",
        "the audit log is written again",
    ]


def test_a_real_disk_that_is_full_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    counts = Counts()

    async def scenario(log: AuditLog) -> None:
        log.decided(SOURCE, images(4), answered(4))

    run(scenario, AuditFile(Path("/dev/full"), bytes_at_most=1000, files=2), counts)
    assert counts.lost == {"disk": 5}
    assert "no space left on device" in caplog.text


def test_refusals_of_a_kind_share_a_line_a_second_and_others_are_not_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "REFUSALS_S", 0.05)
    file, counts = Memory(), Counts()

    async def scenario(log: AuditLog) -> None:
        for number in range(50):
            log.refused(Source(f"a-{number}", "alice", "/predict"), OverBudget(1))
        log.refused(Source("b-0", "bob", "/predict"), OverBudget(1))
        log.refused(Source("c-0", "", "/predict"), Unauthorised())
        log.refused(Source("d-0", "", "/predict"), NotReady())
        await until(lambda: counts.written == 4)
        log.refused(Source("a-50", "alice", "/predict"), OverBudget(1))
        log.refused(Source("a-51", "alice", "/predict"), OverBudget(1))

    run(scenario, file, counts)
    told = [(event["request_id"], event["count"], event["code"]) for event in read(file.lines)[:-1]]
    assert told == [
        ("a-0", 1, "budget_spent"),
        ("b-0", 1, "budget_spent"),
        ("c-0", 1, "unauthorised"),
        ("a-49", 49, "budget_spent"),
        ("a-50", 1, "budget_spent"),
        ("a-51", 1, "budget_spent"),
    ]


def test_what_comes_after_the_end_is_counted_as_lost() -> None:
    file, counts = Memory(), Counts()

    async def scenario(log: AuditLog) -> None:
        await log.close(10)
        log.decided(SOURCE, images(2), answered(2))
        assert counts.lost == {"queue": 2}

    run(scenario, file, counts)
    assert [event["event"] for event in read(file.lines)] == ["stopped"]
