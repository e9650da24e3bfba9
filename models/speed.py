"""How long a model call takes here: what limits, budgets and estimates are made of."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from models.classifier import Classifier, Images

ROWS_AT_MOST = 64
_NUMBERS_AT_MOST = 1 << 20  # 6 images of 224x224x3: a larger batch is no faster a row, and takes seconds
_ROUNDS = 3
_SECONDS_AT_MOST = 2.0

Clock = Callable[[], float]


def rows_to_time(input_shape: tuple[int, int, int], *, at_most: int = ROWS_AT_MOST) -> int:
    """How many images of this shape are timed in one batch."""
    return max(1, min(at_most, _NUMBERS_AT_MOST // int(np.prod(input_shape))))


def seconds_per_call(
    classifier: Classifier,
    *,
    rows_at_most: int = ROWS_AT_MOST,
    within_s: float = _SECONDS_AT_MOST,
    clock: Clock = time.perf_counter,
) -> float:
    """The time of one row in a batch: the best of three batches after one that is not counted, since it may compile.

    No batch is begun that would not end within `within_s` after the first; the first counts where there is no other.
    Cost: four batches of at most 64 images, of large ones fewer.
    """
    rows = rows_to_time(classifier.input_shape, at_most=rows_at_most)
    images = np.random.default_rng(0).random((rows, *classifier.input_shape), np.float32)
    first = _seconds(classifier, images, clock)
    counted: list[float] = []
    while len(counted) < _ROUNDS and sum(counted) + min(counted, default=first) <= within_s:
        counted.append(_seconds(classifier, images, clock))
    return min(counted, default=first) / rows


def _seconds(classifier: Classifier, images: Images, clock: Clock) -> float:
    started = clock()
    classifier.predict(images)
    return clock() - started
