"""Square attack: random search with square-shaped changes on the boundary of the ball; it uses probabilities, no gradients.

Paper: Andriushchenko, Croce, Flammarion & Hein, ECCV 2020, arXiv:1912.00049, algorithms 1 to 3.
Maths: maximise over ||x' - x|| <= eps, x' in [0, 1]^d, the margin  m(x') = log max_{i != y} p_i(x') - log p_y(x'),  that of the logits,
accurate even where p_y is rounded to 1; with its sign reversed when targeted. Each step changes one square of each image, of side
sqrt(p h w); p is halved nine times, on the published schedule scaled to the budget. L-inf: starts from vertical stripes of +-eps, then
squares of +-eps per channel. L2: starts from a grid of pyramids; then the energy of two squares, and the energy that clipping has freed,
goes into a pyramid in the first.
Refusals: a refused proposal has the margin -inf and never replaces an answered one; while no proposal for an image has been answered,
every proposal is accepted. Plateaus (label-only answers, flat probabilities): a proposal of equal margin is accepted.
Cost: at most `queries` queries per image, one call per step for all images without success; no backward pass.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from attacks.attack import Adversarial, Goal, check, check_eps, predicted_labels
from attacks.evasion.losses import margin
from attacks.oracle import Oracle
from models.classifier import Classifier, Images, Probabilities
from models.errors import InvalidInput

_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_SCHEDULE = 10_000
_TILES = 5  # pyramids along a side of the image at the start of L2
_TINY = np.finfo(np.float32).tiny
_CANCELLED = 1e-9

Window = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""Indices of one rectangle in each of m images: image [m, 1, 1], row [m, a, 1] and column [m, 1, b]."""

Change = list[tuple[Window, Images]]
"""The overwritten pixels, in the order in which to restore them."""


@dataclass(frozen=True, kw_only=True)
class Square:
    """Random search within a ball, by probabilities only (maths and refusals: see the module).

    Args:
        eps: radius of the ball, above 0.
        norm: math.inf or 2.
        queries: budget per image, >= 3; the first query is the image itself, the second the start of the search.
        fraction: p, area of the first squares as a share of the image, in (0, 1].

    Raises: InvalidInput on construction, and as every attack.
    """

    eps: float
    norm: float = math.inf
    queries: int = 1000
    fraction: float = 0.8
    name: str = "square"

    def __post_init__(self) -> None:
        check_eps(self.eps, self.name)
        if self.norm not in (math.inf, 2):
            raise InvalidInput(f"{self.name}: expected norm inf or 2, got {self.norm!r}")
        if self.queries < 3:
            raise InvalidInput(f"{self.name}: expected at least 3 queries per image, got {self.queries}")
        if not 0 < self.fraction <= 1:
            raise InvalidInput(f"{self.name}: expected fraction in (0, 1], got {self.fraction!r}")

    def __call__(self, classifier: Classifier, images: Images, goal: Goal, *, seed: int = 0) -> Adversarial:
        """See `Attack`."""
        check(classifier, images, goal)
        rng = np.random.default_rng(seed)
        ball: _Ball = _LinfBall(self.eps) if self.norm == math.inf else _L2Ball(self.eps)
        search = _Search(Oracle(classifier, len(images)), images, goal)
        search.begin(ball, rng)
        h, w = images.shape[1:3]
        steps = self.queries - 2
        for step in range(steps):
            if search.over:
                break
            search.step(ball, side(self.fraction, step, steps, h, w), rng)
        return search.result()


def side(fraction: float, step: int, steps: int, h: int, w: int) -> int:
    """The side of the squares in pixels at a step (from 0): the published schedule for 10,000 steps, scaled to `steps`."""
    at = int(step / steps * _SCHEDULE)
    halved = bisect_left(_HALVED_AFTER, at)
    return max(1, round(math.sqrt(fraction / 2**halved * h * w)))


