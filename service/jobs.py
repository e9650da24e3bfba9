"""Requests on their way through the batcher, and the parts in which their images are let in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from defences.defended_classifier import Decisions, Interval, Trace, Wave, in_order
from models.classifier import Images
from service.distinct import distinct
from service.lines import AccountLine

_NO_TRACE = Trace()


class JobPart:
    """Images of a request that were let in together: from `offset` on, as number `starts` and so on of a batch."""

    __slots__ = ("count", "job", "line", "offset", "starts", "undecided")

    def __init__(self, job: Job, line: AccountLine[Job], offset: int, count: int) -> None:
        self.job, self.line, self.offset, self.count = job, line, offset, count
        self.starts, self.undecided = 0, count

    @property
    def ends(self) -> int:
        return self.starts + self.count

    @property
    def images(self) -> Images:
        return self.job.images[self.offset : self.offset + self.count]

    def take(self, wave: Decisions, numbers: NDArray[np.int64], first: int, last: int) -> bool:
        """Take rows first:last of a wave, the answers to these numbers; True when now all of the request are there."""
        complete = self.job.take(wave, numbers - (self.starts - self.offset), first, last)
        self.undecided = self.job.undecided_in(self.offset, self.count)
        return complete


class Job:
    """One request on its way through the batcher. The event loop owns `future`, the worker the rest.

    `images` and `count` are of the different ones; `asked` says which of them each image of the request is, None when all differ.
    """

    __slots__ = ("answer", "asked", "begun", "count", "decided", "future", "images", "left", "let_in", "submitted", "undecided")

    def __init__(self, images: Images, future: asyncio.Future[Decisions]) -> None:
        self.images, self.asked = distinct(images)
        self.future = future
        self.count = self.left = len(self.images)
        self.submitted = self.let_in = time.perf_counter()
        self.begun = 0
        self.begin()

    @property
    def ended(self) -> bool:
        return self.future.done()

    def begin(self) -> None:
        """None of its images is decided."""
        self.undecided = self.count
        self.answer: Decisions | None = None
        self.decided = np.zeros(self.count, bool)

    def undecided_in(self, offset: int, count: int) -> int:
        """How many of some of its images are not decided."""
        if not self.undecided:
            return 0
        return count - int(np.count_nonzero(self.decided[offset : offset + count]))

    def times_asked(self) -> NDArray[np.int64]:
        """How often each image was asked about."""
        return np.ones(self.count, np.int64) if self.asked is None else np.bincount(self.asked, minlength=self.count)

    def take(self, wave: Decisions, rows: NDArray[np.int64], first: int, last: int) -> bool:
        """Take rows first:last of a wave as the answers to `rows` of this request; True when now all are there."""
        part = slice(first, last)
        if last - first == self.count:
            self.undecided = 0
            self._finish(Decisions(wave.probabilities[part], wave.abstained[part], wave.labels[part], _NO_TRACE))
            return True
        if self.answer is None:
            probabilities = np.zeros((self.count, wave.probabilities.shape[1]), np.float32)
            self.answer = Decisions(probabilities, np.zeros(self.count, bool), np.full(self.count, -1), _NO_TRACE)
        self.answer.probabilities[rows] = wave.probabilities[part]
        self.answer.abstained[rows] = wave.abstained[part]
        self.answer.labels[rows] = wave.labels[part]
        self.decided[rows] = True
        self.undecided = self.count - int(np.count_nonzero(self.decided))
        if self.undecided:
            return False
        self._finish(self.answer)
        return True

    def _finish(self, answer: Decisions) -> None:
        self.answer = answer if self.asked is None else answer.rows(self.asked)

    def note(self, intervals: Sequence[Interval]) -> None:
        """What the worker did up to a wave; called before `take`."""


class TimedJob(Job):
    """One whose answer's trace has the intervals of the stages that its images went through, "queue" before them."""

    __slots__ = ("_began", "_intervals")

    def begin(self) -> None:
        super().begin()
        self._intervals: list[Interval] = []
        self._began = time.perf_counter()

    def note(self, intervals: Sequence[Interval]) -> None:
        if self.undecided:
            self._intervals += [interval for interval in intervals if interval.started >= self._began]

    def _finish(self, answer: Decisions) -> None:
        found, queue = answer.trace, Interval("queue", self.submitted, self.let_in)
        trace = Trace(
            purification_distance=found.purification_distance,
            detections=found.detections,
            intervals=(queue, *self._intervals),
        )
        super()._finish(Decisions(answer.probabilities, answer.abstained, answer.labels, trace))


class TracedJob(TimedJob):
    """One whose answer's trace says what detectors found in each image, too."""

    __slots__ = ("_waves",)

    def begin(self) -> None:
        super().begin()
        self._waves: list[Wave] = []

    def take(self, wave: Decisions, rows: NDArray[np.int64], first: int, last: int) -> bool:
        part = slice(first, last)
        answer = Decisions(wave.probabilities[part], wave.abstained[part], wave.labels[part], wave.trace.part(part))
        self.decided[rows] = True
        self.undecided -= last - first
        if self._waves or self.undecided:
            self._waves.append((rows, answer))
        if self.undecided:
            return False
        self._finish(in_order(self._waves, wave.probabilities.shape[1]) if self._waves else answer)
        return True


def times_asked(parts: Sequence[JobPart], numbers: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """How often each of these images of a batch was asked about; None when all were once."""
    if all(part.job.asked is None for part in parts):
        return None
    times = np.ones(len(numbers), np.int64)
    for part in parts:
        inside = (numbers >= part.starts) & (numbers < part.ends)
        times[inside] = part.job.times_asked()[numbers[inside] - part.starts + part.offset]
    return times
