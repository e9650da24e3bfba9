"""The sessions of detectors without probes: they decide while an image joins, or when its features come with its answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from defences.keyed import Keys
from models.classifier import Features, Images, Probabilities

Score = Callable[[Images], NDArray[np.float64]]
"""Images [n, h, w, c] -> scores [n]; low is suspicious."""

FeatureScore = Callable[[Features, Probabilities], NDArray[np.float64]]
"""Features [n, d] and the classifier's probabilities [n, k] -> scores [n]; low is suspicious."""

_Number = TypeVar("_Number", np.int64, np.float64)


class WithoutProbes:
    """What sessions without probes have in common: every image costs the same, and a threshold decides once it has a score.

    No image is ever undecided, except in a session that decides in `decide`: that overrides `undecided`, `probe` and `decide`.

    Args:
        threshold: an image is refused when its score is not above it.
        calls: model calls of the score of an image.
    """

    def __init__(self, threshold: float, calls: int) -> None:
        self._threshold, self._calls = threshold, calls
        self.scores = np.empty(0)

    @property
    def abstained(self) -> NDArray[np.bool_]:
        return self.scores <= self._threshold  # never where there is no score yet, which is NaN

    @property
    def undecided(self) -> NDArray[np.int64]:
        return np.empty(0, np.int64)

    @property
    def calls(self) -> NDArray[np.int64]:
        return _filled(len(self.scores), np.int64, self._calls)

    @property
    def next_calls(self) -> NDArray[np.int64]:
        return np.zeros(len(self.scores), np.int64)

    @property
    def entropies(self) -> NDArray[np.float64]:
        return _filled(len(self.scores), np.float64, np.nan)

    def probe(self, among: NDArray[np.bool_] | None = None) -> Images:
        """Never called."""
        raise AssertionError("a detector that is never undecided is not asked for probes")

    def decide(self, outputs: Probabilities, answers: Probabilities) -> None:
        """Never called."""
        raise AssertionError("a detector that is never undecided is not told of outputs")


class UnprobedSession(WithoutProbes):
    """A `DetectorSession` in which every image is decided as it joins.

    Args:
        score: called once for each image; a score that is not finite fails the stage, since NaN would pass every threshold.
        threshold, calls: see `WithoutProbes`.
    """

    def __init__(self, score: Score, threshold: float, *, calls: int = 0) -> None:
        super().__init__(threshold, calls)
        self._score = score

    def join(self, kept: NDArray[np.int64], images: Images, keys: Keys) -> None:
        """Forget all images but those at `kept`, and decide on these behind them. Raises: ValueError: a score that is no number."""
        self.scores = np.concatenate([self.scores[kept], _checked(self._score(images), len(images))])


class LayerSession(WithoutProbes):
    """A `FeatureSession`: images are decided by the features that come with their answers.

    Between `join` and `see` the score of an image is NaN; the data path decides on no image that it has not predicted.

    Args:
        score: called once for each image, as above.
        threshold: see `WithoutProbes`.
    """

    def __init__(self, score: FeatureScore, threshold: float) -> None:
        super().__init__(threshold, 0)
        self._score = score

    def join(self, kept: NDArray[np.int64], images: Images, keys: Keys) -> None:
        """Forget all images but those at `kept`, and wait for the features of these behind them."""
        waiting = _filled(len(images), np.float64, np.nan)
        self.scores = np.concatenate([self.scores[kept], waiting]) if kept.size else waiting

    def see(self, features: Features, answers: Probabilities) -> None:
        """Decide on the images that joined last. Raises: ValueError: a score that is no number."""
        n = len(features)
        self.scores[len(self.scores) - n :] = _checked(self._score(features, answers), n)


def _filled(images: int, dtype: type[_Number], value: float) -> NDArray[_Number]:
    """The same number for every image; `np.full` takes three times as long, and every forward call has a few of these."""
    numbers = np.empty(images, dtype)
    numbers.fill(value)
    return numbers


def _checked(scores: NDArray[np.float64], images: int) -> NDArray[np.float64]:
    if scores.shape != (images,) or not np.logical_and.reduce(np.isfinite(scores)):
        raise ValueError(f"expected {images} finite scores, got {scores.dtype} {scores.shape}")
    return scores
