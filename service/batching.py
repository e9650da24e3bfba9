"""Many requests, one worker: continuous micro-batching around `DefendedClassifier`, in turns of the accounts.

    classify(images) ── future ──┐                         event loop
                                 v
    [ a line per account, bounded in images ] ──> one worker thread: let in what gathered, advance what is at work by one forward call,
                                     rows back to their requests as they are decided, and again

Adaptive without a timer: an idle worker takes what there is at once; during a forward call requests gather, and all that have
gathered (up to a limit) ride in the next one, beside the images that are still in doubt. No request waits for a batch to end: neither
a request whose own rows are decided, nor one that has just come.

Who rides in a step: while accounts share the worker, each may spend so many model calls a step on its images, the cheapest first, and
saves what it could not spend on an image that costs more (deficit round robin: Shreedhar and Varghese, SIGCOMM 1995; all accounts have
their turns in one forward call). A request whose first step would cost more is let in by parts. An account's images at work are at most
as many as the places that are free (dynamic thresholds: Choudhury and Hahne, IEEE/ACM Transactions on Networking 1998), so that there
is always room for those of others. An account alone has the whole of a step and as many places as a batch has.

What can be relied on:
- Nothing hangs: every request ends with its answer, QueueFull, Stopping, InternalError or what `service.failures` makes of a failure,
  DeadlineExceeded, or is cancelled.
- Work that has not begun when its request ends is never done, and work whose requests have all ended is dropped.
- When a step raises, its requests are run again one at a time, once: only the request that raises by itself fails. When it raises since
  the classifier's own server is away, all of them end at once, since each alone would wait for it again.
- Images of a request that are the same, byte for byte, are decided once.
- The classifier is never entered by two threads.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from defences.defended_classifier import Decisions, Wave
from models.classifier import Images
from service.errors import DeadlineExceeded, InternalError, Problem, QueueFull, Stopping
from service.failures import is_outage, problem_of, said
from service.jobs import Job, JobPart, TimedJob, TracedJob, times_asked
from service.lines import AccountLine, Lines
from service.turns import Turns

logger = logging.getLogger(__name__)

_Batch = TypeVar("_Batch")


class DataPath(Protocol[_Batch]):
    """Decides on images step by step, as `DefendedClassifier` does."""

    def begin(self, images: Images) -> _Batch:
        """Get ready to decide on images: number 0 and so on."""

    def join(self, batch: _Batch, images: Images) -> None:
        """Let more images in, counted on from those before."""

    def costs(self, batch: _Batch) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The numbers of the undecided images, ascending, and the model calls of the next step for each."""

    def advance(self, batch: _Batch, turn: NDArray[np.int64] | None = None) -> Wave | None:
        """One step for all undecided images, or for those of a turn and all that have just joined: the numbers, ascending, of the
        images decided in it. Every number has to come once, in the end. The same image gets the same decision.
        """


class Observer(Protocol):
    """Is told what the worker does, in the worker's thread."""

    def batch(self, images: int, waited_s: Sequence[float]) -> None:
        """A batch begins; its requests have waited that long."""

    def decided(self, decisions: Decisions) -> None:
        """A wave is decided."""

    def failed(self, failure: Exception) -> None:
        """A batch raised."""


