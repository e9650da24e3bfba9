"""Many requests, one worker: continuous micro-batching around `DefendedClassifier`.

    classify(images) ── future ──┐                         event loop
                                 v
    [ queue, bounded in images ] ──> one worker thread: join(the requests that gathered), advance(all) by one forward call, rows back to
                                     their requests as they are decided, and again

Adaptive without a timer: an idle worker takes what there is at once; during a forward call requests gather, and all that have
gathered (up to a limit) ride in the next one, beside the images that are still in doubt. No request waits for a batch to end: neither
a request whose own rows are decided, nor one that has just come.

What can be relied on:
- Nothing hangs: every request ends with its answer, QueueFull, Stopping, InternalError, DeadlineExceeded, or is cancelled.
- Work that has not begun when its request ends is never done, and work whose requests have all ended is dropped.
- When a step raises, its requests are run again one at a time, once: only the request that raises by itself fails.
- The classifier is never entered by two threads.
"""

from __future__ import annotations

import asyncio
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from defences.defended_classifier import Decisions, Interval, Trace, Wave, in_order
from models.classifier import Images
from service.errors import DeadlineExceeded, InternalError, Problem, QueueFull, Stopping

logger = logging.getLogger(__name__)

_NO_TRACE = Trace()
_Batch = TypeVar("_Batch")


