"""Split the activations of one class into two clusters, with measures of their distance.

Papers: Chen et al. 2018, arXiv:1811.03728 (2-means on ten dimensions); Tang et al. 2021, arXiv:1908.00686 (variation that all classes
share carries no information about poison).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA, FastICA
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import silhouette_score
from threadpoolctl import ThreadpoolController

from defences.poison.within_class import whiten

Reduction = Literal["pca", "ica"]

SAMPLES_AT_LEAST = 20
"""Smaller classes are not split."""

_CLUSTER_AT_LEAST = 8
_SHARE_AT_LEAST = 0.003
_FITTED_ON = 3000  # enough rows to fit a line in ten dimensions
_PCA_ON = 20_000
_SILHOUETTE_OF = 1000
_ROUNDS = 10
_BINS = 256
_TAILS = (0.03, 0.15)
_SAMPLES_OF_DOUBT = 3  # added to the valley: a gap in a tail of ten samples may be chance

_Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class ClassSplit:
    """Two clusters of one class.

    Attributes:
        second: bool [n], true for the samples of the second cluster.
        position: float [n], along the line that separates the clusters best; the second has the larger values.
        distance: between the clusters' means on that line, in their root mean square deviations (Ashman's D); 2 to 3 for a single bell.
        plane: float32 [n, 2], the separating line and the widest direction across it, for a picture.
        valley: the lowest density between the clusters over the lower of their peaks: 1 is no valley, 0 a gap; None if not computed.
        silhouette: mean silhouette width in the reduced space (Rousseeuw 1987); None if not computed.
        own: float [2], of each cluster the share that keeps its class where the other one stands for it; None if not computed.
        sources: int64 [2], the most frequent other class of each cluster there; None if not computed.
        foreign: how clearly the second is a sample of the other classes (`defences.poison.populations`); None if not computed.
    """

    second: NDArray[np.bool_]
    position: _Matrix
    distance: float
    plane: NDArray[np.float32]
    valley: float | None = None
    silhouette: float | None = None
    own: _Matrix | None = None
    sources: NDArray[np.int64] | None = None
    foreign: float | None = None

    @property
    def parts(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Masks bool [n] of the first and of the second cluster."""
        return ~self.second, self.second


def split_class(
    activations: NDArray[np.floating],
    shared: _Matrix | None,
    *,
    dimensions: int = 10,
    reduction: Reduction = "pca",
    seed: int = 0,
) -> ClassSplit | None:
    """The two clusters of one class, activations [n, d], that lie farthest apart; None for fewer than SAMPLES_AT_LEAST samples.

    Two views are searched: the activations, and the activations whitened by the covariance within the other classes. Each view is reduced
    and split by 2-means and, because 2-means misses small clusters, by the tails of each dimension; the border is then refined with
    Fisher's discriminant and two normal densities along it. The split with the largest distance * (1 - valley) is returned.

    Args:
        shared: [d, d], the covariance within the other classes; None if there are no others.
    """
    if len(activations) < SAMPLES_AT_LEAST:
        return None
    rng = np.random.default_rng(seed)
    centred = activations.astype(np.float64) - activations.mean(axis=0, dtype=np.float64)
    if not centred.any():
        return None
    best: tuple[float, SplitLine, _Matrix] | None = None
    for view in _views(centred, shared):
        reduced = _reduced(view, dimensions, reduction, seed)
        line = _best_line(reduced, rng, seed)
        if line is not None and (best is None or line.merit > best[0]):
            best = (line.merit, line, reduced)
    if best is None:
        return None
    _, line, reduced = best
    return described(line, reduced, rng)


@dataclass(frozen=True)
class SplitLine:
    """A split by the position of the samples on a line; see `ClassSplit`."""

    second: NDArray[np.bool_]
    position: _Matrix
    distance: float
    valley: float

    @property
    def merit(self) -> float:
        """The distance, less what is lost to the samples between the clusters."""
        return self.distance * (1 - self.valley)


def _views(centred: _Matrix, shared: _Matrix | None) -> Iterator[_Matrix]:
    yield centred
    if shared is not None:
        yield whiten(centred, shared)


