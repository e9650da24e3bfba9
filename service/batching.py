"""Many requests, one worker: a micro-batcher around `DefendedClassifier.waves`.

    classify(images) ── future ──┐                         event loop
                                 v
    [ queue, bounded in images ] ──> one worker thread ──> waves(batch) ──> rows back to their requests, wave by wave

Adaptive without a timer: an idle worker takes what there is at once; while it works, requests gather, and all that have gathered
(up to a limit) are the next batch. A request is answered as soon as its own rows are decided, without waiting for batch-mates.

What can be relied on:
- Nothing hangs: every request ends with its answer, QueueFull, Stopping, InternalError, DeadlineExceeded, or is cancelled.
- Work that has not begun when its request ends is never done.
- A batch that raises is run again one request at a time, once: only the request that raises by itself fails.
- The classifier is never entered by two threads.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from defences.defended_classifier import Decisions, Trace
from models.classifier import Images
from service.errors import DeadlineExceeded, InternalError, Problem, QueueFull, Stopping

logger = logging.getLogger(__name__)

Waves = Callable[[Images], Iterator[tuple[NDArray[np.int64], Decisions]]]
"""Decide on images: yields (indices in ascending order, their decisions) until each index has come once."""

_NO_TRACE = Trace()


class Observer(Protocol):
    """Is told what the worker does, in the worker's thread."""

    def batch(self, images: int, waited_s: Sequence[float]) -> None:
        """A batch begins; its requests have waited that long."""

    def decided(self, decisions: Decisions) -> None:
        """A wave is decided."""

    def failed(self, failure: Exception) -> None:
        """A batch raised."""


class Batcher:
    """Runs `waves` for many concurrent requests.

    Args:
        waves: see `Waves`; called in one thread only.
        observer: see `Observer`; what it raises is logged and has no other effect.
        queue_images: how many images may wait. batch_images: how many may run at once, at least as many as a request may hold.
        deadline_s: from `classify` to its answer.
    """

    def __init__(
        self, waves: Waves, observer: Observer, *, queue_images: int = 1024, batch_images: int = 64, deadline_s: float = 10.0
    ) -> None:
        self._waves, self._observer = waves, observer
        self._queue_images, self._batch_images, self._deadline_s = queue_images, batch_images, deadline_s
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._carried: _Job | None = None
        # Each has one writer, the event loop and the worker: no lock is needed.
        self._submitted, self._taken = 0, 0
        self._stopping = self._told_of_observer = False
        self._loop = asyncio.get_running_loop()
        self._worker = threading.Thread(target=self._work, name="hauberk-worker", daemon=True)
        self._worker.start()

    @property
    def waiting(self) -> int:
        """Images in the queue."""
        return self._submitted - self._taken

    async def classify(self, images: Images) -> Decisions:
        """Decide on the images [n, h, w, c] of one request, n <= batch_images. The answer carries no trace.

        Raises: QueueFull, Stopping, DeadlineExceeded, InternalError. Cancelling drops the work if it has not begun.
        """
        if self._stopping:
            raise Stopping
        if self.waiting + len(images) > self._queue_images:
            raise QueueFull
        job = _Job(images, self._loop.create_future())
        timer = self._loop.call_later(self._deadline_s, _refuse, job, DeadlineExceeded())
        self._submitted += len(images)
        self._queue.put(job)
        try:
            return await job.future
        finally:
            timer.cancel()

    async def stop(self) -> None:
        """Take no more work, finish what was taken (for at most a deadline), end the worker."""
        if not self._stopping:
            self._stopping = True
            self._queue.put(None)
        await self._loop.run_in_executor(None, self._worker.join, self._deadline_s)

    def _work(self) -> None:
        while (jobs := self._next()) is not None:
            try:
                if jobs:
                    self._run(jobs)
            except Exception:
                # Only the event loop's end can lead here (it no longer takes results), or a mistake in this file.
                logger.exception("the batch worker failed on a batch")

    def _next(self) -> list[_Job] | None:
        """The jobs of the next batch, waiting for the first of them; None to end."""
        job = self._carried or self._queue.get()
        self._carried = None
        jobs: list[_Job] = []
        images = 0
        while job is not None:
            if images + job.count > self._batch_images and jobs:
                self._carried = job
                return jobs
            self._taken += job.count
            if not job.future.done():  # else it timed out, or its client left
                jobs.append(job)
                images += job.count
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                return jobs
        if not jobs:
            return None
        self._queue.put(None)
        return jobs

    def _run(self, jobs: list[_Job]) -> None:
        now = time.perf_counter()
        self._tell(self._observer.batch, sum(job.count for job in jobs), [now - job.submitted for job in jobs])
        failure = self._decide(jobs)
        if failure is None:
            return
        if len(jobs) == 1:
            self._fail(jobs[0], failure)
            return
        logger.warning("a batch of %d requests failed (%s): running them again one by one", len(jobs), failure)
        for job in jobs:
            if job.undecided and not job.future.done():
                alone = self._decide([job])
                if alone is not None:
                    self._fail(job, alone)

    def _fail(self, job: _Job, failure: Exception) -> None:
        problem = InternalError()
        problem.__cause__ = failure
        self._loop.call_soon_threadsafe(_refuse, job, problem)

    def _decide(self, jobs: list[_Job]) -> Exception | None:
        """Run one batch and hand out its rows as they are decided; returns what it raised, if it did."""
        try:
            for job in jobs:
                job.reset()
            starts = np.cumsum([0, *(job.count for job in jobs)])
            images = jobs[0].images if len(jobs) == 1 else np.concatenate([job.images for job in jobs])
            for rows, decisions in self._waves(images):
                self._tell(self._observer.decided, decisions)
                self._hand_out(jobs, starts, rows, decisions)
            _check_complete(jobs)
        except Exception as failure:  # noqa: BLE001  # whatever it is, it goes on as the cause of an InternalError
            self._tell(self._observer.failed, failure)
            return failure
        return None

    def _hand_out(self, jobs: list[_Job], starts: NDArray[np.int64], rows: NDArray[np.int64], decisions: Decisions) -> None:
        if len(rows) > 1 and not (rows[1:] > rows[:-1]).all():
            raise RuntimeError("the waves yielded indices out of order")  # they would go to the wrong request
        edges = np.searchsorted(rows, starts).tolist()
        answered = []
        for i, job in enumerate(jobs):
            first, last = edges[i], edges[i + 1]
            if first < last and job.take(decisions, rows[first:last] - starts[i], first, last):
                answered.append(job)
        if answered:
            self._loop.call_soon_threadsafe(_answer, answered)

    def _tell(self, tell: Callable[..., None], *what: Any) -> None:
        try:
            tell(*what)
        except Exception:
            if not self._told_of_observer:  # it will fail again and again: once is enough for the log
                logger.exception("an observer failed")
            self._told_of_observer = True


