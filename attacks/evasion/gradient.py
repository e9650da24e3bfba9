"""Gradient attacks on the loss: fast gradient method, basic iterative method, projected gradient descent.

    x <- clip(project(x + step * d)),   d the steepest direction of the loss for the norm      (attacks/evasion/steps.py)

One loop serves all: the basic iterative method is projected gradient descent from the image itself, the fast gradient method one step.

Papers: Goodfellow et al. 2015, arXiv:1412.6572; Kurakin et al. 2016, arXiv:1607.02533; Madry et al. 2017, arXiv:1706.06083.
Maths:  ascend L(x, label); targeted, descend L(x, target). The loss is computed from logits, whose gradient is nonzero where
        probabilities have saturated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from attacks.attack import Adversarial, Goal, ImageIndices, check, check_eps, differentiable
from attacks.counted import Counted
from attacks.evasion.losses import cross_entropy
from attacks.evasion.projections import onto_l1_ball, onto_l2_ball
from attacks.evasion.steps import PROJECTED_NORMS, step
from models.classifier import Classifier, DifferentiableClassifier, Images, Labels, Loss
from models.errors import InvalidInput

_NUMBERS_AT_ONCE = 1 << 24  # 64 MiB of float32; the loop holds about six such arrays


@dataclass(frozen=True, kw_only=True)
class ProjectedGradientDescent:
    """Ascend the loss from the image, then from `restarts` random points of the ball, until the goal is reached.

    An image is done as soon as `predict` confirms the goal, so that restarts only add successes. An image that never reaches the goal
    is returned at the point of its best loss.

    Args:
        eps: radius of the ball, > 0.
        norm: of the ball: inf, 2 or 1.
        step: length of a step; 2.5 * eps / iterations when not given (Madry et al.), so that every point of the ball is in reach.
        iterations: steps of a run, >= 1.
        restarts: additional runs from random points (uniform in the ball, then clipped to the box).
        loss: the loss to ascend: `cross_entropy` or `margin`, or any other of `attacks/evasion/losses.py`.

    Cost: per image and run, at most `iterations` backward passes and as many forward passes, and two forward passes more.
    Raises: InvalidInput on construction.
    """

    eps: float
    norm: float = math.inf
    step: float | None = None
    iterations: int = 40
    restarts: int = 0
    loss: Loss = cross_entropy

    name = "projected_gradient_descent"

    def __post_init__(self) -> None:
        _check_search(self.name, self.eps, self.norm, self.step, self.iterations)
        if self.restarts < 0:
            raise InvalidInput(f"{self.name}: expected restarts >= 0, got {self.restarts!r}; 0 starts from the image alone")

    def __call__(self, classifier: Classifier, images: Images, goal: Goal, *, seed: int = 0) -> Adversarial:
        """See `Attack`."""
        climb = _climb(self.eps, self.norm, self.step, self.iterations, self.loss)
        return _search(self.name, classifier, images, goal, climb, self.restarts, seed)


@dataclass(frozen=True, kw_only=True)
class BasicIterative:
    """Ascend the loss from the image in `iterations` steps: projected gradient descent without random starts.

    Args:
        eps, norm, step, iterations, loss: as in `ProjectedGradientDescent`.

    Cost: as of one run of it. Raises: InvalidInput on construction.
    """

    eps: float
    norm: float = math.inf
    step: float | None = None
    iterations: int = 10
    loss: Loss = cross_entropy

    name = "basic_iterative"

    def __post_init__(self) -> None:
        _check_search(self.name, self.eps, self.norm, self.step, self.iterations)

    def __call__(self, classifier: Classifier, images: Images, goal: Goal, *, seed: int = 0) -> Adversarial:
        """See `Attack`; deterministic, `seed` is not used."""
        climb = _climb(self.eps, self.norm, self.step, self.iterations, self.loss)
        return _search(self.name, classifier, images, goal, climb, 0, seed)


@dataclass(frozen=True, kw_only=True)
class FastGradient:
    """One step of length eps, or the smallest multiple of `step` up to eps that reaches the goal.

    Args:
        eps: length of the step, > 0.
        norm: the p-norm of the step before it is clipped to the box; any p >= 1, inf included.
        step: when given, the smallest k with clip(x + k * step * d) at the goal is searched, k * step <= eps; an image without one is
            returned after the longest such step.
        loss: as in `ProjectedGradientDescent`.

    Cost: one backward pass per image, and two forward passes; with `step`, one more for each k tried.
    Raises: InvalidInput on construction.
    """

    eps: float
    norm: float = math.inf
    step: float | None = None
    loss: Loss = cross_entropy

    name = "fast_gradient"

    def __post_init__(self) -> None:
        _check_common(self.name, self.eps, self.step)
        if not self.norm >= 1:
            raise InvalidInput(f"{self.name}: expected a norm >= 1, got {self.norm!r}; use 1, 2 or inf")
        if self.step is not None and self.step > self.eps:
            raise InvalidInput(f"{self.name}: expected step <= eps, got a step of {self.step!r} for eps {self.eps!r}")

    def __call__(self, classifier: Classifier, images: Images, goal: Goal, *, seed: int = 0) -> Adversarial:
        """See `Attack`; deterministic, `seed` is not used."""
        if self.step is None:
            climb = _Climb(self.loss, self.norm, math.inf, self.eps, 1)
            return _search(self.name, classifier, images, goal, climb, 0, seed)
        return self._minimal(differentiable(classifier, self.name), images, goal, self.step)

    def _minimal(self, classifier: DifferentiableClassifier, images: Images, goal: Goal, stride: float) -> Adversarial:
        check(classifier, images, goal)
        counted, found, success = Counted(classifier, len(images)), images.copy(), np.zeros(len(images), bool)
        for block in _blocks(images):
            rows, given = block, images[block]
            out = counted.loss_gradient(given, rows, goal.labels[rows], self.loss)
            success[rows] = reached = counted.confirmed(out.logits, given, rows, goal)
            rows, given, gradients = rows[~reached], given[~reached], out.gradient[~reached]
            # 0.3 / 0.1 is a little less than 3 in binary.
            for k in range(1, math.floor(self.eps / stride * (1 + 1e-9)) + 1):
                if not rows.size:
                    break
                moved = given.copy()
                step(moved, given, gradients, length=_uphill(goal, k * stride), eps=math.inf, norm=self.norm)
                success[rows] = reached = counted.reached(moved, rows, goal)
                found[rows] = moved
                rows, given, gradients = rows[~reached], given[~reached], gradients[~reached]
        return Adversarial(found, success, counted.queries, counted.gradients)


def zero_gradient_share(classifier: Classifier, images: Images, labels: Labels, loss: Loss = cross_entropy) -> float:
    """The share of images whose loss gradient is zero or not finite in every component: in [0, 1]; 0 for no images.

    A gradient attack cannot move such an image. A share above a few per cent is a sign of masked gradients (Athalye et al. 2018,
    arXiv:1802.00420): the attack then does not measure robustness.
    Cost: a forward and a backward pass per image. Raises: InvalidInput, as every attack.
    """
    able = differentiable(classifier, "zero_gradient_share")
    check(classifier, images, Goal(labels))
    dead = 0
    for rows in _blocks(images):
        gradient = able.loss_gradient(images[rows], labels[rows], loss).gradient.reshape(len(rows), -1)
        dead += int(np.count_nonzero(~(np.isfinite(gradient) & (gradient != 0)).any(axis=1)))
    return dead / len(images) if len(images) else 0.0


class _Climb(NamedTuple):
    """The loss, ball, step length and steps of a run."""

    loss: Loss
    norm: float
    eps: float
    stride: float
    iterations: int


def _climb(eps: float, norm: float, stride: float | None, iterations: int, loss: Loss) -> _Climb:
    return _Climb(loss, norm, eps, stride if stride is not None else 2.5 * eps / iterations, iterations)


class _Best:
    """For every image the best point so far: one confirmed at the goal, or else that of the best loss."""

    def __init__(self, images: Images) -> None:
        self.images, self.success = images.copy(), np.zeros(len(images), bool)
        self._gain = np.full(len(images), -np.inf)

    def offer(self, points: Images, rows: ImageIndices, gain: NDArray[np.floating], reached: NDArray[np.bool_]) -> None:
        """Candidates [m] for these images, their gain in loss, and whether they reached the goal."""
        gain = np.where(reached, np.inf, gain)
        better = np.flatnonzero(gain > self._gain[rows])
        self.images[rows[better]] = points[better]
        self._gain[rows[better]] = gain[better]
        self.success[rows] |= reached


def _search(
    name: str, classifier: Classifier, images: Images, goal: Goal, climb: _Climb, restarts: int, seed: int
) -> Adversarial:
    able = differentiable(classifier, name)
    check(classifier, images, goal)
    rng = np.random.default_rng(seed)
    counted, best = Counted(able, len(images)), _Best(images)
    for rows in _blocks(images):
        _run(counted, best, images[rows], images[rows], rows, goal, climb)
        for _ in range(restarts):
            rows = rows[~best.success[rows]]
            if rows.size:
                _run(counted, best, _random_points(images[rows], climb, rng), images[rows], rows, goal, climb)
    return Adversarial(best.images, best.success, counted.queries, counted.gradients)


def _run(counted: Counted, best: _Best, x: Images, centres: Images, rows: ImageIndices, goal: Goal, climb: _Climb) -> None:
    """One run from x [m, h, w, c], overwritten, around `centres`; images at the goal drop out."""
    sign = _uphill(goal, 1.0)
    for iteration in range(climb.iterations):
        out = counted.loss_gradient(x, rows, goal.labels[rows], climb.loss)
        reached = counted.confirmed(out.logits, x, rows, goal)
        gradient = out.gradient
        # The fast gradient method takes its single step even where the loss falls.
        gain = sign * out.loss if iteration or climb.iterations > 1 else np.full(len(rows), -np.inf)
        best.offer(x, rows, gain, reached)
        if reached.any():
            x, centres, gradient, rows = x[~reached], centres[~reached], gradient[~reached], rows[~reached]
        if not rows.size:
            return
        step(x, centres, gradient, length=sign * climb.stride, eps=climb.eps, norm=climb.norm)
    reached = counted.reached(x, rows, goal)
    gain = np.full(len(rows), np.finfo(np.float64).min)
    if climb.iterations > 1:
        left = np.flatnonzero(~reached)
        gain[left] = sign * climb.loss(counted.logits(x[left], rows[left]), goal.labels[rows[left]])[0]
    best.offer(x, rows, gain, reached)


def _uphill(goal: Goal, length: float) -> float:
    """The signed step length: negative for targeted attacks, which descend."""
    return -length if goal.targeted else length


def _random_points(centres: Images, climb: _Climb, rng: np.random.Generator) -> Images:
    """Uniform in the ball around each image, then clipped to the box."""
    n, d = len(centres), int(np.prod(centres.shape[1:]))
    if climb.norm == math.inf:
        points = rng.random((n, d), np.float32) * np.float32(2 * climb.eps) - np.float32(climb.eps)
    elif climb.norm == 2:
        points = rng.standard_normal((n, d), np.float32)
        points *= (climb.eps * rng.random((n, 1)) ** (1 / d) / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
        points = onto_l2_ball(points, climb.eps)
    else:
        # d exponential numbers over the sum of d + 1 are uniform in the simplex (Devroye 1986, XI.2).
        points = rng.standard_exponential((n, d), np.float32)
        points *= np.float32(climb.eps) / (points.sum(axis=1, keepdims=True) + rng.standard_exponential((n, 1), np.float32))
        points = onto_l1_ball(points * rng.choice(np.array([-1, 1], np.float32), (n, d)), climb.eps)
    started: Images = np.clip(centres + points.reshape(centres.shape), 0, 1)
    return started


def _blocks(images: Images) -> Iterator[ImageIndices]:
    """Image indices, in blocks that bound the memory of the loop."""
    size = max(1, _NUMBERS_AT_ONCE // max(1, int(np.prod(images.shape[1:]))))
    for start in range(0, len(images), size):
        yield np.arange(start, min(start + size, len(images)))


def _check_common(name: str, eps: float, stride: float | None) -> None:
    check_eps(eps, name)
    if stride is not None and not (np.isfinite(stride) and stride > 0):
        raise InvalidInput(f"{name}: expected step > 0, got {stride!r}")


def _check_search(name: str, eps: float, norm: float, stride: float | None, iterations: int) -> None:
    _check_common(name, eps, stride)
    if norm not in PROJECTED_NORMS:
        raise InvalidInput(f"{name}: expected norm 1, 2 or inf, whose balls can be projected onto, got {norm!r}; use one of them")
    if iterations < 1:
        raise InvalidInput(f"{name}: expected iterations >= 1, got {iterations!r}")
