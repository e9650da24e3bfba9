"""HopSkipJump: a decision-based attack, which moves along the decision boundary towards the image using predicted labels only.

Paper: Chen, Jordan & Wainwright, IEEE S&P 2020, arXiv:1904.02144, algorithm 2.
Maths: phi(x') = +1 where x' reaches the goal, else -1. Iteration t starts at a point x' on the boundary that reaches it:
    estimate   v = sum_b (phi(x' + delta u_b) - mean phi) u_b,   B = first_estimate sqrt(t) unit directions u_b
    jump       x' + step v / ||v||  (L-inf: step sign v),  step = distance / sqrt(t), halved until the goal is reached
    bisect     back to the boundary, on the segment to the image (L-inf: in the shrinking box around it)
The next iteration starts at the nearest point so far. Bisection ends at 0.005 / sqrt(d) of the segment and delta is 0.01 of the
distance (L-inf: of sqrt(d) distances), for both norms: the paper's d^(-3/2) is below float32's precision for large images.
Refusals: a refused point gives no decision. It is left out of the estimate, is never kept by a bisection (which continues on the
answered side), and a jump to it is halved. When all queries of an estimate are refused, the image stays where it is for an iteration.
Cost: at most `queries` queries per image; all images are processed together, in shared calls.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from attacks.attack import REFUSED, Adversarial, Goal, ImageIndices, check, check_eps
from attacks.oracle import Oracle
from models.classifier import Classifier, Images, Labels
from models.datasets import Dataset
from models.errors import InvalidInput

# Probes must be able to cross the boundary from the end point of a bisection: they are 0.01 distances long, of which 1 / sqrt(d) is
# across the boundary, and the end point is within 0.005 / sqrt(d) distances of it.
_PROBE, _BISECTED_TO = 0.01, 0.005
_HALVINGS_AT_MOST = 12
_FEWEST_DIRECTIONS = 10
# Numbers per call fit a processor's cache; large images are sent at least 32 per call.
_NUMBERS_PER_CALL, _ROWS_PER_CALL = 1 << 17, 32
_SIGNS = (np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1) * 2.0 - 1).astype(np.float32)
_STARTS_TRIED = 5
_ROUNDING = 1e-6

Counts = NDArray[np.int64]
Distances = NDArray[np.float64]


@dataclass(frozen=True)
class Nearest(Adversarial):
    """The result of a search for the nearest adversarial image.

    Attributes:
        distance: float64 [n] in the attack's norm, from the image to the nearest one that reached the goal; inf where none did.
    """

    distance: Distances


@dataclass(frozen=True, kw_only=True)
class HopSkipJump:
    """The nearest image that reaches the goal, found with labels only (maths and refusals: see the module).

    Args:
        norm: 2 or math.inf.
        queries: budget per image, >= 3.
        eps: radius within which an image counts as success; the search stops there, and images are returned within it. None: no bound.
        starts: labelled images to start from, the nearest of a fitting label first.
        first_estimate: directions of the first estimate, >= 10.
        noise_tries: largest number of uniform noise images to start from, where no start fits.

    Raises: InvalidInput on construction, and as every attack.
    """

    norm: float = 2
    queries: int = 5000
    eps: float | None = None
    starts: Dataset | None = field(default=None, repr=False, compare=False)
    first_estimate: int = 100
    noise_tries: int = 100
    name: str = "hop_skip_jump"

    def __post_init__(self) -> None:
        if self.eps is not None:
            check_eps(self.eps, self.name)
        if self.norm not in (math.inf, 2):
            raise InvalidInput(f"{self.name}: expected norm 2 or inf, got {self.norm!r}")
        if self.queries < 3:
            raise InvalidInput(f"{self.name}: expected at least 3 queries per image, got {self.queries}")
        if self.first_estimate < _FEWEST_DIRECTIONS:
            raise InvalidInput(f"{self.name}: expected first_estimate >= {_FEWEST_DIRECTIONS}, got {self.first_estimate}")

    def __call__(self, classifier: Classifier, images: Images, goal: Goal, *, seed: int = 0) -> Nearest:
        """See `Attack`."""
        check(classifier, images, goal)
        if self.starts is not None and self.starts.images.shape[1:] != classifier.input_shape:
            raise InvalidInput(
                f"{self.name}: expected starts of shape {classifier.input_shape}, got {self.starts.images.shape[1:]}"
            )
        search = _Search(self, Oracle(classifier, len(images)), images, goal, np.random.default_rng(seed))
        search.begin()
        iteration = 1
        while (rows := search.unfinished()).size:
            search.iterate(rows, iteration)
            iteration += 1
        return search.result()


class _Search:
    """For every image the nearest point so far that reaches the goal, on or just beyond the boundary."""

    def __init__(self, attack: HopSkipJump, oracle: Oracle, images: Images, goal: Goal, rng: np.random.Generator) -> None:
        self._attack, self._oracle, self._given, self._goal, self._rng = attack, oracle, images, goal, rng
        self._nearest = images.copy()
        self._distance = np.full(len(images), np.inf)
        self._numbers = int(np.prod(images.shape[1:]))
        self._tolerance = _BISECTED_TO / math.sqrt(self._numbers)
        self._bisections = math.ceil(math.log2(1 / self._tolerance))  # more where the boundary is far nearer than the start

    def begin(self) -> None:
        """Find a first point that reaches the goal for each image: the image itself, one of the starts, or noise; then bisect."""
        everyone = np.arange(len(self._given))
        self._take(everyone, self._given, self._ask(self._given, everyone))
        self._begin_from_starts()
        for _ in range(self._attack.noise_tries):
            rows = np.flatnonzero(np.isinf(self._distance) & (self._left() > 0))
            if self._oracle.closed or not rows.size:
                break
            noise = self._rng.random((len(rows), *self._given.shape[1:]), np.float32)
            self._take(rows, noise, self._ask(noise, rows))
        found = np.flatnonzero(np.isfinite(self._distance) & (self._distance > 0))
        self._bisect(found, self._nearest[found])

    def unfinished(self) -> ImageIndices:
        """Images not done yet, with enough queries left for an iteration."""
        if self._oracle.closed:
            return np.empty(0, np.int64)
        improvable = np.isfinite(self._distance) & (self._distance > 0) & ~self._within()
        return np.flatnonzero(improvable & (self._directions_left() >= _FEWEST_DIRECTIONS))

    def iterate(self, rows: ImageIndices, iteration: int) -> None:
        """One iteration: estimate, jump, bisect."""
        wanted = int(self._attack.first_estimate * math.sqrt(iteration))
        direction = self._estimate(rows, np.minimum(wanted, self._directions_left()[rows]))
        moving = direction.any(axis=(1, 2, 3))
        rows, jumped = self._jump(rows[moving], direction[moving], iteration)
        self._bisect(rows, jumped)

    def result(self) -> Nearest:
        """The result; with eps, images beyond it are moved within and queried once more."""
        within = self._within() if self._attack.eps is not None else np.isfinite(self._distance)
        if self._attack.eps is not None:
            rows = np.flatnonzero(np.isfinite(self._distance) & ~within)
            brought = _towards(
                self._given[rows], self._nearest[rows], np.float64(self._attack.eps) / self._distance[rows], self._attack.norm
            )
            reached = self._ask(brought, rows)
            self._nearest[rows] = brought
            within[rows] = reached
            self._distance[rows[reached]] = _distances(self._given[rows], brought, self._attack.norm)[reached]
        queries = self._oracle.queries
        return Nearest(self._nearest, within, queries, np.zeros_like(queries), self._distance)

    def _begin_from_starts(self) -> None:
        starts = self._attack.starts
        if starts is None:
            return
        order = [self._starts_by_distance(row, starts) for row in range(len(self._given))]
        for attempt in range(_STARTS_TRIED):
            waiting = np.flatnonzero(np.isinf(self._distance) & (self._left() > 0))
            rows = np.array([row for row in waiting if len(order[row]) > attempt], np.int64)
            images = starts.images[[order[row][attempt] for row in rows]]
            self._take(rows, images, self._ask(images, rows))

    def _starts_by_distance(self, row: int, starts: Dataset) -> NDArray[np.int64]:
        """The nearest starts whose label meets an image's goal."""
        label = self._goal.labels[row]
        fitting = np.flatnonzero(starts.labels == label if self._goal.targeted else starts.labels != label)
        distance = _distances(self._given[row : row + 1], starts.images[fitting], self._attack.norm)
        return fitting[np.argsort(distance, kind="stable")[:_STARTS_TRIED]]

    def _estimate(self, rows: ImageIndices, directions: Counts) -> Images:
        """The estimated unit direction [m, h, w, c] from the boundary into the goal's region; zeros where all probes were refused."""
        size = _PROBE * self._distance[rows] * (math.sqrt(self._numbers) if self._attack.norm == math.inf else 1)
        total, decided, weighted, plain = (np.zeros((len(rows), *rest)) for rest in ((), (), (self._numbers,), (self._numbers,)))
        for owners in self._batches(np.repeat(np.arange(len(rows)), directions)):
            here = self._nearest[rows[owners]].reshape(len(owners), -1)
            probes = self._directions(len(owners))
            probes *= (size[owners] / math.sqrt(self._numbers)).astype(np.float32)[:, None]
            probes += here
            np.clip(probes, 0, 1, out=probes)
            signs = self._signs(probes.reshape(-1, *self._given.shape[1:]), rows[owners])
            probes -= here
            for owner, part in _runs(owners):
                sign = signs[part]
                both = np.stack([sign, np.abs(sign)]) @ probes[part]
                weighted[owner] += both[0]
                plain[owner] += both[1]
                total[owner] += sign.sum()
                decided[owner] += np.abs(sign).sum()
        mean = total / np.maximum(decided, 1)
        # Where all decisions agree the mean cancels the estimate: take the mean direction, with their sign.
        unanimous = np.abs(mean) == 1
        direction = np.where(unanimous[:, None], mean[:, None] * plain, weighted - mean[:, None] * plain)
        if self._attack.norm == math.inf:
            direction = np.sign(direction)
        else:
            direction /= np.maximum(np.linalg.norm(direction, axis=1), np.finfo(np.float64).tiny)[:, None]
        return direction.astype(np.float32).reshape(-1, *self._given.shape[1:])

    def _directions(self, n: int) -> NDArray[np.float32]:
        """Random signs [n, d], as isotropic as normal numbers, drawn eight per random byte."""
        bytes_each = -(-self._numbers // 8)
        signs: NDArray[np.float32] = _SIGNS[self._rng.integers(0, 256, (n, bytes_each), np.uint8)].reshape(n, -1)
        return signs[:, : self._numbers]

    def _batches(self, owners: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        at_most = max(_ROWS_PER_CALL, _NUMBERS_PER_CALL // self._numbers)
        for start in range(0, len(owners), at_most):
            yield owners[start : start + at_most]

    def _jump(self, rows: ImageIndices, direction: Images, iteration: int) -> tuple[ImageIndices, Images]:
        """Jump along the directions, halving the step until the goal is reached; returns the images that succeeded and their points."""
        size = self._distance[rows] / math.sqrt(iteration)
        landed = self._nearest[rows].copy()
        moved = np.zeros(len(rows), bool)
        for _ in range(_HALVINGS_AT_MOST):
            trying = np.flatnonzero(~moved & (self._left()[rows] > self._bisections))
            if not trying.size or self._oracle.closed:
                break
            step = size[trying].astype(np.float32)[:, None, None, None] * direction[trying]
            there = np.clip(self._nearest[rows[trying]] + step, 0, 1)
            reached = self._ask(there, rows[trying])
            landed[trying[reached]] = there[reached]
            moved[trying[reached]] = True
            size[trying] /= 2
        return rows[moved], landed[moved]

    def _bisect(self, rows: ImageIndices, far: Images) -> None:
        """Bisect from points that reach the goal towards the images; keep points nearer than the nearest so far."""
        low, high = np.zeros(len(rows)), np.ones(len(rows))
        for _ in range(2 * self._bisections):
            going = np.flatnonzero((self._left()[rows] > 0) & (high - low > self._tolerance * high))
            if not going.size or self._oracle.closed:
                break
            middle = (low[going] + high[going]) / 2
            points = _towards(self._given[rows[going]], far[going], middle, self._attack.norm)
            reached = self._ask(points, rows[going])
            high[going[reached]] = middle[reached]
            low[going[~reached]] = middle[~reached]
            self._take(rows[going], points, reached)

    def _take(self, rows: ImageIndices, images: Images, reached: NDArray[np.bool_]) -> None:
        """Keep candidates that reached the goal and are nearer than the nearest so far."""
        distance = _distances(self._given[rows], images, self._attack.norm)
        better = reached & (distance < self._distance[rows])
        self._nearest[rows[better]] = images[better]
        self._distance[rows[better]] = distance[better]

    def _ask(self, images: Images, rows: ImageIndices) -> NDArray[np.bool_]:
        return self._goal.take(rows).reached(self._oracle.labels(images, rows))

    def _signs(self, images: Images, rows: ImageIndices) -> NDArray[np.float32]:
        """phi: +1 where the goal is reached, -1 where it is not, 0 where the classifier refused."""
        labels: Labels = self._oracle.labels(images, rows)
        signs = np.where(self._goal.take(rows).reached(labels), 1, -1)
        return np.where(labels == REFUSED, 0, signs).astype(np.float32)

    def _within(self) -> NDArray[np.bool_]:
        """Whether each image's nearest point is within eps: bool [n]."""
        if self._attack.eps is None:
            return np.zeros(len(self._given), bool)
        within: NDArray[np.bool_] = self._distance <= self._attack.eps * (1 + _ROUNDING)
        return within

    def _left(self) -> Counts:
        """Queries left per image; with eps, one is reserved for `result`."""
        return self._attack.queries - (self._attack.eps is not None) - self._oracle.queries

    def _directions_left(self) -> Counts:
        """Queries left for an estimate, after those of a jump and a bisection."""
        return self._left() - self._bisections - 2


def _distances(given: Images, images: Images, norm: float) -> Distances:
    """Distances float64 [n] of `images` from `given`, one image or n."""
    change = (images - given).reshape(len(images), math.prod(images.shape[1:]))
    if norm == math.inf:
        largest: Distances = np.abs(change).max(axis=1, initial=0).astype(np.float64)
        return largest
    distances: Distances = np.sqrt(np.einsum("nd,nd->n", change, change, dtype=np.float64))
    return distances


def _towards(given: Images, far: Images, share: Distances, norm: float) -> Images:
    """Points between `given` (share 0) and `far` (share 1): on the segment, or, in L-inf, clipped to the smaller box."""
    change = far - given
    wide = share[:, None, None, None]
    if norm == math.inf:
        radius = (wide * np.abs(change).max(axis=(1, 2, 3), keepdims=True, initial=0)).astype(np.float32)
        change = np.clip(change, -radius, radius)
    else:
        change = change * wide.astype(np.float32)
    return np.clip(given + change, 0, 1)


def _runs(owners: NDArray[np.int64]) -> Iterator[tuple[int, slice]]:
    """Runs of equal neighbours, as (value, slice)."""
    bounds = [0, *(np.flatnonzero(np.diff(owners)) + 1), len(owners)]
    for start, stop in itertools.pairwise(bounds):
        yield int(owners[start]), slice(int(start), int(stop))