class _Job:
    """One request on its way through the batcher. The event loop owns `future`, the worker the rest."""

    __slots__ = ("answer", "count", "decided", "future", "images", "submitted", "undecided")

    def __init__(self, images: Images, future: asyncio.Future[Decisions]) -> None:
        self.images, self.future = images, future
        self.count = len(images)
        self.submitted = time.perf_counter()
        self.reset()

    def reset(self) -> None:
        self.undecided = self.count
        self.answer: Decisions | None = None
        self.decided: NDArray[np.bool_] | None = None

    def take(self, wave: Decisions, rows: NDArray[np.int64], first: int, last: int) -> bool:
        """Take rows first:last of a wave as the answers to `rows` of this request; True when now all are there."""
        part = slice(first, last)
        if last - first == self.count:
            self.undecided = 0
            self.answer = Decisions(wave.probabilities[part], wave.abstained[part], wave.labels[part], _NO_TRACE)
            return True
        if self.answer is None or self.decided is None:
            probabilities = np.zeros((self.count, wave.probabilities.shape[1]), np.float32)
            self.answer = Decisions(probabilities, np.zeros(self.count, bool), np.full(self.count, -1), _NO_TRACE)
            self.decided = np.zeros(self.count, bool)
        self.answer.probabilities[rows] = wave.probabilities[part]
        self.answer.abstained[rows] = wave.abstained[part]
        self.answer.labels[rows] = wave.labels[part]
        self.decided[rows] = True
        self.undecided = self.count - int(self.decided.sum())
        return self.undecided == 0


def _check_complete(jobs: list[_Job]) -> None:
    if any(job.undecided for job in jobs):
        raise RuntimeError("the waves ended before every row was decided")


def _answer(jobs: list[_Job]) -> None:
    for job in jobs:
        if not job.future.done() and job.answer is not None:
            job.future.set_result(job.answer)


def _refuse(job: _Job, problem: Problem) -> None:
    if not job.future.done():
        job.future.set_exception(problem)