def _reduced(view: _Matrix, dimensions: int, reduction: Reduction, seed: int) -> _Matrix:
    size = min(dimensions, *view.shape)
    fitted = view[:_PCA_ON]
    pca = PCA(size, svd_solver="covariance_eigh").fit(fitted)
    reduced: _Matrix = pca.transform(view)
    if reduction == "ica":
        spread = reduced.std(axis=0)
        kept = reduced[:, spread > 1e-9 * spread.max()]
        ica = FastICA(random_state=seed, whiten="unit-variance", max_iter=400, tol=1e-3)
        with warnings.catch_warnings():  # directions that have not converged are candidates as good as any
            warnings.simplefilter("ignore", ConvergenceWarning)
            reduced = ica.fit(kept[:_PCA_ON]).transform(kept)
    return reduced


def _best_line(reduced: _Matrix, rng: np.random.Generator, seed: int) -> SplitLine | None:
    """The best split over all starts; fitted on at most _FITTED_ON samples, then applied to all."""
    sphere = sphered(reduced)
    some = np.sort(rng.permutation(len(sphere))[:_FITTED_ON]) if len(sphere) > _FITTED_ON else np.arange(len(sphere))
    looked_at = sphere[some]
    best: tuple[SplitLine, _Matrix, float] | None = None
    for second, position in refined(looked_at, _starts(reduced[some], seed)):
        line = line_between(position, second)
        if line is not None and (best is None or line.merit > best[0].merit):
            direction = looked_at[second].mean(axis=0) - looked_at[~second].mean(axis=0)
            border = (position[second].min() + position[~second].max()) / 2
            best = (line, direction, float(border))
    if best is None:
        return None
    line, direction, border = best
    position = sphere @ direction
    return line if len(some) == len(sphere) else line_between(position, position > border)


def sphered(reduced: _Matrix) -> _Matrix:
    """[n, r] with unit covariance. There Fisher's discriminant of two halves, (within)^-1 (m2 - m1), is the line between their means:
    within and total covariance differ only by a multiple of (m2 - m1)(m2 - m1)^T, which keeps the direction (Sherman & Morrison)."""
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(reduced.T)))
    kept = values > 1e-9 * values[-1]
    sphere: _Matrix = (reduced - reduced.mean(axis=0)) @ (vectors[:, kept] / np.sqrt(values[kept]))
    return sphere


def _starts(reduced: _Matrix, seed: int) -> NDArray[np.bool_]:
    """Initial halves [s, n]: those of 2-means, then both tails of every dimension."""
    # Classes are split in parallel already; scikit-learn's own threads on top would spend their time spinning.
    with thread_pools().limit(limits=1, user_api="openmp"):
        starts = [KMeans(2, n_init=4, random_state=seed).fit(reduced).labels_.astype(bool)]
    for tail in _TAILS:
        low, high = np.quantile(reduced, [tail, 1 - tail], axis=0)
        starts += [*(reduced <= low).T, *(reduced >= high).T]
    return np.stack(starts)


@cache
def thread_pools() -> Any:
    """Cached: searching the libraries of the process takes milliseconds."""
    return ThreadpoolController()


def refined(sphere: _Matrix, starts: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.bool_], _Matrix]]:
    """Alternate Fisher's line between the halves and new halves from two normal densities on it, until they are stable.

    All starts are refined together; each distinct result is yielded once.
    """
    least = max(_CLUSTER_AT_LEAST, int(_SHARE_AT_LEAST * len(sphere)))
    halves, seen = starts, set()
    after: dict[bytes, tuple[NDArray[np.bool_], _Matrix]] = {}
    for _ in range(_ROUNDS):
        sizes = halves.sum(axis=1)
        halves = halves[(sizes >= least) & (sizes <= len(sphere) - least)]
        if not len(halves):
            return
        position = _on_fishers_lines(sphere, halves)
        moved = _bells(position, halves)
        still = (moved == halves).all(axis=1)
        for half, line in zip(halves[still], position[still], strict=True):
            if half.tobytes() not in seen:
                seen.add(half.tobytes())
                yield half, line
        after = {half.tobytes(): (half, line) for half, line in zip(moved[~still], position[~still], strict=True)}
        if not after:
            return
        halves = np.stack([half for half, _ in after.values()])
    for half, line in after.values():
        if least <= half.sum() <= len(half) - least:
            yield half, line  # not stable after _ROUNDS: with the line that it is a threshold on