class _Search:
    """The state of the images without success, in contiguous arrays, and the results of all."""

    def __init__(self, oracle: Oracle, images: Images, goal: Goal) -> None:
        self._oracle, self._goal = oracle, goal
        self._images = images.copy()
        self._success = np.zeros(len(images), bool)
        self._rows = np.arange(len(images))
        self._given = self._current = images
        self._loss = np.empty(0, np.float32)

    @property
    def over(self) -> bool:
        return not len(self._rows) or self._oracle.closed

    def begin(self, ball: _Ball, rng: np.random.Generator) -> None:
        """Query the images themselves, then the starting points of those that do not reach the goal."""
        clean, done = self._ask(self._given)
        self._loss, self._current = clean, self._given.copy()
        self._leave(done)
        if self.over:
            return
        start = ball.start(self._given, rng)
        loss, done = self._ask(start)
        # As in the paper, the start is taken whatever its loss, unless it was refused and the image itself was not.
        kept = np.isneginf(loss) & ~np.isneginf(self._loss)
        self._current = np.where(kept[:, None, None, None], self._current, start)
        self._loss = np.where(kept, self._loss, loss)
        self._leave(done)

    def step(self, ball: _Ball, width: int, rng: np.random.Generator) -> None:
        """Change a square of every image, query, and restore it where the margin fell."""
        change = ball.change(self._given, self._current, width, rng)
        loss, done = self._ask(self._current)
        worse = np.flatnonzero(loss < self._loss)
        for (images, rows, columns), before in change:
            self._current[images[worse], rows[worse], columns[worse]] = before[worse]
        self._loss = np.maximum(loss, self._loss)
        self._leave(done)

    def result(self) -> Adversarial:
        self._images[self._rows] = self._current
        queries = self._oracle.queries
        return Adversarial(self._images, self._success, queries, np.zeros_like(queries))

    def _ask(self, images: Images) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """The attacker's margin float32 [m], and whether the goal was reached, bool [m]."""
        goal = self._goal.take(self._rows)
        probabilities = self._oracle.probabilities(images, self._rows)
        labels = predicted_labels(probabilities)
        return attackers_margin(probabilities, goal), goal.reached(labels)

    def _leave(self, done: NDArray[np.bool_]) -> None:
        if not done.any():
            return
        self._images[self._rows[done]] = self._current[done]
        self._success[self._rows[done]] = True
        stay = ~done
        self._rows, self._given, self._current = self._rows[stay], self._given[stay], self._current[stay]
        self._loss = self._loss[stay]


def attackers_margin(probabilities: Probabilities, goal: Goal) -> NDArray[np.float32]:
    """The margin [n] in log-probabilities: above 0 where the goal is reached, -inf where the image was refused."""
    ahead, _ = margin(np.log(np.maximum(probabilities, _TINY)), goal.labels)
    if goal.targeted:
        ahead = -ahead
    known: NDArray[np.float32] = np.where(probabilities.any(axis=1), ahead, np.float32(-np.inf))
    return known


class _Ball(Protocol):
    """The norm-dependent parts of the search: its start and its changes."""

    def start(self, given: Images, rng: np.random.Generator) -> Images:
        """A first point [m, h, w, c] for each image, in the ball and in [0, 1]."""
        ...

    def change(self, given: Images, current: Images, width: int, rng: np.random.Generator) -> Change:
        """Change one square of each of `current`, in place, in the ball and in [0, 1]."""
        ...


class _LinfBall:
    def __init__(self, eps: float) -> None:
        self._eps = np.float32(eps)

    def start(self, given: Images, rng: np.random.Generator) -> Images:
        n, _, w, c = given.shape
        start: Images = np.clip(given + self._signs((n, 1, w, c), rng), 0, 1)
        return start

    def change(self, given: Images, current: Images, width: int, rng: np.random.Generator) -> Change:
        n, h, w, c = current.shape
        window = _windows(n, (h, w), (min(width, h), min(width, w)), rng)
        before, centre = current[window], given[window]
        signs = self._signs((n, 1, 1, c), rng)
        after = np.clip(centre + signs, 0, 1)
        # Querying an unchanged image would be wasted: use the opposite signs.
        same = (after == before).all(axis=(1, 2, 3))
        after[same] = np.clip(centre[same] - signs[same], 0, 1)
        current[window] = after
        return [(window, before)]

    def _signs(self, shape: Sequence[int], rng: np.random.Generator) -> Images:
        signs: Images = np.where(rng.random(shape, np.float32) < 0.5, -self._eps, self._eps)
        return signs


