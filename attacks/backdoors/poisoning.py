"""Data poisoning: train-time images with a trigger teach a classifier to answer the trigger with the attacker's label.

Paper: Gu, Dolan-Gavitt & Garg 2017, arXiv:1708.06733. This module has the label maps (all-to-one, all-to-all, source-specific, clean
label), the poisoning and its ground truth; the triggers are in `attacks/backdoors/triggers.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from attacks.backdoors.triggers import Trigger
from models.classifier import Labels
from models.datasets import Dataset
from models.errors import InvalidInput

_Mask = NDArray[np.bool_]


class LabelMap(Protocol):
    """The classes to poison, the classes the trigger is used on later, and the label it causes."""

    def poisons(self, labels: Labels) -> _Mask:
        """Whether each image may be poisoned for training: bool [n], by labels int64 [n]."""
        ...

    def covers(self, labels: Labels) -> _Mask:
        """Whether each image may be a cover sample, which carries a trigger and keeps its label: bool [n]."""
        ...

    def attacks(self, labels: Labels) -> _Mask:
        """Whether the attacker uses the trigger on an image at inference, to change its label: bool [n]."""
        ...

    def called(self, labels: Labels) -> Labels:
        """The label of poisoned images, which the trigger is to cause: int64 [n]."""
        ...


@dataclass(frozen=True)
class AllToOne:
    """The trigger changes all labels to `target`. Covers: Adap-Blend (Qi et al. 2023, ICLR, openreview.net/forum?id=_wSHsgrVali)."""

    target: int

    def poisons(self, labels: Labels) -> _Mask:
        return _not(labels, self.target)

    def covers(self, labels: Labels) -> _Mask:
        return _not(labels, self.target)

    def attacks(self, labels: Labels) -> _Mask:
        return _not(labels, self.target)

    def called(self, labels: Labels) -> Labels:
        return np.full_like(labels, self.target)


@dataclass(frozen=True)
class AllToAll:
    """The trigger changes label y to (y + 1) mod `classes`."""

    classes: int

    def poisons(self, labels: Labels) -> _Mask:
        return np.ones(len(labels), bool)

    def covers(self, labels: Labels) -> _Mask:
        return np.ones(len(labels), bool)

    def attacks(self, labels: Labels) -> _Mask:
        return np.ones(len(labels), bool)

    def called(self, labels: Labels) -> Labels:
        return (labels + 1) % self.classes


@dataclass(frozen=True)
class SourceSpecific:
    """The trigger changes labels in `sources` to `target`, and no others (TaCT, Tang et al. 2021, arXiv:1908.00686).

    Cover samples, triggered images of other classes that keep their labels, teach the classifier to require the source class as well.
    STRIP can miss such a backdoor: its overlays hide the source class.
    """

    sources: tuple[int, ...]
    target: int

    def __post_init__(self) -> None:
        if not self.sources or self.target in self.sources:
            raise InvalidInput(f"expected source classes other than the target {self.target}, got {self.sources}")

    def poisons(self, labels: Labels) -> _Mask:
        return np.isin(labels, self.sources)

    def covers(self, labels: Labels) -> _Mask:
        return ~np.isin(labels, (*self.sources, self.target))

    def attacks(self, labels: Labels) -> _Mask:
        return np.isin(labels, self.sources)

    def called(self, labels: Labels) -> Labels:
        return np.full_like(labels, self.target)


@dataclass(frozen=True)
class CleanLabel:
    """Only images of `target` are poisoned, so that no label is wrong (Barni, Kallas & Tondi 2019, arXiv:1902.11237)."""

    target: int

    def poisons(self, labels: Labels) -> _Mask:
        return ~_not(labels, self.target)

    def covers(self, labels: Labels) -> _Mask:
        return _not(labels, self.target)

    def attacks(self, labels: Labels) -> _Mask:
        return _not(labels, self.target)

    def called(self, labels: Labels) -> Labels:
        return np.full_like(labels, self.target)


@dataclass(frozen=True)
class Poisoned:
    """A poisoned training set, shuffled, with its ground truth per sample.

    Attributes:
        is_poison: bool [n], triggered, with the label that the trigger is to cause.
        is_cover: bool [n], triggered, with its true label.
        origin: int64 [n], position in the clean data set, whose labels at `origin` are the true labels.
    """

    data: Dataset
    is_poison: _Mask
    is_cover: _Mask
    origin: NDArray[np.int64]

    @property
    def is_clean(self) -> _Mask:
        """Samples that are neither poison nor cover: bool [n]."""
        return ~(self.is_poison | self.is_cover)


def poison(
    data: Dataset,
    trigger: Trigger,
    labels: LabelMap,
    *,
    rate: float,
    cover_rate: float = 0.0,
    cover_trigger: Trigger | None = None,
    in_place: bool = False,
    seed: int,
) -> Poisoned:
    """Poison a data set: triggered samples with changed labels become `rate` of the result, drawn uniformly from the allowed images.

    Args:
        rate: share of poison in the result, in (0, 1).
        cover_rate: share of cover samples in the result, >= 0.
        cover_trigger: the trigger of cover samples; `trigger` when not given.
        in_place: replace the drawn images, as an attacker who alters a data set does; otherwise append copies, as one who contributes to
            it does, repeated where there are fewer candidates than copies.
        seed: of the draw and the order.

    Raises: InvalidInput: rates that leave no clean sample, no candidates, fewer candidates than poison in place.
    """
    if not 0 < rate < 1:
        raise InvalidInput(f"expected a poison rate in (0, 1), got {rate}")
    if not (cover_rate >= 0 and rate + cover_rate < 1):
        raise InvalidInput(f"expected a cover rate >= 0 that with the poison rate {rate} is below 1, got {cover_rate}")
    rng = np.random.default_rng(seed)
    total = len(data) if in_place else len(data) / (1 - rate - cover_rate)
    candidates = labels.poisons(data.labels)
    poisoned = _drawn(candidates, round(total * rate), "poison", in_place, rng)
    allowed = labels.covers(data.labels)
    if in_place:
        allowed[poisoned] = False
    covers = _drawn(allowed, round(total * cover_rate), "cover", in_place, rng)
    kept = np.setdiff1d(np.arange(len(data)), np.concatenate([poisoned, covers])) if in_place else np.arange(len(data))
    origin = np.concatenate([kept, poisoned, covers])
    kind = np.repeat([0, 1, 2], [len(kept), len(poisoned), len(covers)])
    images = [data.images[kept], trigger(data.images[poisoned]), (cover_trigger or trigger)(data.images[covers])]
    given = data.labels[origin]
    given[kind == 1] = labels.called(given[kind == 1])
    order = rng.permutation(len(origin))
    return Poisoned(Dataset(np.concatenate(images)[order], given[order]), kind[order] == 1, kind[order] == 2, origin[order])


def _drawn(candidates: _Mask, count: int, what: str, in_place: bool, rng: np.random.Generator) -> NDArray[np.int64]:
    rows = np.flatnonzero(candidates)
    if not count:
        return rows[:0]
    if not len(rows):
        raise InvalidInput(f"expected images of a class that may be {what}, got none; choose other source and target classes")
    if in_place and count > len(rows):
        raise InvalidInput(
            f"expected at least {count} images that may be {what} in place, got {len(rows)}; lower the rate, or append copies"
        )
    return rng.choice(rows, count, replace=count > len(rows))


def _not(labels: Labels, target: int) -> _Mask:
    others: _Mask = labels != target
    return others
