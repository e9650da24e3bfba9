"""The audit log: a line of JSON per decision, written beside the event loop.

    decide ── record ──> [ queue, bounded in images and bytes ] ──> one thread: hash, format, append ──> file

No answer waits for the disk. Lines are lost when the disk is so slow that the queue is full, or when the disk is full; they are
counted and logged, and answers go on: a log is evidence and refuses nothing, and a full disk should not be a way to stop the
classifier. Sequence numbers are given before a line can be lost, so that a gap in them shows the loss in the file too. An answer can
be out a moment before its line.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from defences.defended_classifier import Decisions
from models.classifier import Images
from service.edge.exchange import Source
from service.errors import Problem
from service.observing import audit_events
from service.observing.audit_events import Decided, Told
from service.observing.audit_file import Unwritten
from service.observing.mitre_atlas import REFUSALS

logger = logging.getLogger(__name__)

# The most a queue holds: lines, and bytes of images that are not hashed yet.
_WAITING_LINES, _WAITING_BYTES = 8192, 256 << 20
# So many records are written together, or those of this time: a system call for each would cost more than the line.
_TOGETHER, _GATHER_S = 256, 0.05
# The refusals of one client for one reason share a line this many seconds: they cost a client nothing and must not rotate decisions
# away. Clients without a name share one line.
REFUSALS_S = 1.0


class Appendable(Protocol):
    """Takes lines, as `AuditFile` does."""

    def write(self, lines: Sequence[bytes]) -> None:
        """Append them. Raises: Unwritten."""

    def close(self) -> None:
        """No more come."""


class Counts(Protocol):
    """Counts lines written and lines lost."""

    def audited(self, lines: int) -> None:
        """They are written."""

    def audit_lost(self, reason: str, lines: int) -> None:
        """They are lost, because the "queue" or the "disk" is full."""


class AuditLog:
    """Takes records in the event loop and writes them in a thread of its own.

    Args:
        file: where lines go. counts: see there.
        secret, model, model_version, labels: see `audit_events.Writer`.
        waiting_lines, waiting_bytes: what may be held at most; more is lost.
    """

    def __init__(
        self,
        file: Appendable,
        counts: Counts,
        *,
        secret: bytes,
        model: str,
        model_version: str,
        labels: Sequence[str],
        waiting_lines: int = _WAITING_LINES,
        waiting_bytes: int = _WAITING_BYTES,
    ) -> None:
        self._file, self._counts = file, counts
        self._writer = audit_events.Writer(
            secrets.token_hex(8), secret=secret, model=model, model_version=model_version, labels=labels
        )
        self._waiting_lines, self._waiting_bytes = waiting_lines, waiting_bytes
        self._queue: queue.SimpleQueue[Decided | Told | None] = queue.SimpleQueue()
        self._sequence = 0
        # Each has one writer, the event loop or the thread: no lock is needed.
        self._lines_in = self._bytes_in = self._lines_out = self._bytes_out = 0
        self._lost_in_queue = self._lost_on_disk = 0
        self._closing = threading.Event()
        self._told_of_queue = self._failing = False
        self._refused: dict[tuple[str, str, str], _Refused] = {}
        self._thread = threading.Thread(target=self._work, name="hauberk-audit", daemon=True)
        self._thread.start()

    def started(self, software: str, defences: Sequence[tuple[str, str]], *, secret_is_random: bool) -> None:
        """Write which defences are in force from now on."""
        self._tell("started", audit_events.started(software, defences, secret_is_random=secret_is_random))

    def decided(self, source: Source, images: Images, decisions: Decisions) -> None:
        """A request is decided. Must be called in the event loop, as the others."""
        self._put(Decided(datetime.now(UTC), self._sequence, source, images, decisions), images.nbytes)

    def refused(self, source: Source, problem: Problem) -> None:
        """A request is turned away: the first of its kind is written at once, those of the next second together."""
        if problem.code not in REFUSALS:
            return
        kind = (problem.code, source.client, source.route)
        if kind in self._refused:
            self._refused[kind].add(source)
        else:
            self._refused[kind] = _Refused(source, problem)
            self._tell("refusal", audit_events.refusal(source, problem.code, problem.status, 1))
            asyncio.get_running_loop().call_later(REFUSALS_S, self._sum_up, kind)

    async def close(self, timeout_s: float) -> None:
        """Write the records that wait, for at most so long, and end."""
        for kind in list(self._refused):
            self._sum_up(kind)
        self._tell("stopped", {"lost": self._lost_in_queue + self._lost_on_disk})
        self._closing.set()
        self._queue.put(None)
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join, timeout_s)

    def _sum_up(self, kind: tuple[str, str, str]) -> None:
        refused = self._refused.pop(kind, None)
        if refused is not None and refused.more:
            members = audit_events.refusal(refused.source, refused.problem.code, refused.problem.status, refused.more)
            self._tell("refusal", members)

    def _tell(self, event: str, members: dict[str, Any]) -> None:
        self._put(Told(datetime.now(UTC), self._sequence, event, members), 0)

    def _put(self, record: Decided | Told, size: int) -> None:
        self._sequence += record.count
        lines = self._lines_in - self._lines_out + record.count
        if lines > self._waiting_lines or self._bytes_in - self._bytes_out + size > self._waiting_bytes or self._closing.is_set():
            self._lost_in_queue += record.count
            self._counts.audit_lost("queue", record.count)
            if not self._told_of_queue:
                logger.error("the audit log does not keep up: lines are lost", extra={"fields": {"waiting": lines}})
            self._told_of_queue = True
            return
        self._told_of_queue = False
        self._lines_in += record.count
        self._bytes_in += size
        self._queue.put(record)

    def _work(self) -> None:
        ended = False
        while not ended:
            records, ended = self._gather()
            for first in range(0, len(records), _TOGETHER):
                self._write(records[first : first + _TOGETHER])
        self._file.close()

    def _gather(self) -> tuple[list[Decided | Told], bool]:
        """The records in the queue, after waiting for a first and a moment for more; and whether the log ends with them."""
        record = self._queue.get()
        if record is not None:
            self._closing.wait(_GATHER_S)
        records = []
        while record is not None:
            records.append(record)
            try:
                record = self._queue.get_nowait()
            except queue.Empty:
                return records, False
        return records, True

    def _write(self, records: Sequence[Decided | Told]) -> None:
        lines: list[bytes] = []
        try:
            lines.extend(self._writer.lines(*records))
            self._file.write(lines)
        except Unwritten as failure:
            self._note(failure.written, sum(record.count for record in records) - failure.written, failure.reason)
        except Exception:  # a mistake of ours must not end the thread, which would end the log
            logger.exception("the audit log failed")
            self._note(0, sum(record.count for record in records), "see above")
        else:
            self._note(len(lines), 0, "")
        for record in records:
            self._lines_out += record.count
            self._bytes_out += record.images.nbytes if isinstance(record, Decided) else 0

    def _note(self, written: int, lost: int, reason: str) -> None:
        self._counts.audited(written)
        self._lost_on_disk += lost
        if lost:
            self._counts.audit_lost("disk", lost)
        if lost and not self._failing:  # it will fail again and again: once is enough for the log
            logger.error("the audit log cannot be written (%s): lines are lost", reason)
        elif self._failing and not lost:
            logger.info("the audit log is written again")
        self._failing = lost > 0


@dataclass
class _Refused:
    """Refusals of one kind since the last line about them."""

    source: Source
    problem: Problem
    more: int = 0

    def add(self, source: Source) -> None:
        self.source = source
        self.more += 1
