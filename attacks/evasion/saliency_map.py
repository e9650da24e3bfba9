"""Jacobian-based saliency maps (JSMA): change few pixels, in pairs that raise the target's probability most.

Paper: Papernot et al. 2016, arXiv:1511.07528, algorithms 2 and 3; without a target, Wiyatno & Xu 2018, arXiv:1808.07945.
Maths: for components i, j of the image and the target t, with p = softmax,

    alpha = sum_{m in i, j} dp_t / dx_m,      beta = sum_{m in i, j} sum_{c != t} dp_c / dx_m

    argmax_(i, j) |alpha * beta|   subject to   alpha > 0, beta < 0;   signs reversed for theta < 0

Probabilities sum to one, so beta = -alpha, |alpha * beta| = alpha^2, and the pair has the two largest derivatives: one pass over the
components instead of one over their pairs. Derivatives are taken of log p_t, which keeps their order and does not vanish with p_t. Where
no pair has alpha > 0, a single component with a derivative > 0 is changed alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from attacks.attack import Adversarial, Goal, check, differentiable
from attacks.counted import Counted
from attacks.evasion.losses import cross_entropy
from models.classifier import Classifier, Images
from models.errors import InvalidInput

Pairs = NDArray[np.int64]
"""int64 [n, 2], indices of components; -1 for none."""


@dataclass(frozen=True, kw_only=True)
class SaliencyMap:
    """Change two components of the image by theta at a time, until the goal is reached or the budget spent.

    Targeted, the target's probability is raised; untargeted, that of the label is lowered.

    Args:
        theta: change of a component, in [-1, 1], not 0. Components are clipped to the box, and may change again until they reach its end.
        gamma: in (0, 1], the share of the h * w * c components that may change, floor(gamma * h * w * c) of them.

    Cost: per image, a forward and a backward pass for every pair: at most gamma * h * w * c / 2 when |theta| is 1. The search for a
    pair is linear in the components.
    Raises: InvalidInput on construction; on a call, when gamma * h * w * c is less than one component.
    """

    theta: float = 1.0
    gamma: float = 0.1

    name = "saliency_map"

    def __post_init__(self) -> None:
        if not (0 < abs(self.theta) <= 1):
            raise InvalidInput(f"{self.name}: expected theta from -1 to 1 and not 0, got {self.theta!r}")
        if not (0 < self.gamma <= 1):
            raise InvalidInput(
                f"{self.name}: expected gamma in (0, 1], the share of components that may change, got {self.gamma!r}"
            )

    def __call__(self, classifier: Classifier, images: Images, goal: Goal, *, seed: int = 0) -> Adversarial:
        """See `Attack`; deterministic, `seed` is not used."""
        able = differentiable(classifier, self.name)
        check(able, images, goal)
        size = int(np.prod(images.shape[1:]))
        budget = self._budget(size)
        counted, found, success = Counted(able, len(images)), images.copy(), np.zeros(len(images), bool)
        rows = np.arange(len(images))
        x, changed = images.copy(), np.zeros((len(images), size), bool)
        while rows.size:
            out = counted.loss_gradient(x, rows, goal.labels[rows], cross_entropy)
            reached = counted.confirmed(out.logits, x, rows, goal)
            # Cross-entropy is -log p: its negative gradient raises p_t, its gradient lowers p_label.
            pairs = salient_pairs(-out.gradient if goal.targeted else out.gradient, x, changed, budget, self.theta)
            done = reached | (pairs[:, 0] < 0)
            success[rows] = reached
            found[rows[done]] = x[done]
            if done.any():
                x, changed, rows, pairs = x[~done], changed[~done], rows[~done], pairs[~done]
            _move(x.reshape(len(x), size), changed, pairs, np.float32(self.theta))
        return Adversarial(found, success, counted.queries, counted.gradients)

    def _budget(self, size: int) -> int:
        most = math.floor(self.gamma * size * (1 + 1e-12))  # 0.29 * 100 is a little less than 29 in binary
        if most < 1:
            raise InvalidInput(
                f"{self.name}: expected gamma * {size} components to be at least 1, got gamma {self.gamma!r}; use {1 / size:.2g} or more"
            )
        return most


def salient_pairs(rise: Images, images: Images, changed: NDArray[np.bool_], budget: int, theta: float) -> Pairs:
    """The pair of components to change by theta, for every image.

    Args:
        rise: [n, h, w, c], the derivative of the function to raise.
        images: [n, h, w, c]; components at the end of the box that theta points to are not admissible.
        changed: bool [n, h * w * c], the components changed before; others are admissible only within the budget.
        budget: number of components of an image that may change.
        theta: the change, whose sign selects positive or negative derivatives.

    Returns: [n, 2], the best component first. The second is -1 when it would undo the first or exceed the budget; both are when no
    admissible component helps.
    """
    pairs = np.empty((len(images), 2), np.int64)
    if len(images):
        slopes = np.ascontiguousarray(rise.reshape(len(rise), -1), np.float32)
        _salient_pairs(
            slopes, np.ascontiguousarray(images.reshape(slopes.shape), np.float32), changed, budget, float(theta), pairs
        )
    return pairs


@njit(nogil=True, cache=True)
def _salient_pairs(slopes: Any, images: Any, changed: Any, budget: int, theta: float, pairs: Any) -> None:
    sign = np.float32(1 if theta > 0 else -1)
    end = np.float32(1 if theta > 0 else 0)
    none = np.float32(-np.inf)
    for row in range(len(images)):
        g, x, old = slopes[row], images[row], changed[row]
        used = 0
        # The two best of the components changed before, and the two best of the others.
        a1, a2, b1, b2 = none, none, none, none
        a1_at, a2_at, b1_at, b2_at = -1, -1, -1, -1
        for k in range(x.size):
            value = sign * g[k]
            if old[k]:
                used += 1
                if x[k] != end and value > a2:
                    if value > a1:
                        a1, a1_at, a2, a2_at = value, k, a1, a1_at
                    else:
                        a2, a2_at = value, k
            elif value > b2 and x[k] != end:
                if value > b1:
                    b1, b1_at, b2, b2_at = value, k, b1, b1_at
                else:
                    b2, b2_at = value, k
        left = budget - used
        if left < 1:
            b1, b1_at = none, -1
        if left < 2:
            b2, b2_at = none, -1
        if a1 >= b1:
            first, at, second, second_at = a1, a1_at, max(a2, b1), a2_at if a2 >= b1 else b1_at
        else:
            first, at, second, second_at = b1, b1_at, max(b2, a1), a1_at if a1 >= b2 else b2_at
        pairs[row, 0] = at if first > 0 else -1
        pairs[row, 1] = second_at if first > 0 and first + second > 0 else -1


@njit(nogil=True, cache=True)
def _move(images: Any, changed: Any, pairs: Any, theta: Any) -> None:
    zero, one = np.float32(0), np.float32(1)
    for row in range(len(images)):
        for k in pairs[row]:
            if k >= 0:
                images[row, k] = min(max(images[row, k] + theta, zero), one)
                changed[row, k] = True
