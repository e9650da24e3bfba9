"""The session of a detector without probes: it decides while an image joins."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from defences.keyed import Keys
from models.classifier import Images, Probabilities

Score = Callable[[Images], NDArray[np.float64]]
"""Images [n, h, w, c] -> scores [n]; low is suspicious."""


class UnprobedSession:
    """A `DetectorSession` in which no image is ever undecided.

    Args:
        score: called once for each image; a score that is not finite fails the stage, since NaN would pass every threshold.
        threshold: an image is refused when its score is not above it.
        calls: model calls of `score` for an image.
    """

    def __init__(self, score: Score, threshold: float, *, calls: int = 0) -> None:
        self._score, self._threshold, self._calls = score, threshold, calls
        self.abstained = np.empty(0, bool)
        self.scores = np.empty(0)

    @property
    def undecided(self) -> NDArray[np.int64]:
        return np.empty(0, np.int64)

    @property
    def calls(self) -> NDArray[np.int64]:
        return np.full(len(self.scores), self._calls)

    @property
    def next_calls(self) -> NDArray[np.int64]:
        return np.zeros(len(self.scores), np.int64)

    @property
    def entropies(self) -> NDArray[np.float64]:
        return np.full(len(self.scores), np.nan)

    def join(self, kept: NDArray[np.int64], images: Images, keys: Keys) -> None:
        """Forget all images but those at `kept`, and decide on these behind them. Raises: ValueError: a score that is no number."""
        scores = self._score(images)
        if scores.shape != (len(images),) or not np.isfinite(scores).all():
            raise ValueError(f"expected {len(images)} finite scores, got {scores.dtype} {scores.shape}")
        self.scores = np.concatenate([self.scores[kept], scores])
        self.abstained = self.scores <= self._threshold

    def probe(self, among: NDArray[np.bool_] | None = None) -> Images:
        """Never called."""
        raise AssertionError("a detector that is never undecided is not asked for probes")

    def decide(self, outputs: Probabilities, answers: Probabilities | None = None) -> None:
        """Never called."""
        raise AssertionError("a detector that is never undecided is not told of outputs")
