"""Run the whole path before the first request, for a bounded time, so that as little as possible compiles under traffic."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

import numpy as np

from defences.defended_classifier import DefendedClassifier, Pass

logger = logging.getLogger(__name__)

SECONDS_AT_MOST = 5.0
_ROUNDS = 3
_TELL_EVERY_S = 2.0

Clock = Callable[[], float]


def warm_up(
    defended: DefendedClassifier,
    images_at_most: int,
    *,
    seconds_per_call: float,
    within_s: float = SECONDS_AT_MOST,
    clock: Clock = time.perf_counter,
) -> int:
    """Decide on batches of 1, 2, 4, ... images, several times each; the largest size that was tried.

    Args:
        images_at_most: that may be at work at once.
        seconds_per_call: about what a model call takes; a step that would not end within the time is not begun, but for the first,
            so that a slow classifier costs a step more than `within_s` at most.

    Random images are no clean ones: most of them take every probe. A batch that is not decided in time is dropped.
    """
    rng = np.random.default_rng(0)
    end = clock() + within_s
    tell = _Teller(images_at_most, clock)
    largest = 0
    for size in _sizes(images_at_most):
        for _ in range(_ROUNDS):
            batch = defended.begin(rng.random((size, *defended.input_shape), np.float32))
            while batch.pending:
                if largest and clock() + _next_step_s(defended, batch, seconds_per_call) > end:
                    logger.info("tried the defences on up to %d images at once, for as long as the start may take", largest)
                    return largest
                largest = max(largest, size)
                defended.advance(batch)
                tell(size)
    return largest


class _Teller:
    """A line of log every two seconds."""

    def __init__(self, of: int, clock: Clock) -> None:
        self._of, self._clock, self._told = of, clock, clock()

    def __call__(self, size: int) -> None:
        if self._clock() - self._told >= _TELL_EVERY_S:
            self._told = self._clock()
            logger.info("trying the defences on %d of %d images at once", size, self._of)


def _sizes(most: int) -> Iterator[int]:
    size = 1
    while size <= most:
        yield size
        size *= 2


def _next_step_s(defended: DefendedClassifier, batch: Pass, seconds_per_call: float) -> float:
    return float(defended.costs(batch)[1].sum()) * seconds_per_call