class DataPath(Protocol[_Batch]):
    """Decides on images step by step, as `DefendedClassifier` does."""

    def begin(self, images: Images) -> _Batch:
        """Get ready to decide on images: number 0 and so on."""

    def join(self, batch: _Batch, images: Images) -> None:
        """Let more images in, counted on from those before."""

    def advance(self, batch: _Batch) -> Wave | None:
        """One step: the numbers, ascending, of the images decided in it. Every number has to come once, in the end."""


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
        queue_images: how many images may wait. batch_images: how many may be at work at once, at least as many as a request may hold.
        deadline_s: from `classify` to its answer.
        traced: whether answers carry a trace of their own: what detectors found in each image, and the intervals of the stages it
            went through, "queue" before them.
    """

    def __init__(
        self,
        path: DataPath[_Batch],
        observer: Observer,
        *,
        queue_images: int = 1024,
        batch_images: int = 64,
        deadline_s: float = 10.0,
        traced: bool = False,
    ) -> None:
        self._path, self._observer, self._traced = path, observer, traced
        self._queue_images, self._batch_images, self._deadline_s = queue_images, batch_images, deadline_s
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._carried: _Job | None = None
        self._batch: _Batch | None = None
        self._joined = 0  # images, in the batch's life
        self._jobs: list[_Job] = []  # that have rows in the batch, in their order
        self._ended = False
        # Each has one writer, the event loop and the worker: no lock is needed.
        self._submitted, self._taken = 0, 0
        self._waits_since = self._stepped = time.monotonic()
        self._stopping = self._told_of_observer = False
        self._loop = asyncio.get_running_loop()
        self._worker = threading.Thread(target=self._work, name="hauberk-worker", daemon=True)
        self._worker.start()

    @property
    def waiting(self) -> int:
        """Images in the queue."""
        return self._submitted - self._taken

    @property
    def full(self) -> bool:
        """Whether not even one image more may wait."""
        return self.waiting >= self._queue_images

    @property
    def stalled_s(self) -> float:
        """For how long the worker has taken no step although there is work; without end when its thread is no more."""
        if not self._worker.is_alive():
            return 0.0 if self._stopping else math.inf
        if not self.waiting and not self._jobs:
            return 0.0
        return time.monotonic() - max(self._waits_since, self._stepped)

    async def classify(self, images: Images) -> Decisions:
        """Decide on the images [n, h, w, c] of one request, n <= batch_images. The answer carries a trace when `traced`.

        Raises: QueueFull, Stopping, DeadlineExceeded, InternalError. Cancelling drops the work if it has not begun.
        """
        if self._stopping:
            raise Stopping
        if self.waiting + len(images) > self._queue_images:
            raise QueueFull
        job = (_TracedJob if self._traced else _Job)(images, self._loop.create_future())
        timer = self._loop.call_later(self._deadline_s, _refuse, job, DeadlineExceeded())
        if not self.waiting:
            self._waits_since = time.monotonic()
        self._submitted += len(images)
        self._queue.put(job)
        try:
            return await job.future
        finally:
            timer.cancel()

    async def stop(self) -> None:
        """Take no more work, finish the work taken (for at most a deadline), end the worker."""
        if not self._stopping:
            self._stopping = True
            self._queue.put(None)
        await self._loop.run_in_executor(None, self._worker.join, self._deadline_s)

    def _work(self) -> None:
        while True:
            self._stepped = time.monotonic()
            self._jobs = [job for job in self._jobs if job.undecided]
            if all(job.future.done() for job in self._jobs):  # every request in it has ended
                self._jobs, self._batch = [], None
            jobs = self._next()
            if not jobs and not self._jobs:
                if self._ended:
                    return
                continue
            try:
                self._step(jobs)
            except Exception:
                # Only the event loop's end can lead here (it no longer takes results), or a mistake in this file.
                logger.exception("the batch worker failed on a batch")
                self._jobs, self._batch = [], None

    def _next(self) -> list[_Job]:
        """The requests in the queue that there is room for; while no images are at work, wait for one."""
        jobs: list[_Job] = []
        room = self._batch_images - sum(job.undecided for job in self._jobs)
        while not self._ended:
            if self._carried is None:
                try:
                    job = self._queue.get(block=not (jobs or self._jobs))
                except queue.Empty:
                    break
                if job is None:
                    self._ended = True
                    break
                self._carried = job
            if self._carried.count > room and (jobs or self._jobs):
                break
            job, self._carried = self._carried, None
            self._taken += job.count
            if not job.future.done():  # else it timed out, or its client left
                jobs.append(job)
                room -= job.count
        return jobs

    def _step(self, jobs: list[_Job]) -> None:
        """Let the new requests in, and advance the batch."""
        self._jobs += jobs
        try:
            if jobs:
                self._let_in(jobs)
            if self._batch is not None:
                self._advance(self._batch, self._jobs)
        except Exception as failure:  # noqa: BLE001  # whatever it is, it goes on as the cause of an InternalError
            self._tell(self._observer.failed, failure)
            suspects, self._jobs, self._batch = self._jobs, [], None
            self._again(suspects, failure)

    def _let_in(self, jobs: list[_Job]) -> None:
        now = time.perf_counter()
        self._tell(self._observer.batch, sum(job.count for job in jobs), [now - job.submitted for job in jobs])
        if self._batch is None:
            self._joined = 0
        for job in jobs:
            job.let_in = now
            job.begin(self._joined)
            self._joined = job.ends
        images = jobs[0].images if len(jobs) == 1 else np.concatenate([job.images for job in jobs])
        if self._batch is None:
            self._batch = self._path.begin(images)
        else:
            self._path.join(self._batch, images)

    def _advance(self, batch: _Batch, jobs: list[_Job]) -> None:
        wave = self._path.advance(batch)
        if wave is not None:
            self._tell(self._observer.decided, wave[1])
            if self._traced:
                for job in jobs:
                    job.note(wave[1].trace.intervals)
            self._hand_out(jobs, *wave)

    def _again(self, jobs: list[_Job], failure: Exception) -> None:
        """Run each alone; one that always was has had its chance."""
        if len(jobs) == 1 and jobs[0].count == self._joined:
            self._fail(jobs[0], failure)
            return
        logger.warning("a step of %d requests failed (%s): running them again one by one", len(jobs), failure)
        for job in jobs:
            try:
                if job.undecided and not job.future.done():
                    job.begin(0)
                    batch = self._path.begin(job.images)
                    while job.undecided and not job.future.done():
                        self._advance(batch, [job])
            except Exception as own:  # noqa: BLE001  # as above
                self._tell(self._observer.failed, own)
                self._fail(job, own)

    def _fail(self, job: _Job, failure: Exception) -> None:
        problem = InternalError()
        problem.__cause__ = failure
        self._loop.call_soon_threadsafe(_refuse, job, problem)

    def _hand_out(self, jobs: list[_Job], numbers: NDArray[np.int64], decisions: Decisions) -> None:
        if len(numbers) > 1 and not (numbers[1:] > numbers[:-1]).all():
            raise RuntimeError("the data path decided on images out of order")  # they would go to the wrong request
        firsts = np.searchsorted(numbers, [job.starts for job in jobs]).tolist()
        lasts = np.searchsorted(numbers, [job.ends for job in jobs]).tolist()
        answered = [
            job
            for job, first, last in zip(jobs, firsts, lasts, strict=True)
            if first < last and job.take(decisions, numbers[first:last] - job.starts, first, last)
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


class _Job:
    """One request on its way through the batcher. The event loop owns `future`, the worker the rest."""

    __slots__ = ("answer", "count", "decided", "future", "images", "let_in", "starts", "submitted", "undecided")

    def __init__(self, images: Images, future: asyncio.Future[Decisions]) -> None:
        self.images, self.future = images, future
        self.count = len(images)
        self.submitted = self.let_in = time.perf_counter()
        self.begin(0)

    @property
    def ends(self) -> int:
        return self.starts + self.count

    def begin(self, starts: int) -> None:
        """Its images are number `starts` and so on of a batch."""
        self.starts = starts
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

    def note(self, intervals: Sequence[Interval]) -> None:
        """What the worker did up to a wave; called before `take`."""


class _TracedJob(_Job):
    """One whose answer carries a trace."""

    __slots__ = ("_began", "_intervals", "_waves")

    def begin(self, starts: int) -> None:
        super().begin(starts)
        self._waves: list[Wave] = []
        self._intervals: list[Interval] = []
        self._began = time.perf_counter()

    def note(self, intervals: Sequence[Interval]) -> None:
        if self.undecided:
            self._intervals += [interval for interval in intervals if interval.started >= self._began]

    def take(self, wave: Decisions, rows: NDArray[np.int64], first: int, last: int) -> bool:
        part = slice(first, last)
        answer = Decisions(wave.probabilities[part], wave.abstained[part], wave.labels[part], wave.trace.part(part))
        self.undecided -= last - first
        if self._waves or self.undecided:
            self._waves.append((rows, answer))
        if self.undecided:
            return False
        if self._waves:
            answer = in_order(self._waves, wave.probabilities.shape[1])
        found, queue = answer.trace, Interval("queue", self.submitted, self.let_in)
        trace = Trace(
            purification_distance=found.purification_distance,
            detections=found.detections,
            intervals=(queue, *self._intervals),
        )
        self.answer = Decisions(answer.probabilities, answer.abstained, answer.labels, trace)
        return True


def _answer(jobs: list[_Job]) -> None:
    for job in jobs:
        if not job.future.done() and job.answer is not None:
            job.future.set_result(job.answer)


def _refuse(job: _Job, problem: Problem) -> None:
    if not job.future.done():
        job.future.set_exception(problem)
