"""Adversarial patches of an image's own: any content in one small rectangle, anywhere in the image.

Paper: LaVAN, Karmon, Zoran & Goldberg, ICML 2018, arXiv:1801.02608, and the sign of the gradient in place of it, as in projected gradient
descent (Madry et al. 2017, arXiv:1706.06083).
Maths:  x' = (1 - m) x + m d,   m the rectangle;   d <- clip(d + step * sign(grad L)), from random content, at one place after the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attacks.attack import Adversarial, Goal, check, differentiable
from attacks.counted import Counted
from attacks.evasion.losses import margin
from attacks.evasion.steps import step
from models.classifier import Classifier, Images, Loss
from models.errors import InvalidInput

Places = NDArray[np.int64]
"""int64 [n, 2], the upper left corner of each image's patch, as [top, left]."""


@dataclass(frozen=True, kw_only=True)
class LaVAN:
    """Ascend the loss in the pixels of a patch, at each of the given places and then at random ones, until the goal is reached.

    An image that never reaches the goal is returned with the patch of the best loss.

    Args:
        size: (rows, columns) of the patch, >= 1 and no larger than the image.
        places: (top, left) that are tried first in every image, such as those across the borders of a defence's masks.
        locations: random places after these, of each image's own, >= 0; with `places` at least one.
        iterations: steps at every place, >= 1.
        step: of a pixel, of its range of 1, > 0.
        loss: to ascend.

    Cost: per image and place, at most `iterations` backward passes and as many forward passes, and two forward passes more.
    Raises: InvalidInput on construction, and for a patch that does not fit into the images.
    """

    size: tuple[int, int]
    places: tuple[tuple[int, int], ...] = ()
    locations: int = 8
    iterations: int = 40
    step: float = 0.1
    loss: Loss = margin

    name = "lavan"

    def __post_init__(self) -> None:
        if len(self.size) != 2 or not all(isinstance(side, int) and side >= 1 for side in self.size):
            raise InvalidInput(f"{self.name}: expected a size, two whole numbers above 0, got {self.size!r}")
        if self.locations < 0 or self.iterations < 1 or (not self.places and not self.locations):
            raise InvalidInput(
                f"{self.name}: expected iterations >= 1 and a place to try, got {self.iterations} iterations, {len(self.places)} places "
                f"and {self.locations} locations"
            )
        if not (math.isfinite(self.step) and self.step > 0):
            raise InvalidInput(f"{self.name}: expected step > 0, got {self.step!r}")

    def __call__(self, classifier: Classifier, images: Images, goal: Goal, *, seed: int = 0) -> Adversarial:
        """See `Attack`."""
        able = differentiable(classifier, self.name)
        check(classifier, images, goal)
        self._check_places(images.shape[1:])
        rng = np.random.default_rng(seed)
        search = _Search(self, Counted(able, len(images)), images, goal)
        room = [side - own + 1 for side, own in zip(images.shape[1:3], self.size, strict=True)]
        for number in range(len(self.places) + self.locations):
            drawn = rng.integers(0, room, (len(images), 2))
            content = rng.random(images.shape, np.float32)
            given = number < len(self.places)
            search.at(np.tile(self.places[number], (len(images), 1)) if given else drawn, content)
        return Adversarial(search.best, search.success, search.counted.queries, search.counted.gradients)

    def _check_places(self, shape: tuple[int, ...]) -> None:
        room = [side - own for side, own in zip(shape[:2], self.size, strict=True)]
        fits = all(0 <= at <= most for place in self.places for at, most in zip(place, room, strict=True))
        if min(room) < 0 or not fits:
            raise InvalidInput(f"{self.name}: expected patches of {self.size} inside of images of {tuple(shape[:2])}")


class _Search:
    """The attack on n images: for each, whether a patch reached the goal, and the best one so far."""

    def __init__(self, attack: LaVAN, counted: Counted, images: Images, goal: Goal) -> None:
        self._attack, self.counted, self._images, self._goal = attack, counted, images, goal
        self.best, self.success = images.copy(), np.zeros(len(images), bool)
        self._gain = np.full(len(images), -np.inf)

    def at(self, places: Places, content: Images) -> None:
        """A run on every image that is left, with the patch at `places` [n], from `content` [n, h, w, c] on."""
        rows = np.flatnonzero(~self.success)
        if not rows.size:
            return
        attack, goal = self._attack, self._goal
        inside = within(places[rows], attack.size, self._images.shape[1:])
        x = np.where(inside, content[rows], self._images[rows])
        uphill = -1.0 if goal.targeted else 1.0
        for _ in range(attack.iterations):
            out = self.counted.loss_gradient(x, rows, goal.labels[rows], attack.loss)
            reached = self.counted.confirmed(out.logits, x, rows, goal)
            self._offer(x, rows, uphill * out.loss, reached)
            left = ~reached
            rows, x, inside = rows[left], x[left], inside[left]
            if not rows.size:
                return
            step(x, x, out.gradient[left] * inside, length=uphill * attack.step, eps=math.inf, norm=math.inf)
        self._offer(x, rows, np.full(len(rows), -np.inf), self.counted.reached(x, rows, goal))

    def _offer(self, x: Images, rows: NDArray[np.int64], gain: NDArray[np.floating], reached: NDArray[np.bool_]) -> None:
        """Candidates for these images, their gain in loss, and whether they reached the goal."""
        gain = np.where(reached, np.inf, gain)
        better = gain > self._gain[rows]
        self.best[rows[better]], self._gain[rows[better]] = x[better], gain[better]
        self.success[rows] |= reached


def within(places: Places, size: tuple[int, int], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which pixels lie in each image's patch: [n, 2] -> [n, h, w, 1]."""
    row, column = np.arange(shape[0]), np.arange(shape[1])
    top, left = places.T[..., None]
    rows, columns = (row >= top) & (row < top + size[0]), (column >= left) & (column < left + size[1])
    inside: NDArray[np.bool_] = (rows[:, :, None] & columns[:, None, :])[..., None]
    return inside
