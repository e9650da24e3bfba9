"""A worker process, seen from the server: requests and messages as lines of JSON, and an eye on its memory.

    stdin     {"task": ..., "subject": ..., "options": ..., "out": ...}        one line a request; its end ends the worker
    stdout    {"progress": [what, done, of]}, then one of {"result": ...}, {"refused": ...}, {"failed": ...}
    stderr    the log, whatever libraries print

A model that somebody uploaded runs in there, so nothing that comes out is believed: lines are bounded, and have to be what they say.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any, Self

from lab.limits import LabLimits

LINE_AT_MOST = 16 << 20
_LOOK_S = 0.5
_GRACE_S = 2.0
_ROOT = Path(__file__).parents[1]
# What a worker needs to know; no secret of the server's environment reaches a model that somebody uploaded.
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "NUMBA_CACHE_DIR", "VIRTUAL_ENV", "OMP_NUM_THREADS")


class WorkerEnded(Exception):
    """The worker ended before it answered; the text is a sentence that says why."""


class WorkerProcess:
    """One process that runs `python -m MODULE`.

    Args:
        module: what runs in it.
        log: file for its stderr.
        environment: more of it, for the worker.
    """

    def __init__(self, process: asyncio.subprocess.Process, limits: LabLimits) -> None:
        self._process, self._limits = process, limits
        self._why = ""
        self._watch = asyncio.ensure_future(self._watched())

    @classmethod
    async def start(cls, module: str, *, log: Path, limits: LabLimits, environment: Mapping[str, str] | None = None) -> Self:
        """Start one, in a process group of its own."""
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        path = os.pathsep.join(filter(None, (str(_ROOT), kept.get("PYTHONPATH", ""))))
        known = {**kept, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONUNBUFFERED": "1", **(environment or {})}
        with log.open("ab") as stderr:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", module,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=stderr,
                env=known, limit=LINE_AT_MOST, start_new_session=True,
            )  # fmt: skip
        return cls(process, limits)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.returncode is None and not self._why

    async def messages(self, request: Mapping[str, Any], *, within_s: float) -> AsyncGenerator[dict[str, Any]]:
        """Send a request, and yield what the worker says until it has answered. Raises: WorkerEnded: it ends, or takes too long."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise WorkerEnded("it has no pipes")
        clock = asyncio.get_running_loop().time
        ends = clock() + within_s
        with contextlib.suppress(ConnectionError):  # it has ended; the reading below says why
            stdin.write(json.dumps(request).encode() + b"\n")
            await stdin.drain()
        while True:
            try:
                async with asyncio.timeout(max(0.0, ends - clock())):  # wait_for of Python 3.11 can lose a cancellation
                    line = await stdout.readline()
            except TimeoutError:
                await self.kill(f"it took longer than the {within_s:,.0f} seconds that a job may take")
                raise WorkerEnded(self._why) from None
            except ValueError:  # a line without an end
                await self.kill("it said more than a worker may say")
                raise WorkerEnded(self._why) from None
            if not line:
                raise WorkerEnded(await self._reason())
            message = _read(line)
            if message is not None:
                yield message
                if not message.keys() <= {"progress"}:
                    return

    async def kill(self, why: str) -> None:
        """End it and everything it started, at once; `why` is what is said of it."""
        self._why = self._why or why
        self._signal(signal.SIGKILL)
        if self._process.stdin is not None:
            self._process.stdin.close()
        await self._process.wait()
        self._watch.cancel()

    async def end(self) -> None:
        """Let it end, and wait until it has."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            async with asyncio.timeout(_GRACE_S):
                await self._process.wait()
        except TimeoutError:
            await self.kill("the lab is done with it")
        self._signal(signal.SIGKILL)  # what it may have left behind
        self._watch.cancel()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    async def _reason(self) -> str:
        code = await self._process.wait()
        self._signal(signal.SIGKILL)  # what it may have left behind
        self._watch.cancel()
        if self._why:
            return self._why
        return f"its process was ended by signal {-code}" if code < 0 else f"its process ended with code {code}"

    async def _watched(self) -> None:
        """Kill it when it and its children hold more memory than a worker may."""
        while self._process.returncode is None:
            held = resident_bytes(self._process.pid)
            if held > self._limits.worker_bytes:
                self._why = f"it took more than the {self._limits.worker_bytes >> 20:,} MiB of memory that a job may take"
                self._signal(signal.SIGKILL)
                return
            await asyncio.sleep(_LOOK_S)


def resident_bytes(pid: int) -> int:
    """The resident memory of a process and its children, where /proc tells it (Linux); else 0, and only time bounds a worker."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(resident_bytes(int(child)) for child in children)


def _read(line: bytes) -> dict[str, Any] | None:
    """A message, or None for a line that is none."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return (
        found
        if isinstance(found, dict) and len(found) == 1 and found.keys() <= {"progress", "result", "refused", "failed"}
        else None
    )
