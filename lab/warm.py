"""A worker that stays: it holds one classifier and its images, and answers for single images while somebody moves a slider."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from pathlib import Path
from typing import Any

from lab.access import OWN, Access
from lab.errors import Refused
from lab.jobs import LOG, request_for, told
from lab.limits import LabLimits
from lab.state import StoredSubject
from lab.worker_process import WorkerEnded, WorkerProcess

FAILED = "The lab could not answer, by a mistake of its own; the warm worker's log has the lines to report."


class WarmWorker:
    """One warm worker for the subject that was asked about last; it ends when nobody has asked for a while.

    Args:
        directory: for its log, made anew for each.
        module: what it runs.
        access: how the directory is made.
    """

    def __init__(self, directory: Path, *, module: str, limits: LabLimits, access: Access = OWN) -> None:
        self._directory, self._module, self._limits, self._access = directory, module, limits, access
        self._worker: WorkerProcess | None = None
        self._lock = asyncio.Lock()
        self._idle: asyncio.TimerHandle | None = None
        self._ending: asyncio.Task[None] | None = None

    async def ask(self, task: str, subject: StoredSubject, options: dict[str, Any]) -> dict[str, Any]:
        """The worker's answer. Raises: Refused, with what it could not do."""
        async with self._lock:
            if self._idle is not None:
                self._idle.cancel()
            if self._worker is None or not self._worker.is_alive:
                self._worker = await self._started()
            try:
                answer = await self._last(self._worker, request_for(task, subject, options, self._directory))
            except BaseException as failure:
                await self._worker.kill("it was asked for nothing any more")  # half an answer may be on its way
                self._worker = None
                if isinstance(failure, WorkerEnded):
                    raise Refused("", f"The worker ended: {failure}.") from failure
                raise
            self._idle = asyncio.get_running_loop().call_later(self._limits.idle_seconds, self._end_idle)
        if isinstance(answer.get("refused"), dict):
            found = told(answer["refused"])
            raise Refused(found["field"], found["sentence"])
        if not isinstance(answer.get("result"), dict):
            raise Refused("", FAILED)
        result: dict[str, Any] = answer["result"]
        return result

    async def stop(self) -> None:
        """End the worker."""
        if self._idle is not None:
            self._idle.cancel()
        if self._worker is not None:
            await self._worker.kill("the lab was stopped")
            self._worker = None

    async def _started(self) -> WorkerProcess:
        shutil.rmtree(self._directory, ignore_errors=True)
        self._access.workplace(self._directory)
        environment = self._access.environment(self._directory)
        return await WorkerProcess.start(self._module, log=self._directory / LOG, limits=self._limits, environment=environment)

    async def _last(self, worker: WorkerProcess, request: dict[str, Any]) -> dict[str, Any]:
        async with contextlib.aclosing(worker.messages(request, within_s=self._limits.answer_seconds)) as messages:
            async for message in messages:
                if "progress" not in message:
                    return message
        raise WorkerEnded("it said nothing")

    def _end_idle(self) -> None:
        if not self._lock.locked():
            self._ending = asyncio.ensure_future(self.stop())