def _on_fishers_lines(sphere: _Matrix, halves: NDArray[np.bool_]) -> _Matrix:
    """Positions [s, n] of all samples on the lines of s splits; the second half has the larger values."""
    weights = halves / halves.sum(axis=1, keepdims=True) - ~halves / (~halves).sum(axis=1, keepdims=True)
    positions: _Matrix = (weights @ sphere) @ sphere.T
    return positions


def _bells(position: _Matrix, second: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """bool [s, n]: samples more likely under the second of two normal densities fitted to the halves, the border between their means."""
    logs, means = [], []
    for part in (~second, second):
        size = part.sum(axis=1, keepdims=True)
        mean = (position * part).sum(axis=1, keepdims=True) / size
        spread = np.sqrt(np.maximum((position**2 * part).sum(axis=1, keepdims=True) / size - mean**2, 1e-24))
        logs.append(-0.5 * ((position - mean) / spread) ** 2 - np.log(spread) + np.log(size / position.shape[1]))
        means.append(mean)
    between: NDArray[np.bool_] = np.where(position <= means[0], False, np.where(position >= means[1], True, logs[1] > logs[0]))
    return between


def line_between(position: _Matrix, second: NDArray[np.bool_]) -> SplitLine | None:
    """The line whose positions [n] these are, with the distance and the valley of the halves; None where they are no two."""
    first, other = position[~second], position[second]
    spread = np.sqrt((first.var() + other.var()) / 2) if len(first) and len(other) else 0.0
    if spread <= 0 or other.mean() <= first.mean():
        return None
    return SplitLine(second, position, float((other.mean() - first.mean()) / spread), _valley(position, second))


def _valley(position: _Matrix, second: NDArray[np.bool_]) -> float:
    """The lowest smoothed density between the means over the lower of the peaks on its sides."""
    low, high = position[~second].mean(), position[second].mean()
    margin = high - low
    counts, edges = np.histogram(position, bins=_BINS, range=(low - margin, high + margin))
    step = edges[1] - edges[0]
    width = min(position[~second].std(), position[second].std()) * min(second.sum(), (~second).sum()) ** -0.2 / step
    density = gaussian_filter1d(counts.astype(np.float64), max(width, 1.0))
    middle = (edges[1:] + edges[:-1]) / 2
    inside = np.flatnonzero((middle >= low) & (middle <= high))
    if len(inside) < 3:
        return 1.0
    lowest = inside[density[inside].argmin()]
    peaks = min(density[: lowest + 1].max(), density[lowest:].max())
    doubt = _SAMPLES_OF_DOUBT / (np.sqrt(2 * np.pi) * max(width, 1.0))
    return float(min(1.0, (density[lowest] + doubt) / peaks)) if peaks > 0 else 1.0


def described(line: SplitLine, reduced: _Matrix, rng: np.random.Generator) -> ClassSplit:
    """The split with its silhouette, and a picture of it, from the space [n, r] in which it was found."""
    some = rng.permutation(len(reduced))[:_SILHOUETTE_OF]
    both = 0 < line.second[some].sum() < len(some)
    silhouette = float(silhouette_score(reduced[some], line.second[some])) if both else 0.0
    direction, *_ = np.linalg.lstsq(reduced, line.position - line.position.mean(), rcond=None)
    unit = direction / max(float(np.linalg.norm(direction)), 1e-12)
    across = reduced - np.outer(reduced @ unit, unit)
    widest = np.linalg.eigh(across.T @ across)[1][:, -1]
    plane = np.stack([line.position, across @ widest], axis=1).astype(np.float32)
    return ClassSplit(line.second, line.position, line.distance, plane, line.valley, silhouette)