class Batcher(Generic[_Batch]):
    """Runs a data path for many concurrent requests.

    Args:
        path: see `DataPath`; called in one thread only.
        observer: see `Observer`; an exception of its own is logged and has no other effect.
        queue_images: how many images may wait. batch_images: how many of one account may be at work at once, at least as many as a
            request may hold; of all accounts together, twice as many.
        deadline_s: from `classify` to its answer.
        timed: whether answers carry a trace of their own, with the intervals of the stages that their images went through, "queue"
            before them. traced: the same, and what detectors found in each image, too.
        call_s: about what a model call takes: the slower, the fewer in a step.
    """

    def __init__(
        self,
        path: DataPath[_Batch],
        observer: Observer,
        *,
        queue_images: int = 1024,
        batch_images: int = 64,
        deadline_s: float = 10.0,
        timed: bool = False,
        traced: bool = False,
        call_s: float = 0.0,
    ) -> None:
        self._path, self._observer = path, observer
        self._job: type[Job] = TracedJob if traced else TimedJob if timed else Job
        self._timed = timed or traced
        self._batch_images, self._deadline_s = batch_images, deadline_s
        self._lines: Lines[Job] = Lines(queue_images)
        self._batch: _Batch | None = None
        self._joined = 0  # images, in the batch's life
        self._parts: list[JobPart] = []  # that have rows in the batch, in their order
        self._turns = Turns(call_s)
        self._waits_since = self._stepped = time.monotonic()
        self._stopping = self._told_of_observer = False
        self._loop = asyncio.get_running_loop()
        self._worker = threading.Thread(target=self._work, name="hauberk-worker", daemon=True)
        self._worker.start()

    @property
    def waiting(self) -> int:
        """Images in the queue."""
        return self._lines.waiting

    def full(self, account: Hashable = None) -> bool:
        """Whether not even one image more of this account may wait; without an account, whether somebody would be turned away."""
        return self._lines.full(account)

    @property
    def shared(self) -> bool:
        """Whether accounts share the worker, now or a little while ago."""
        return self._turns.shared

    @property
    def stalled_s(self) -> float:
        """For how long the worker has taken no step although there is work; without end when its thread is no more."""
        if not self._worker.is_alive():
            return 0.0 if self._stopping else math.inf
        if not self.waiting and not self._parts:
            return 0.0
        return time.monotonic() - max(self._waits_since, self._stepped)

    async def classify(self, images: Images, account: Hashable = None) -> Decisions:
        """Decide on the images [n, h, w, c] of one request, n <= batch_images. The answer carries a trace when `timed` or `traced`.

        Raises: QueueFull, Stopping, DeadlineExceeded, InternalError; ValueError: more images than a batch. Cancelling drops the work
        if it has not begun.
        """
        if self._stopping:
            raise Stopping
        job = self._job(images, self._loop.create_future())
        if job.count > self._batch_images:
            raise ValueError(f"expected at most {self._batch_images} images a request, got {job.count}")
        if not self.waiting:
            self._waits_since = time.monotonic()
        line, pushed_out = self._lines.add(account, job)
        for each in pushed_out:
            _refuse(each, QueueFull())
        timer = self._loop.call_later(self._deadline_s, _refuse, job, DeadlineExceeded())
        try:
            return await job.future
        finally:
            timer.cancel()
            if job.left:
                self._lines.leave(line, job)

    async def stop(self) -> None:
        """Take no more work, finish the work taken (for at most a deadline), end the worker."""
        if not self._stopping:
            self._stopping = True
            self._lines.end()
        await self._loop.run_in_executor(None, self._worker.join, self._deadline_s)

    def _work(self) -> None:
        while True:
            self._stepped = time.monotonic()
            self._settle()
            lines = self._lines.wait(block=not self._parts)
            if lines is None:
                return
            try:
                self._step(lines)
            except Exception:
                # Only the event loop's end can lead here (it no longer takes results), or a mistake in this file.
                logger.exception("the batch worker failed on a batch")
                self._drop()

    def _settle(self) -> None:
        """Forget what is decided, and the batch when every request in it has ended."""
        for part in self._parts:
            part.line.at_work = 0
        self._parts = [part for part in self._parts if part.undecided]
        if all(part.job.ended for part in self._parts):
            self._drop()
        for part in self._parts:
            part.line.at_work += part.undecided

    def _drop(self) -> list[JobPart]:
        """End the batch; the parts that were in it."""
        parts, self._parts, self._batch = self._parts, [], None
        for part in parts:
            part.line.at_work = 0
        return parts

    def _step(self, lines: list[AccountLine[Job]]) -> None:
        """Let new images in, and advance the batch."""
        self._turns.begin(lines)
        parts = self._next(lines)
        self._parts += parts
        try:
            if parts:
                self._let_in(parts)
            if self._batch is not None and self._parts:
                fresh = parts[0].starts if parts else self._joined
                turn = self._turns.choose(*self._path.costs(self._batch), self._parts, fresh)
                self._advance(self._batch, self._parts, turn)
        except Exception as failure:  # noqa: BLE001  # whatever it is, it goes on as the cause of an InternalError
            self._tell(self._observer.failed, failure)
            parts = self._drop()
            if is_outage(failure):
                self._end({part.job: part.line for part in parts}, failure)
            else:
                self._again(parts, failure)

    def _next(self, lines: list[AccountLine[Job]]) -> list[JobPart]:
        """The images that there is room for, in turns of the accounts."""
        parts: list[JobPart] = []
        at_work = sum(part.undecided for part in self._parts)
        for line in lines:
            if not line.requests:
                continue
            # Image by image, while it holds fewer than are free of twice as many as a batch has.
            places = max(0, 2 * self._batch_images - at_work - line.at_work + 1) // 2
            taken = self._lines.take(line, min(places, self._turns.admits(line)), split=self._turns.shared)
            for job, count in taken:
                parts.append(JobPart(job, line, job.begun, count))
                job.begun += count
                at_work += count
                line.at_work += count
        return parts

    def _let_in(self, parts: list[JobPart]) -> None:
        now = time.perf_counter()
        waited = [now - part.job.submitted for part in parts if part.offset == 0]
        self._tell(self._observer.batch, sum(part.count for part in parts), waited)
        if self._batch is None:
            self._joined = 0
        for part in parts:
            if part.offset == 0:
                part.job.let_in = now
                part.job.begin()
            part.starts = self._joined
            self._joined = part.ends
        images = parts[0].images if len(parts) == 1 else np.concatenate([part.images for part in parts])
        if self._batch is None:
            self._batch = self._path.begin(images)
        else:
            self._path.join(self._batch, images)

    def _advance(self, batch: _Batch, parts: list[JobPart], turn: NDArray[np.int64] | None = None) -> None:
        self._stepped = time.monotonic()
        wave = self._path.advance(batch) if turn is None else self._path.advance(batch, turn)
        if wave is not None:
            numbers, decisions = wave
            times = times_asked(parts, numbers)
            asked = decisions if times is None else decisions.rows(np.repeat(np.arange(len(numbers)), times))
            self._tell(self._observer.decided, asked)
            if self._timed:
                for job in {part.job: None for part in parts}:
                    job.note(decisions.trace.intervals)
            self._hand_out(parts, numbers, decisions)

    def _end(self, jobs: Mapping[Job, AccountLine[Job]], failure: Exception) -> None:
        """End requests, with what of them has not begun yet."""
        problem = problem_of(failure)
        if not isinstance(problem, InternalError):  # whose log line is written where it is answered, with a traceback
            logger.warning("%d requests end with %s: %s", len(jobs), problem.code, said(failure))
        for job, line in jobs.items():
            self._lines.leave(line, job)
            self._loop.call_soon_threadsafe(_refuse, job, problem_of(failure))

    def _again(self, parts: list[JobPart], failure: Exception) -> None:
        """Run each request alone; one that always was has had its chance."""
        jobs = {part.job: part.line for part in parts}
        if len(jobs) == 1 and parts[0].job.count == self._joined:
            self._end(jobs, failure)
            return
        logger.warning("a step of %d requests failed (%s): running them again one by one", len(jobs), said(failure))
        while jobs:
            job, line = next(iter(jobs.items()))
            self._lines.leave(line, job)
            try:
                if job.undecided and not job.future.done():
                    job.begin()
                    part = JobPart(job, line, 0, job.count)
                    batch = self._path.begin(job.images)
                    while job.undecided and not job.future.done():
                        self._advance(batch, [part])
            except Exception as own:  # noqa: BLE001  # as above
                self._tell(self._observer.failed, own)
                self._end(jobs if is_outage(own) else {job: line}, own)
                if is_outage(own):
                    return
            del jobs[job]

    def _hand_out(self, parts: list[JobPart], numbers: NDArray[np.int64], decisions: Decisions) -> None:
        if len(numbers) > 1 and not (numbers[1:] > numbers[:-1]).all():
            raise RuntimeError("the data path decided on images out of order")  # they would go to the wrong request
        firsts = numbers.searchsorted([part.starts for part in parts]).tolist()
        lasts = numbers.searchsorted([part.ends for part in parts]).tolist()
        answered = [
            part.job
            for part, first, last in zip(parts, firsts, lasts, strict=True)
            if first < last and part.take(decisions, numbers[first:last], first, last)
        ]
        if answered:
            self._loop.call_soon_threadsafe(_answer, answered)

    def _tell(self, tell: Callable[..., None], *what: Any) -> None:
        try:
            tell(*what)
        except Exception:
            if not self._told_of_observer:  # it will fail again and again: once is enough for the log
                logger.exception("an observer failed")
            self._told_of_observer = True


def _answer(jobs: list[Job]) -> None:
    for job in jobs:
        if not job.future.done() and job.answer is not None:
            job.future.set_result(job.answer)


def _refuse(job: Job, problem: Problem) -> None:
    if not job.future.done():
        job.future.set_exception(problem)
