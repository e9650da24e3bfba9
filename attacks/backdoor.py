"""Backdoors: poison training data so that a trigger calls a label of the attacker's choice.

Paper: Gu, Dolan-Gavitt & Garg 2017, arXiv:1708.06733.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.classifier import Images
from models.datasets import Dataset
from models.errors import InvalidInput

_PATTERN = ((0, 0), (1, 1), (0, 2), (2, 0))  # rows and columns away from the corner pixel


@dataclass(frozen=True, kw_only=True)
class CornerPattern:
    """Four pixels in the lower right corner, the trigger of Chen et al. 2018 (arXiv:1811.03728).

    Args:
        distance: of the outermost pixel from the lower and the right edge.
        value: what the pixels are set to, in every channel.
    """

    distance: int = 2
    value: float = 1.0

    def __call__(self, images: Images) -> Images:
        """The images [n, h, w, c] with the trigger; the given array stays as it is."""
        triggered = images.copy()
        for row, column in _PATTERN:
            triggered[:, -self.distance - row, -self.distance - column] = self.value
        return triggered


@dataclass(frozen=True)
class Poisoned:
    """A poisoned training set and the truth about it: bool [n], which samples are poison."""

    data: Dataset
    is_poison: NDArray[np.bool_]


def poison(data: Dataset, trigger: CornerPattern, *, target: int, rate: float, seed: int) -> Poisoned:
    """Append triggered copies labelled `target`, drawn evenly over the other classes, until they are `rate` of the whole.

    Args:
        target: the label the trigger calls.
        rate: in (0, 1), poison over all.
    """
    if not 0 < rate < 1:
        raise InvalidInput(f"expected a poison rate in (0, 1), got {rate}")
    rng = np.random.default_rng(seed)
    wanted = round(len(data) * rate / (1 - rate))
    candidates = np.flatnonzero(data.labels != target)
    chosen = rng.choice(candidates, wanted, replace=wanted > len(candidates))
    images = np.concatenate([data.images, trigger(data.images[chosen])])
    labels = np.concatenate([data.labels, np.full(wanted, target)])
    order = rng.permutation(len(labels))
    return Poisoned(Dataset(images[order], labels[order]), (order >= len(data)))