class _L2Ball:
    def __init__(self, eps: float) -> None:
        self._eps = eps

    def start(self, given: Images, rng: np.random.Generator) -> Images:
        n, h, w, c = given.shape
        size = max(1, min(h, w) // _TILES)
        down, across = h // size, w // size
        pyramid = pyramids(size)
        shapes = np.stack([pyramid, pyramid.T])[rng.integers(0, 2, (n, down, across))]
        tiles = shapes[..., None] * rng.choice(_SIGNS, (n, down, across, 1, 1, c))
        noise = np.zeros(given.shape, np.float32)
        noise[:, : down * size, : across * size] = tiles.transpose(0, 1, 3, 2, 4, 5).reshape(n, down * size, across * size, c)
        length = np.sqrt(_energy(noise).sum(axis=1))
        start: Images = np.clip(given + noise * (self._eps / length).astype(np.float32)[:, None, None, None], 0, 1)
        return start

    def change(self, given: Images, current: Images, width: int, rng: np.random.Generator) -> Change:
        n, h, w, c = current.shape
        size = min(width, h, w)
        first, second = (_windows(n, (h, w), (size, size), rng) for _ in range(2))
        overwritten = [(second, current[second]), (first, current[first])]
        # Rounding can make this negative; subtracting it here keeps the excess from accumulating.
        unused = self._eps**2 - _energy(current - given).sum(axis=1)
        noise = current[first] - given[first]
        in_first = _energy(noise)
        current[first] = given[first]
        in_both = in_first + _energy(current[second] - given[second])  # the overlap is counted in the first
        current[second] = given[second]
        available = np.sqrt(np.maximum(in_both + unused[:, None] / c, 0))
        direction = self._direction(noise, in_first, size, rng)
        scale = (available / np.sqrt(np.maximum(_energy(direction), _TINY))).astype(np.float32)
        current[first] = np.clip(given[first] + direction * scale[:, None, None, :], 0, 1)
        return overwritten

    def _direction(self, noise: Images, energy: NDArray[np.float64], size: int, rng: np.random.Generator) -> Images:
        """Pyramids of random sign per channel and random orientation plus the present noise, normalised: [m, size, size, c]."""
        n, _, _, c = noise.shape
        pyramid = pyramids(size)
        shapes = np.stack([pyramid, pyramid.T])[rng.integers(0, 2, n)]
        there = noise / np.sqrt(np.maximum(energy, _TINY)).astype(np.float32)[:, None, None, :]
        new = shapes[..., None] * rng.choice(_SIGNS, (n, 1, 1, c))
        direction = there + new
        # A window of one pixel may cancel out, which would lose its energy.
        gone = _energy(direction) < _CANCELLED
        kept: Images = np.where(gone[:, None, None, :], new, direction)
        return kept


_SIGNS = np.array([-1, 1], np.float32)


def pyramids(size: int) -> NDArray[np.float32]:
    """The paper's eta: a positive and a negative pyramid side by side in a square [size, size], of unit L2 norm together."""
    up = size // 2
    both = np.concatenate([_pyramid(size, up), -_pyramid(size, size - up)], axis=1)
    unit: NDArray[np.float32] = (both / np.linalg.norm(both)).astype(np.float32)
    return unit


def _pyramid(h: int, w: int) -> NDArray[np.float64]:
    """One pyramid in h x w, h >= w: terrace k of n + 1 adds 1 / (n + 1 - k)^2 within n - k pixels of the middle."""
    n = h // 2
    heights = np.cumsum(1.0 / np.arange(n + 1, 0, -1) ** 2)
    from_middle = np.maximum(np.abs(np.arange(h) - h // 2)[:, None], np.abs(np.arange(w) - w // 2)[None])
    pyramid: NDArray[np.float64] = heights[n - from_middle]
    return pyramid


def _energy(noise: Images) -> NDArray[np.float64]:
    """Squared length per image and channel [m, c]."""
    energy: NDArray[np.float64] = np.einsum("nhwc,nhwc->nc", noise, noise, dtype=np.float64)
    return energy


def _windows(n: int, image: tuple[int, int], size: tuple[int, int], rng: np.random.Generator) -> Window:
    """A rectangle of this size at a random place in each of n images."""
    (h, w), (a, b) = image, size
    top, left = rng.integers(0, h - a + 1, n), rng.integers(0, w - b + 1, n)
    rows = top[:, None, None] + np.arange(a)[None, :, None]
    columns = left[:, None, None] + np.arange(b)[None, None, :]
    return np.arange(n)[:, None, None], rows, columns
