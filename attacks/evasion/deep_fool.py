"""DeepFool: steps to the nearest decision boundary of the classifier, linearised at every step.

Paper: Moosavi-Dezfooli et al. 2016, arXiv:1511.04599, algorithm 2.
Maths: with logits z, the class k to leave and a candidate c, f_c = z_c - z_k and w_c its gradient by the image,

    c* = argmin_c |f_c| / ||w_c||_2,      r <- r + |f_c*| / ||w_c*||_2^2 * w_c*,      x = clip(x0 + (1 + overshoot) * r)

On a linear classifier the first step is the shortest way to the boundary.
Targeted, the only candidate is the target, and the class to leave is the predicted one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attacks.attack import Adversarial, Goal, ImageIndices, check, differentiable
from attacks.counted import Counted
from attacks.evasion.losses import logit
from models.classifier import Classifier, Images, Labels, Logits
from models.errors import InvalidInput

_TINY = 1e-30
_NUMBERS_AT_ONCE = 1 << 25  # 128 MiB of gradients


@dataclass(frozen=True, kw_only=True)
class DeepFool:
    """An attack with small L2 perturbations, without a bound on their size.

    Args:
        overshoot: >= 0, distance beyond the boundary, as a share of the way to it.
        iterations: largest number of steps, >= 1.
        candidates: number of classes considered, those of the largest logits with the label among them; >= 2.

    Cost: per image and step, a forward pass, and for the slopes a forward pass and a backward pass per class when there are no more
    classes than candidates, else a forward and a backward pass per candidate.
    Raises: InvalidInput on construction.
    """

    overshoot: float = 0.02
    iterations: int = 50
    candidates: int = 10

    name = "deep_fool"

    def __post_init__(self) -> None:
        if not (np.isfinite(self.overshoot) and self.overshoot >= 0):
            raise InvalidInput(f"{self.name}: expected overshoot >= 0, got {self.overshoot!r}")
        if self.iterations < 1:
            raise InvalidInput(f"{self.name}: expected iterations >= 1, got {self.iterations!r}")
        if self.candidates < 2:
            raise InvalidInput(
                f"{self.name}: expected candidates >= 2, a class to leave and one to go to, got {self.candidates!r}"
            )

    def __call__(self, classifier: Classifier, images: Images, goal: Goal, *, seed: int = 0) -> Adversarial:
        """See `Attack`; deterministic, `seed` is not used."""
        able = differentiable(classifier, self.name)
        check(able, images, goal)
        counted, found = Counted(able, len(images)), images.copy()
        classes, size = len(able.labels), int(np.prod(images.shape[1:]))
        at_once = max(1, _NUMBERS_AT_ONCE // (size * min(classes, self.candidates)))
        for start in range(0, len(images), at_once):
            self._walk(counted, found, images, np.arange(start, min(start + at_once, len(images))), goal)
        success = counted.reached(found, np.arange(len(images)), goal)
        return Adversarial(found, success, counted.queries, counted.gradients)

    def _walk(self, counted: Counted, found: Images, images: Images, rows: ImageIndices, goal: Goal) -> None:
        """Attack these images; results go to `found`."""
        way = np.zeros((len(rows), int(np.prod(images.shape[1:]))))
        for _ in range(self.iterations):
            x = found[rows]
            logits = counted.logits(x, rows)
            away = ~goal.take(rows).reached(logits.argmax(axis=1))
            rows, way, x, logits = rows[away], way[away], x[away], logits[away]
            if not rows.size:
                return
            leave, towards = _classes(logits, goal.take(rows), self.candidates)
            slopes = _slopes(counted, x, rows, leave, towards)
            way += _shortest(_gaps(logits, leave, towards), slopes)
            moved = images[rows] + ((1 + self.overshoot) * way).reshape(x.shape)
            found[rows] = np.clip(moved, 0, 1)


def _classes(logits: Logits, goal: Goal, candidates: int) -> tuple[Labels, Labels]:
    """The class to leave [n] and the candidate classes [n, m]."""
    if goal.targeted:
        return logits.argmax(axis=1), goal.labels[:, None]
    others = logits.copy()
    others[np.arange(len(others)), goal.labels] = -np.inf
    m = min(candidates, others.shape[1]) - 1
    return goal.labels, np.argpartition(-others, m - 1, axis=1)[:, :m]


def _gaps(logits: Logits, leave: Labels, towards: Labels) -> NDArray[np.float64]:
    """|f_c| [n, m]."""
    wide = logits.astype(np.float64)
    return np.abs(np.take_along_axis(wide, towards, 1) - np.take_along_axis(wide, leave[:, None], 1))


def _slopes(counted: Counted, x: Images, rows: ImageIndices, leave: Labels, towards: Labels) -> NDArray[np.float32]:
    """w_c [n, m, h * w * c]: from the gradients of all classes where these are no more than the candidates, else one by one."""
    n, m = towards.shape
    if counted.classes <= m + 1:
        every = counted.class_gradients(x, rows).reshape(n, counted.classes, -1)
        numbers = np.arange(n)[:, None]
        slopes: NDArray[np.float32] = every[numbers, towards] - every[numbers, leave[:, None]]
        return slopes
    parts = [counted.loss_gradient(x, rows, column, logit).gradient.reshape(n, -1) for column in (leave, *towards.T)]
    return np.stack(parts[1:], axis=1) - parts[0][:, None]


def _shortest(gaps: NDArray[np.float64], slopes: NDArray[np.float32]) -> NDArray[np.float64]:
    """The step [n, d] to the nearest linearised boundary; zero where no candidate has a slope."""
    squares = np.einsum("nmd,nmd->nm", slopes, slopes, dtype=np.float64)
    distance = np.where(squares > _TINY, gaps / np.sqrt(np.maximum(squares, _TINY)), np.inf)
    nearest = distance.argmin(axis=1)
    number = np.arange(len(gaps))
    square = squares[number, nearest]
    # 1e-4, as in the paper's code, crosses a boundary that would otherwise be reached exactly.
    factor = np.where(square > _TINY, (gaps[number, nearest] + 1e-4) / np.maximum(square, _TINY), 0.0)
    step: NDArray[np.float64] = factor[:, None] * slopes[number, nearest]
    return step
