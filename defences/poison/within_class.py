"""Variation of samples within their classes: moments summed over batches, and the directions of largest variance.

Exact, unlike an incremental PCA, which truncates after every batch. Memory: d^2 numbers and one batch, for any n.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from defences.errors import InvalidInput
from models.classifier import Labels

DIRECTIONS_AT_MOST = 64
WIDTH_AT_MOST = 2048
"""Wider activations are first projected on this many random directions (Johnson & Lindenstrauss 1984)."""

_ROWS_A_BATCH = 4096
_FLOOR = 0.01

_Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class WithinClasses:
    """Activations in the directions of largest variance within classes.

    Attributes:
        reduced: float32 [n, r], r <= DIRECTIONS_AT_MOST, centred per class.
        scatter: [k, r, r], the sum of outer products of each class.
        counts: [k], samples per class.
    """

    reduced: NDArray[np.float32]
    scatter: _Matrix
    counts: NDArray[np.int64]

    def shared(self, label: int) -> _Matrix | None:
        """The covariance [r, r] within the other classes, weighted equally; None if no other class varies."""
        others = [at for at in range(len(self.counts)) if at != label and self.counts[at] > 1]
        if not others:
            return None
        mean: _Matrix = np.mean([self.scatter[at] / (self.counts[at] - 1) for at in others], axis=0)
        return mean if np.trace(mean) > 0 else None


def whiten(centred: _Matrix, shared: _Matrix) -> _Matrix:
    """`centred` [n, r] in coordinates in which the covariance `shared` [r, r] is the identity.

    Variances are floored at a hundredth of the largest: directions without natural variance would only amplify noise.
    """
    values, vectors = np.linalg.eigh(shared)
    whitened: _Matrix = centred @ (vectors / np.sqrt(np.maximum(values, 0) + _FLOOR * values[-1]))
    return whitened


def within_classes(activations: NDArray[np.floating], labels: Labels, classes: int, *, seed: int = 0) -> WithinClasses:
    """Two passes over `activations` [n, d], which may be a memory map: moments, then the reduced activations.

    Raises: InvalidInput: NaN or infinity in the activations.
    """
    counts = np.bincount(labels, minlength=classes)
    project = _projection(activations.shape[1], seed)
    width = activations.shape[1] if project is None else project.shape[1]
    means, total = np.zeros((classes, width)), np.zeros((width, width))
    for rows, batch in _batches(activations, project):
        if not np.isfinite(batch).all():
            bad = int(rows.start + np.flatnonzero(~np.isfinite(batch).all(axis=1))[0])
            raise InvalidInput(
                f"expected finite activations, got NaN or infinity for sample {bad}; check the image, or name another layer"
            )
        np.add.at(means, labels[rows], batch)
        total += batch.T @ batch
    means /= np.maximum(counts, 1)[:, None]
    within = total - (means * counts[:, None]).T @ means
    _, vectors = np.linalg.eigh((within + within.T) / 2)
    directions = vectors[:, ::-1][:, : min(DIRECTIONS_AT_MOST, width)]
    reduced = np.empty((len(labels), directions.shape[1]), np.float32)
    scatter = np.zeros((classes, directions.shape[1], directions.shape[1]))
    for rows, batch in _batches(activations, project):
        part = (batch - means[labels[rows]]) @ directions
        reduced[rows] = part
        for label in np.unique(labels[rows]):
            some = part[labels[rows] == label]
            scatter[label] += some.T @ some
    return WithinClasses(reduced, scatter, counts)


def _projection(width: int, seed: int) -> _Matrix | None:
    if width <= WIDTH_AT_MOST:
        return None
    projection: _Matrix = np.random.default_rng(seed).normal(size=(width, WIDTH_AT_MOST)) / np.sqrt(WIDTH_AT_MOST)
    return projection


def _batches(activations: NDArray[np.floating], project: _Matrix | None) -> Iterator[tuple[slice, _Matrix]]:
    for start in range(0, len(activations), _ROWS_A_BATCH):
        rows = slice(start, min(start + _ROWS_A_BATCH, len(activations)))
        batch = activations[rows].astype(np.float64)
        yield rows, batch if project is None else batch @ project
