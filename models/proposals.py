"""Which reading of its images fits a classifier better than the declared one: proposed from some images, judged on others.

The best of two dozen readings is the best on the images it was chosen on, by chance too. So it is chosen on a part of the images, and
its gain is measured on the others, by the exact test of those where the two answer differently (McNemar 1947).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from models.classifier import Classifier, Images
from models.image_rows import Samples, blocks
from models.input_readings import Reading, readings
from models.preparation import Preparation

_CHOSEN_ON = 256  # images at most, and a third of them
_LOOKED_AT_NUMBERS = 1 << 25  # of the images whose mean and deviation are a reading: 222 of 224x224x3
_LOOKED_AT_FIRST = 64
_WORSE_BY = 0.2  # on the first: readings that are left out of the second look
_AS_GOOD = 0.01  # a more usual reading is taken before one that is better by less
_ALTERNATIVES = 2


@runtime_checkable
class PreparedClassifier(Classifier, Protocol):
    """A classifier that knows how its model wants its images."""

    @property
    def preparation(self) -> Preparation: ...


@dataclass(frozen=True)
class Proposal:
    """The reading that fits best, and on which of the images that it was not chosen on it is right, and the declared one, [n].

    Attributes:
        alternatives: others that fit as well on the images they were chosen on; which of them the model was trained with is not known.
    """

    reading: Reading
    alternatives: tuple[Reading, ...]
    right: NDArray[np.bool_]
    declared_right: NDArray[np.bool_]

    @property
    def options(self) -> str:
        """The options that say it."""
        return self.reading.options

    @property
    def others(self) -> str:
        """The alternatives' options, in brackets; empty without any."""
        if not self.alternatives:
            return ""
        said = " or ".join(one.options for one in self.alternatives)
        return f" ({said} fits about as well: take what it was trained with)"


def is_better(other: NDArray[np.bool_], own: NDArray[np.bool_], *, by: float, chance: float, than: float | None = None) -> bool:
    """Whether one answer is right on more of the same images than another.

    Args:
        by: the smallest gain, as a share, that matters.
        chance: the largest p of the exact one-sided test, over the images where the two differ.
        than: what its share has to be above with 97.5 % confidence, such as the share that a guess is right on.
    """
    better, worse = int((other & ~own).sum()), int((own & ~other).sum())
    if better + worse == 0 or float(other.mean() - own.mean()) < by:
        return False
    if float(binomtest(better, better + worse, alternative="greater").pvalue) >= chance:
        return False
    return than is None or float(binomtest(int(other.sum()), len(other)).proportion_ci().low) > than


def proposal(
    classifier: PreparedClassifier,
    data: Samples,
    declared_right: NDArray[np.bool_],
    *,
    among: Callable[[Preparation], bool] = lambda _: True,
) -> Proposal | None:
    """See `Trials.proposal`, of which this is the first question."""
    return Trials(classifier, data).proposal(declared_right, among=among)


class Trials:
    """A classifier on some images read in other ways. No image is read in the same way twice, however often it is asked.

    Args:
        data: a part of them is what a reading is chosen on, the others what it is judged on.
    """

    def __init__(self, classifier: PreparedClassifier, data: Samples) -> None:
        order = np.random.default_rng(2).permutation(len(data))
        self._classifier, self._data = classifier, data
        self._chosen_on, self._judged_on = np.split(order, [min(_CHOSEN_ON, len(order) // 3)])
        self._first, self._others = self._chosen_on[:_LOOKED_AT_FIRST], self._chosen_on[_LOOKED_AT_FIRST:]
        self._readings: list[Reading] | None = None
        self._known: dict[tuple[Preparation, bytes], NDArray[np.bool_]] = {}

    def proposal(
        self, declared_right: NDArray[np.bool_], *, among: Callable[[Preparation], bool] = lambda _: True
    ) -> Proposal | None:
        """The reading of these images that the classifier is most often right with; None where that is the declared one.

        Args:
            declared_right: on which of the images the classifier is right as it is, [n].
            among: which readings come into question.

        Cost: 64 model calls for every reading, 192 more for those that are not far behind, and one for each image that is judged on;
        nothing for what was asked before.
        """
        declared = self._classifier.preparation
        tried = [one for one in self._all() if among(one.preparation) and one.preparation != declared]
        if not tried or not len(self._chosen_on):
            return None
        best, alternatives = self._best(tried)
        if self._right(best, self._first, self._others).mean() <= declared_right[self._chosen_on].mean():
            return None
        return Proposal(best, alternatives, self._right(best, self._judged_on), declared_right[self._judged_on])

    def _all(self) -> list[Reading]:
        if self._readings is None:
            images = self._data.images
            some = images[next(blocks(images, numbers_at_most=_LOOKED_AT_NUMBERS))]
            flat = bool(getattr(self._classifier, "flat_input", False))
            self._readings = list(readings(some, self._classifier.preparation, flat=flat))
        return self._readings

    def _best(self, tried: list[Reading]) -> tuple[Reading, tuple[Reading, ...]]:
        """The reading that is right most often, and others that are nearly."""
        shares = np.array([self._right(one, self._first).mean() for one in tried])
        kept = [one for one, share in zip(tried, shares, strict=True) if share >= shares.max() - _WORSE_BY]
        found = [(one, self._right(one, self._first, self._others).mean()) for one in kept]
        most = max(share for _, share in found)
        good = [one for one, share in found if share >= most - _AS_GOOD]
        return good[0], tuple(good[1 : 1 + _ALTERNATIVES])

    def _right(self, reading: Reading, *parts: NDArray[np.int64]) -> NDArray[np.bool_]:
        """On which images of these parts the classifier is right when it reads them so, [n]."""
        return np.concatenate([self._right_on(reading.preparation, rows) for rows in parts])

    def _right_on(self, wanted: Preparation, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        key = wanted, rows.tobytes()
        if key not in self._known:
            data, found = self._data.take(rows), [np.empty(0, np.int64)]
            for block in blocks(data.images):
                given = _as_if(data.images[block], wanted, self._classifier.preparation)
                found.append(self._classifier.predict(given).argmax(axis=1))
            self._known[key] = np.concatenate(found) == data.labels
        return self._known[key]


def _as_if(images: Images, wanted: Preparation, declared: Preparation) -> Images:
    """The images that the declared preparation turns into what the wanted one makes of these."""
    given = wanted.apply(images)
    if wanted.layout != declared.layout:  # of a model that takes vectors
        given = given.reshape(len(images), *declared.shape(images.shape[1:]))
    values = given.astype(np.float32)
    if declared.layout == "nchw":
        values = values.transpose(0, 2, 3, 1)
    if declared.channels == "bgr":
        values = values[..., ::-1]
    scale, offset = (np.array(numbers, np.float32) for numbers in (declared.scale, declared.offset))
    return np.ascontiguousarray((values - offset) / scale, np.float32)
