"""The lab's memory: sessions, subjects and jobs in SQLite, so that a restart knows what was asked for and says what was lost."""

from __future__ import annotations

import hashlib
import json
import secrets
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lab.errors import Refused
from lab.limits import LabLimits
from lab.subject import Subject

JobState = Literal["queued", "running", "done", "refused", "failed", "cancelled", "lost"]
ENDED: tuple[JobState, ...] = ("done", "refused", "failed", "cancelled", "lost")
LOST = "The lab was stopped while this ran, and its result is lost; start it again."
_SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE IF NOT EXISTS sessions (key TEXT PRIMARY KEY, seen REAL NOT NULL);
CREATE TABLE IF NOT EXISTS subjects (id TEXT PRIMARY KEY, session TEXT NOT NULL, title TEXT NOT NULL, spec TEXT NOT NULL,
  made REAL NOT NULL);
CREATE TABLE IF NOT EXISTS jobs (id TEXT PRIMARY KEY, session TEXT NOT NULL, subject TEXT NOT NULL, kind TEXT NOT NULL,
  options TEXT NOT NULL, state TEXT NOT NULL, made REAL NOT NULL, started REAL, ended REAL, progress TEXT NOT NULL DEFAULT '[]',
  told TEXT NOT NULL DEFAULT '{}');
CREATE TABLE IF NOT EXISTS marks (job TEXT NOT NULL, sample INTEGER NOT NULL, poison INTEGER NOT NULL, PRIMARY KEY (job, sample));
"""


@dataclass(frozen=True)
class StoredSubject:
    """A subject of a session; the example's session is empty, and everybody sees it."""

    id: str
    session: str
    title: str
    subject: Subject


