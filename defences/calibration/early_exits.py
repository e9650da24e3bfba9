"""How early an image may leave STRIP, so that one which all overlays refuse hardly ever does.

An image is described by N values in [0, 1], one an overlay, and refused when their mean is at most a threshold. Overlays come in a random
order, and the image leaves after n of them when the mean of those is above a boundary. Which boundaries let a refused image leave in no
more than a share alpha of its orders, *whatever its values are*?

The values are somebody else's choice, only their sum is bounded. Worst are those that put it into few overlays: `worst_cases` lists
images of two heights, some overlays at 1, others alike and the rest at 0, with the largest sum that is refused. For each, the
number of either kind among the first n is a Markov chain, so that the chance to leave is exact, without sampling. Between two stages
that chance is spent by a rule (alpha spending: Lan and DeMets, Biometrika 1983).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# How many different heights of the second kind are tried beside each number of ones.
_HEIGHTS = 16
_ROUNDING = 1e-9


@dataclass(frozen=True)
class TwoHeights:
    """An image whose values are 1 under `ones` of the overlays, `height` under `parts` of them, and 0 under the rest."""

    overlays: int
    ones: int
    parts: int
    height: float

    def values(self) -> NDArray[np.float64]:
        """[N]."""
        values = np.zeros(self.overlays)
        values[: self.ones] = 1
        values[self.ones : self.ones + self.parts] = self.height
        return values


class Walk:
    """The images of `TwoHeights` that have not left yet, by what they have seen: a distribution over (ones seen, parts seen)."""

    def __init__(self, image: TwoHeights) -> None:
        self._image = image
        self._alive = np.zeros((image.ones + 1, image.parts + 1))
        self._alive[0, 0] = 1
        self._seen = 0
        ones, parts = np.arange(image.ones + 1)[:, None], np.arange(image.parts + 1)
        self._left = image.ones - ones, image.parts - parts
        self._sums = ones + image.height * parts

    def to(self, seen: int) -> None:
        """See overlays up to that many."""
        for before in range(self._seen, seen):
            unseen = self._image.overlays - before
            one, part = (self._alive * left / unseen for left in self._left)
            self._alive = self._alive - one - part
            self._alive[1:] += one[:-1]
            self._alive[:, 1:] += part[:, :-1]
            np.maximum(self._alive, 0, out=self._alive)
        self._seen = seen

    def lowest_boundary(self, share: float) -> float:
        """The lowest mean such that at most this share of all images lies above it now."""
        means, alive = self._sums.ravel() / self._seen, self._alive.ravel()
        order = np.argsort(-means, kind="stable")
        above = np.cumsum(alive[order])
        # Equal means leave together, or not at all.
        fits = int(np.searchsorted(above, share, side="right"))
        return float(means[order[min(fits, len(order) - 1)]]) if fits < len(order) else 0.0

    def leave(self, boundary: float) -> float:
        """Those with a higher mean leave: the share of all images that does."""
        leaving = self._sums / self._seen > boundary
        share = float(self._alive[leaving].sum())
        self._alive[leaving] = 0
        return share


def worst_cases(total: float, overlays: int) -> tuple[TwoHeights, ...]:
    """Images of this sum (or all ones, where it is larger) in few overlays and in many, with and without overlays at 1."""
    total = min(total, float(overlays))
    found = []
    for ones in range(int(total) + 1):
        rest = total - ones
        least = max(1, int(np.ceil(rest)))
        if rest <= _ROUNDING or ones == overlays:
            found.append(TwoHeights(overlays, ones, 0, 0.0))
        elif least <= overlays - ones:
            counts = np.unique(np.geomspace(least, overlays - ones, _HEIGHTS).round().astype(np.int64))
            found += [TwoHeights(overlays, ones, int(parts), min(1.0, rest / int(parts))) for parts in counts]
    return tuple(found)


def boundaries(
    threshold: float, stages: Sequence[int], alpha: float, spending: float, images: Sequence[TwoHeights] | None = None
) -> NDArray[np.float64]:
    """The mean above which an image may leave after each stage but the last, [J - 1]: the lowest that `alpha` allows.

    Args:
        threshold: an image is refused when its mean over all overlays is not above it; in [0, 1].
        stages: (n_1, ..., n_J = N).
        alpha: a refused image leaves early in at most this share of its orders.
        spending: stage j may use up the part of alpha that is proportional to spending**j, and what earlier ones left.
        images: those to hold for, `worst_cases` when none.
    """
    overlays = stages[-1]
    walks = [Walk(image) for image in images or worst_cases(threshold * overlays, overlays)]
    weights = spending ** np.arange(len(stages) - 1)
    allowed = alpha * np.cumsum(weights) / weights.sum()
    left, found = np.zeros(len(walks)), []
    for seen, most in zip(stages[:-1], allowed, strict=True):
        for walk in walks:
            walk.to(seen)
        lowest = max(walk.lowest_boundary(most - gone) for walk, gone in zip(walks, left, strict=True))
        found.append(max(threshold, lowest + _ROUNDING))
        left += [walk.leave(found[-1]) for walk in walks]
    return np.array(found)


def leaves_early(image: TwoHeights, stages: Sequence[int], bounds: Sequence[float]) -> float:
    """The share of its orders in which an image leaves before the last stage."""
    walk, left = Walk(image), 0.0
    for seen, boundary in zip(stages[:-1], bounds, strict=True):
        walk.to(seen)
        left += walk.leave(boundary)
    return left
