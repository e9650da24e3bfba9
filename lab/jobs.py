"""The queue: one job after the other in a worker process, with progress, a way to cancel, and a sentence for every end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lab.access import OWN, Access
from lab.environment import NETWORK
from lab.errors import Refused
from lab.limits import LabLimits
from lab.state import LabJob, State, StoredSubject
from lab.worker_process import WorkerEnded, WorkerProcess

_logger = logging.getLogger(__name__)

RESULT, LOG = "result.json", "log.txt"
NO_ROOM = "The disk is full: delete something, and start it again."
FAILED = "The job failed by a mistake of the lab; its log has the lines to report."
_NOTE_S = 0.2
_ROOM_LEFT = 64 << 20

ON_CLUSTER = ("scan",)
"""The jobs whose commands know clusters."""

SubjectOf = Callable[[LabJob], StoredSubject | None]


@dataclass(frozen=True)
class ScanCluster:
    """Where the jobs of `ON_CLUSTER` have their work done: the options of their commands."""

    backend: str
    address: str


class Queue:
    """Runs the jobs of a lab, one at a time.

    Args:
        directory: each job gets a folder of its own in it.
        module: what a worker runs.
        subject_of: the subject of a job.
        access: how the folders of jobs are made.
        cluster: of the jobs that run on one; their workers keep the network.
    """

    def __init__(
        self,
        state: State,
        directory: Path,
        *,
        module: str,
        limits: LabLimits,
        subject_of: SubjectOf,
        access: Access = OWN,
        cluster: ScanCluster | None = None,
    ) -> None:
        self._state, self._directory, self._module, self._limits = state, directory, module, limits
        self._subject_of, self._access, self._cluster = subject_of, access, cluster
        self._more = asyncio.Event()
        self._running: dict[str, WorkerProcess] = {}
        self._loop: asyncio.Task[None] | None = None

    def place(self, job: str) -> Path:
        """The folder of a job's result, files and log."""
        return self._directory / job

    def start(self) -> None:
        """Begin to run what is queued."""
        self._more.set()
        self._loop = asyncio.ensure_future(self._forever())

    async def stop(self) -> None:
        """End the running jobs; the next start says that they are lost."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        for worker in list(self._running.values()):
            await worker.kill("the lab was stopped")

    def add(self, subject: StoredSubject, session: str, kind: str, options: Mapping[str, Any]) -> LabJob:
        """Queue a job. Raises: Refused: too many wait, or there is no room for what it writes."""
        if shutil.disk_usage(self._directory).free < _ROOM_LEFT:
            raise Refused("", NO_ROOM)
        job = self._state.add_job(session, subject.id, kind, options)
        self._more.set()
        return job

    async def cancel(self, job: LabJob) -> None:
        """End a job that waits or runs."""
        self._state.end_job(job.id, "cancelled", {"sentence": "Cancelled.", "field": ""})
        if job.id in self._running:
            await self._running[job.id].kill("cancelled")

    def result(self, job: str) -> dict[str, Any] | None:
        """What a job found; None before it is done."""
        return read_result(self.place(job))

    def log(self, job: str) -> str:
        """The end of a job's log."""
        try:
            with (self.place(job) / LOG).open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - self._limits.log_bytes))
                return file.read().decode("utf-8", "replace")
        except OSError:
            return ""

    async def _forever(self) -> None:
        while True:
            job = self._state.next_job()
            if job is None:
                self._more.clear()
                await self._more.wait()
                continue
            await self._run(job)

    async def _run(self, job: LabJob) -> None:
        try:
            message = await self._answered(job)
        except WorkerEnded as ended:
            self._state.end_job(job.id, "failed", {"sentence": f"The job ended: {ended}.", "field": ""})
            return
        except OSError:
            self._state.end_job(job.id, "failed", {"sentence": NO_ROOM, "field": ""})
            return
        except Exception:
            _logger.exception("a job failed in the lab itself")
            self._state.end_job(job.id, "failed", {"sentence": FAILED, "field": ""})
            return
        if "result" in message:
            self._state.end_job(job.id, "done", {})
        elif isinstance(message.get("refused"), dict):
            self._state.end_job(job.id, "refused", told(message["refused"]))
        else:
            self._state.end_job(job.id, "failed", {"sentence": FAILED, "field": ""})

    async def _answered(self, job: LabJob) -> dict[str, Any]:
        """The last message of the worker, whose result is written down."""
        subject, place = self._subject_of(job), self.place(job.id)
        if subject is None:
            return {"refused": {"sentence": "What it was to work on was deleted.", "field": ""}}
        self._access.workplace(place)
        cluster = self._cluster if job.kind in ON_CLUSTER else None
        environment = self._access.environment(place) | ({NETWORK: "kept"} if cluster else {})
        worker = await WorkerProcess.start(self._module, log=place / LOG, limits=self._limits, environment=environment)
        self._running[job.id] = worker
        try:
            if (now := self._state.any_job(job.id)) is None or now.is_over:
                raise WorkerEnded("cancelled")
            options = {**job.options, **(asdict(cluster) if cluster else {})}
            message = await self._followed(job, worker, request_for(job.kind, subject, options, place))
        finally:
            del self._running[job.id]
            await (worker.kill("the lab was stopped") if asyncio.current_task().cancelling() else worker.end())  # type: ignore[union-attr]
        if "result" in message:
            unfinished = place / f"{RESULT}.part"
            unfinished.unlink(missing_ok=True)
            with unfinished.open("x") as file:  # "x" follows no link that a worker may have left there
                json.dump(message["result"], file)
            unfinished.replace(place / RESULT)
        return message

    async def _followed(self, job: LabJob, worker: WorkerProcess, request: Mapping[str, Any]) -> dict[str, Any]:
        noted = _Noted(self._state, job.id)
        async with contextlib.aclosing(worker.messages(request, within_s=self._limits.job_seconds)) as messages:
            async for message in messages:
                if "progress" not in message:
                    noted.write()
                    return message
                if progress := _progress(message["progress"]):
                    noted.add(*progress)
        raise WorkerEnded("its process said nothing")


