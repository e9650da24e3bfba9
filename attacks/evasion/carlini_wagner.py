"""The smallest L2 perturbation that reaches the goal, by descent on a penalty.

Paper: Carlini & Wagner 2017, arXiv:1608.04644, section VI.A.
Maths: with logits z and the image x' = (tanh(w) + 1) / 2, which is in the box for every w,

    minimise_w  ||x' - x||_2^2 + c * f(x'),      f = max(kappa - gain, 0)

    gain = max_{i != label} z_i - z_label,   or, targeted,   z_target - max_{i != target} z_i

by Adam (Kingma & Ba 2015, arXiv:1412.6980), with one c per image: raised tenfold until a success, then found by bisection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from attacks.attack import Adversarial, Goal, ImageIndices, check, differentiable
from attacks.counted import Counted
from attacks.evasion.losses import margin
from models.classifier import Classifier, Images, Labels, Logits
from models.errors import InvalidInput

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8
_INSIDE = 0.999999  # arctanh has no value at the ends of the box
_CHECKS = 10
_NUMBERS_AT_ONCE = 1 << 24


@dataclass(frozen=True, kw_only=True)
class CarliniWagner:
    """The L2 attack: slow, with perturbations close to the smallest possible.

    Args:
        confidence: kappa >= 0, margin by which the goal's logit has to win.
        learning_rate: > 0, Adam's step size in w.
        iterations: Adam steps for each c, >= 1.
        searches: values of c tried for each image, >= 1.
        constant: > 0, the first c.

    A run ends early for an image whose objective fell by less than a ten-thousandth within a tenth of the iterations.
    Cost: per image at most searches * iterations forward and backward passes, and one forward pass.
    Raises: InvalidInput on construction.
    """

    confidence: float = 0.0
    learning_rate: float = 0.01
    iterations: int = 200
    searches: int = 9
    constant: float = 0.01

    name = "carlini_wagner"

    def __post_init__(self) -> None:
        for what in ("learning_rate", "constant"):
            if not (np.isfinite(getattr(self, what)) and getattr(self, what) > 0):
                raise InvalidInput(f"{self.name}: expected {what} > 0, got {getattr(self, what)!r}")
        for what in ("iterations", "searches"):
            if getattr(self, what) < 1:
                raise InvalidInput(f"{self.name}: expected {what} >= 1, got {getattr(self, what)!r}")
        if not (np.isfinite(self.confidence) and self.confidence >= 0):
            raise InvalidInput(f"{self.name}: expected confidence >= 0, got {self.confidence!r}")

    def __call__(self, classifier: Classifier, images: Images, goal: Goal, *, seed: int = 0) -> Adversarial:
        """See `Attack`; deterministic, `seed` is not used."""
        able = differentiable(classifier, self.name)
        check(able, images, goal)
        counted, best = Counted(able, len(images)), _Best(images)
        at_once = max(1, _NUMBERS_AT_ONCE // max(1, int(np.prod(images.shape[1:]))))
        for start in range(0, len(images), at_once):
            rows = np.arange(start, min(start + at_once, len(images)))
            self._search(counted, best, images[rows], rows, goal)
        success = counted.reached(best.images, np.arange(len(images)), goal)
        return Adversarial(best.images, success, counted.queries, counted.gradients)

    def _search(self, counted: Counted, best: _Best, images: Images, rows: ImageIndices, goal: Goal) -> None:
        """Search c for these images."""
        c, low, high = np.full(len(rows), self.constant), np.zeros(len(rows)), np.full(len(rows), np.inf)
        for _ in range(self.searches):
            succeeded = self._descend(counted, best, images, rows, goal, c)
            high, low = np.where(succeeded, np.minimum(high, c), high), np.where(succeeded, low, np.maximum(low, c))
            c = np.where(np.isinf(high), 10 * c, (low + np.where(np.isinf(high), 0, high)) / 2)

    def _descend(
        self, counted: Counted, best: _Best, images: Images, rows: ImageIndices, goal: Goal, c: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """One run of Adam; returns whether it succeeded, bool [m]."""
        state = _Adam(images, c)
        reached_before = np.zeros(len(rows), bool)
        before = np.full(len(rows), np.inf)
        active = np.arange(len(rows))
        penalty = _penalty(goal.targeted, self.confidence)
        for iteration in range(self.iterations):
            out = counted.loss_gradient(state.images, rows[active], goal.labels[rows[active]], penalty)
            squares = state.squares()
            reached = (out.loss <= 0) & goal.take(rows[active]).reached(out.logits.argmax(axis=1))
            reached_before[active] |= reached
            best.offer(state.images, rows[active], reached, squares, out.loss)
            state.descend(out.gradient, self.learning_rate)
            if (iteration + 1) % max(1, self.iterations // _CHECKS) == 0:
                objective = squares + state.c * out.loss
                going = objective < 0.9999 * before
                before, active = objective[going], active[going]
                state.keep(going)
                if not active.size:
                    break
        return reached_before


def _penalty(targeted: bool, confidence: float) -> Any:
    """f as a `Loss`: its values and its derivative by the logits."""
    sign = np.float32(-1 if targeted else 1)

    def penalty(logits: Logits, labels: Labels) -> tuple[NDArray[np.float32], Logits]:
        gain, derivative = margin(logits, labels)
        short = np.float32(confidence) - sign * gain
        return np.maximum(short, 0), np.where(short[:, None] >= 0, -sign * derivative, 0)

    return penalty


class _Best:
    """For every image the closest point that reaches the goal; before the first, the point with the smallest penalty."""

    def __init__(self, images: Images) -> None:
        self.images = images.copy()
        self._success, self._score = np.zeros(len(images), bool), np.full(len(images), np.inf)

    def offer(
        self,
        points: Images,
        rows: ImageIndices,
        reached: NDArray[np.bool_],
        squares: NDArray[np.float64],
        penalty: NDArray[np.float32],
    ) -> None:
        """Candidates [m] for these images: whether each reached the goal, its squared distance and its penalty."""
        score = np.where(reached, squares, penalty)
        first = reached & ~self._success[rows]
        better = first | ((reached == self._success[rows]) & (score < self._score[rows]))
        self.images[rows[better]], self._score[rows[better]] = points[better], score[better]
        self._success[rows] |= reached


class _Adam:
    """Adam's state: w and the moments of its gradient, float32 [m, d], one row per image."""

    def __init__(self, images: Images, c: NDArray[np.float64]) -> None:
        flat = images.reshape(len(images), -1)
        self._shape = images.shape[1:]
        self._given = flat
        self._w = np.arctanh((2 * flat - 1) * np.float32(_INSIDE))
        self._first, self._second = np.zeros_like(flat), np.zeros_like(flat)
        self._points, self._steps = flat.copy(), 0
        self.c = c

    @property
    def images(self) -> Images:
        """The images x' [m, h, w, c]."""
        return self._points.reshape(-1, *self._shape)

    def squares(self) -> NDArray[np.float64]:
        """||x' - x||_2^2 of every image: float64 [m]."""
        change = self._points - self._given
        squares: NDArray[np.float64] = np.einsum("nd,nd->n", change, change, dtype=np.float64)
        return squares

    def descend(self, gradients: Images, learning_rate: float) -> None:
        """One step down ||x' - x||^2 + c * f, given the gradient of f by x'."""
        self._steps += 1
        rate = learning_rate * np.sqrt(1 - _BETA_2**self._steps) / (1 - _BETA_1**self._steps)
        flat = np.require(gradients, np.float32, ["C", "W"]).reshape(self._w.shape)
        _adam(self._w, self._first, self._second, self._points, self._given, flat, self.c, rate)

    def keep(self, rows: NDArray[np.bool_]) -> None:
        """Drop all images but these."""
        if not rows.all():
            self._w, self._first, self._second = self._w[rows], self._first[rows], self._second[rows]
            self._points, self._given, self.c = self._points[rows], self._given[rows], self.c[rows]


@njit(nogil=True, cache=True)
def _adam(w: Any, first: Any, second: Any, points: Any, given: Any, gradients: Any, c: Any, rate: float) -> None:
    one, two, half = np.float32(1), np.float32(2), np.float32(0.5)
    b1, b2, epsilon, stride = np.float32(_BETA_1), np.float32(_BETA_2), np.float32(_EPSILON), np.float32(rate)
    for row in range(len(w)):
        weight = np.float32(c[row])
        for k in range(w.shape[1]):
            slope = two * (points[row, k] - given[row, k])
            if np.isfinite(gradients[row, k]):
                slope += weight * gradients[row, k]
            t = two * points[row, k] - one
            slope *= half * (one - t * t)  # dx'/dw
            first[row, k] = b1 * first[row, k] + (one - b1) * slope
            second[row, k] = b2 * second[row, k] + (one - b2) * slope * slope
            w[row, k] -= stride * first[row, k] / (np.sqrt(second[row, k]) + epsilon)
            points[row, k] = half * (np.tanh(w[row, k]) + one)