@dataclass(frozen=True)
class LabJob:
    """Work of a worker process on a subject.

    Attributes:
        progress: (what is done, steps done, steps in total, when that began, steps done then, when it was last told), or empty.
        told: how it ended: "sentence", "field", and "proposal" where another reading of the images fits.
    """

    id: str
    session: str
    subject: str
    kind: str
    options: Mapping[str, Any]
    state: JobState
    made: float
    started: float | None = None
    ended: float | None = None
    progress: tuple[Any, ...] = ()
    told: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes of it."""
        return self.state in ENDED


class State:
    """Everything the lab remembers, in one file. Used from one thread.

    Args:
        path: of the SQLite file; made where there is none.
        clock: seconds since the epoch.
    """

    def __init__(self, path: Path, *, limits: LabLimits, clock: Callable[[], float] = time.time) -> None:
        self._limits, self._clock = limits, clock
        self._base = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._base.executescript(_SCHEMA)
        told = json.dumps({"sentence": LOST, "field": ""})
        now = clock()
        self.lost = self._base.execute(
            "UPDATE jobs SET state = 'lost', ended = ?, told = ? WHERE state = 'running'", (now, told)
        ).rowcount

    def close(self) -> None:
        """Let the file go."""
        self._base.close()

    def begin_session(self) -> str:
        """A new session's secret, of which only a digest is stored. Raises: Refused: too many."""
        if self._count("SELECT count(*) FROM sessions") >= self._limits.sessions:
            raise Refused("", "too many sessions are open in this lab; try again later")
        secret = secrets.token_urlsafe(32)
        self._base.execute("INSERT INTO sessions VALUES (?, ?)", (_key(secret), self._clock()))
        return secret

    def session(self, secret: str) -> str | None:
        """The key of the session with this secret, which is seen now; None where there is none."""
        key = _key(secret)
        seen = self._base.execute("UPDATE sessions SET seen = ? WHERE key = ?", (self._clock(), key)).rowcount
        return key if seen else None

    def add_subject(self, session: str, title: str, subject: Subject) -> StoredSubject:
        """Remember a subject. Raises: Refused: the session has too many."""
        if self._count("SELECT count(*) FROM subjects WHERE session = ?", session) >= self._limits.subjects:
            raise Refused("", f"expected at most {self._limits.subjects} classifiers a session; delete one first")
        made = StoredSubject(secrets.token_hex(8), session, title, subject)
        row = (made.id, session, title, json.dumps(subject.as_json()), self._clock())
        self._base.execute("INSERT INTO subjects VALUES (?, ?, ?, ?, ?)", row)
        return made

    def change_subject(self, subject: StoredSubject, to: Subject) -> None:
        """Say something else about a subject."""
        self._base.execute("UPDATE subjects SET spec = ? WHERE id = ?", (json.dumps(to.as_json()), subject.id))

    def drop_subject(self, subject: StoredSubject) -> list[str]:
        """Forget a subject and its jobs; returns the jobs' ids."""
        ids = [row[0] for row in self._base.execute("SELECT id FROM jobs WHERE subject = ?", (subject.id,))]
        self._forget_marks(ids)
        self._base.execute("DELETE FROM jobs WHERE subject = ?", (subject.id,))
        self._base.execute("DELETE FROM subjects WHERE id = ?", (subject.id,))
        return ids

    def subjects(self, session: str) -> list[StoredSubject]:
        """Those of a session, the newest first."""
        rows = self._base.execute(
            "SELECT id, session, title, spec FROM subjects WHERE session = ? ORDER BY made DESC", (session,)
        )
        return [_subject(row) for row in rows]

    def subject(self, session: str, id: str) -> StoredSubject | None:  # noqa: A002  # what it is called everywhere
        """A subject of this session; None where there is none."""
        found = self._base.execute("SELECT id, session, title, spec FROM subjects WHERE id = ? AND session = ?", (id, session))
        row = found.fetchone()
        return None if row is None else _subject(row)

    def add_job(self, session: str, subject: str, kind: str, options: Mapping[str, Any]) -> LabJob:
        """Queue a job. Raises: Refused: too many wait."""
        if self._count("SELECT count(*) FROM jobs WHERE state = 'queued'") >= self._limits.queued:
            raise Refused("", f"{self._limits.queued} jobs wait already; wait for one to end, or cancel it")
        made = LabJob(secrets.token_hex(8), session, subject, kind, options, "queued", self._clock())
        columns = "id, session, subject, kind, options, state, made"
        row = (made.id, session, subject, kind, json.dumps(options), "queued", made.made)
        self._base.execute(f"INSERT INTO jobs ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", row)  # noqa: S608  # a constant
        return made

    def next_job(self) -> LabJob | None:
        """The job that has waited longest, which runs now; None without any."""
        row = self._base.execute("SELECT id FROM jobs WHERE state = 'queued' ORDER BY made, rowid LIMIT 1").fetchone()
        if row is None:
            return None
        self._base.execute("UPDATE jobs SET state = 'running', started = ? WHERE id = ?", (self._clock(), row[0]))
        return self.any_job(row[0])

    def note_progress(self, job: str, progress: tuple[Any, ...]) -> None:
        """How far a job is."""
        self._base.execute("UPDATE jobs SET progress = ? WHERE id = ?", (json.dumps(progress), job))

    def end_job(self, job: str, state: JobState, told: Mapping[str, Any]) -> None:
        """A job is over, unless it is already."""
        self._base.execute(
            "UPDATE jobs SET state = ?, ended = ?, told = ? WHERE id = ? AND state IN ('queued', 'running')",
            (state, self._clock(), json.dumps(told), job),
        )

    def any_job(self, id: str) -> LabJob | None:  # noqa: A002
        """A job of any session."""
        row = self._base.execute("SELECT * FROM jobs WHERE id = ?", (id,)).fetchone()
        return None if row is None else _job(row)

    def job(self, session: str, id: str) -> LabJob | None:  # noqa: A002
        """A job of this session."""
        found = self.any_job(id)
        return found if found is not None and found.session == session else None

    def jobs(self, session: str, subject: str) -> list[LabJob]:
        """The jobs on a subject, the newest first."""
        rows = self._base.execute(
            "SELECT * FROM jobs WHERE session = ? AND subject = ? ORDER BY made DESC, rowid DESC", (session, subject)
        )
        return [_job(row) for row in rows]

    def ahead(self, job: LabJob) -> int:
        """How many jobs are run before this one."""
        before = "SELECT count(*) FROM jobs WHERE state = 'running' OR (state = 'queued' AND made < ?)"
        return self._count(before, job.made)

    def expire(self) -> tuple[list[str], list[str]]:
        """Forget what is older than it may become: the keys of sessions, and the ids of jobs."""
        oldest = self._clock() - self._limits.keep_seconds
        gone = [row[0] for row in self._base.execute("SELECT key FROM sessions WHERE seen < ?", (oldest,))]
        jobs = [row[0] for key in gone for row in self._base.execute("SELECT id FROM jobs WHERE session = ?", (key,))]
        self._forget_marks(jobs)
        for table, column in (("jobs", "session"), ("subjects", "session"), ("sessions", "key")):
            self._base.executemany(f"DELETE FROM {table} WHERE {column} = ?", [(key,) for key in gone])  # noqa: S608  # constants
        return gone, jobs

    def marks(self, job: str) -> dict[int, bool]:
        """Samples of a scan that were marked by hand, by row: whether they are poison."""
        rows = self._base.execute("SELECT sample, poison FROM marks WHERE job = ? ORDER BY sample", (job,))
        return {int(sample): bool(poison) for sample, poison in rows}

    def mark(self, job: str, sample: int, poison: bool | None) -> None:
        """Mark a sample of a scan; None takes its mark away."""
        if poison is None:
            self._base.execute("DELETE FROM marks WHERE job = ? AND sample = ?", (job, sample))
        else:
            self._base.execute("INSERT OR REPLACE INTO marks VALUES (?, ?, ?)", (job, sample, int(poison)))

    def _forget_marks(self, jobs: Sequence[str]) -> None:
        self._base.executemany("DELETE FROM marks WHERE job = ?", [(job,) for job in jobs])

    def _count(self, query: str, *values: Any) -> int:
        return int(self._base.execute(query, values).fetchone()[0])


def _key(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()[:32]


def _subject(row: tuple[Any, ...]) -> StoredSubject:
    return StoredSubject(row[0], row[1], row[2], Subject.from_form(json.loads(row[3])))


def _job(row: tuple[Any, ...]) -> LabJob:
    options, progress, told = json.loads(row[4]), json.loads(row[9]), json.loads(row[10])
    return LabJob(row[0], row[1], row[2], row[3], options, row[5], row[6], row[7], row[8], tuple(progress), told)