class _Noted:
    """Writes down how far a job is and since when, soon, but not at every step."""

    def __init__(self, state: State, job: str) -> None:
        self._state, self._job = state, job
        self._latest: tuple[Any, ...] = ()
        self._waiting: asyncio.TimerHandle | None = None

    def add(self, what: str, done: int, of: int) -> None:
        now = time.time()
        began = self._latest[3:5] if self._latest[:1] == (what,) and self._latest[2] == of else (now, done)
        self._latest = (what, done, of, *began, now)
        if self._waiting is None:
            self._waiting = asyncio.get_running_loop().call_later(_NOTE_S, self.write)

    def write(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
            self._state.note_progress(self._job, self._latest)


def request_for(kind: str, subject: StoredSubject, options: Mapping[str, Any], place: Path) -> dict[str, Any]:
    """What a worker is asked."""
    return {"task": kind, "subject": subject.subject.as_json(), "options": dict(options), "out": str(place)}


def read_result(place: Path) -> dict[str, Any] | None:
    """The result in a job's folder."""
    try:
        found = json.loads((place / RESULT).read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def told(refused: Mapping[str, Any]) -> dict[str, Any]:
    """A refusal that a worker sent, with nothing in it but what is shown."""
    proposal = refused.get("proposal")
    texts = {name: str(refused.get(name, ""))[:2000] for name in ("sentence", "field")}
    if isinstance(proposal, dict):
        return texts | {"proposal": {str(name): str(value)[:200] for name, value in proposal.items()}}
    return texts


def time_left(job: LabJob, now: float) -> float | None:
    """Seconds until a running job is done, by the steps of what it does now; None where that cannot be told."""
    if job.state != "running" or len(job.progress) != 6:
        return None
    _, done, of, began, done_before, latest = job.progress
    if not done_before < done <= of:
        return None
    at_last = (latest - began) * (of - done) / (done - done_before)
    return float(max(0.0, at_last - (now - latest)))


def _progress(given: Any) -> tuple[str, int, int] | None:
    if not (isinstance(given, list) and len(given) == 3 and isinstance(given[1], int) and isinstance(given[2], int)):
        return None
    return str(given[0])[:80], given[1], given[2]
