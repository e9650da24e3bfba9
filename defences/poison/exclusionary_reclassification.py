"""Exclusionary reclassification: train without a cluster, then classify it; poison is assigned to the class it was made from.

Paper: Chen et al. 2018, arXiv:1811.03728, section 4. The paper retrains the network; here a linear classifier is trained on an earlier
layer, which takes a second. Most of a natural cluster keeps its class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.classifier import Labels

_RIDGE = 0.05
_FEATURES_AT_MOST = 512
_KEPT_BACK = 5

_Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Reclassified:
    """The classes that a classifier trained without a cluster assigns to it.

    Attributes:
        own: share in [0, 1] that keeps its class.
        source: the most frequent other class.
        margin: mean difference of the two best scores; if neither cluster keeps its class, the larger one marks the poison.
        home: `margin` over the margin of unseen samples of the other classes: near 1 for samples that belong to another class, well
            below 1 for samples that only resemble one.
        recognised: share of the same unseen samples that it puts into their own class: near chance, it has learned nothing of what the
            images show.
        classes: int64 [m], the class of each sample.
    """

    own: float
    source: int
    margin: float
    home: float
    recognised: float
    classes: Labels


@dataclass(frozen=True)
class Scale:
    """Features brought to one scale, and projected at random where they are many (Johnson & Lindenstrauss 1984).

    Attributes:
        middle, width: float32 [d], of the features it was made from.
        projection: float32 [d, 512]; None where d <= 512.
    """

    middle: NDArray[np.float32]
    width: NDArray[np.float32]
    projection: NDArray[np.float32] | None

    @classmethod
    def of(cls, features: NDArray[np.floating], seed: int) -> Scale:
        """The scale of these features [n, d]."""
        middle = features.mean(axis=0, dtype=np.float64).astype(np.float32)
        spread = (features.astype(np.float32) - middle).std(axis=0, dtype=np.float64)
        wide = features.shape[1]
        projection = None
        if wide > _FEATURES_AT_MOST:
            draws = np.random.default_rng(seed).normal(size=(wide, _FEATURES_AT_MOST)) / np.sqrt(_FEATURES_AT_MOST)
            projection = draws.astype(np.float32)
        return cls(middle, (spread + 0.1 * spread.mean() + 1e-12).astype(np.float32), projection)

    def __call__(self, features: NDArray[np.floating]) -> _Matrix:
        """Features [n, d] as [n, min(d, 512)]."""
        centred = features.astype(np.float32) - self.middle
        centred /= self.width
        scaled: _Matrix = (centred if self.projection is None else centred @ self.projection).astype(np.float64)
        return scaled


def standardised(features: NDArray[np.floating], seed: int) -> _Matrix:
    """Features [n, d] on their own scale, at most 512 of them."""
    return Scale.of(features, seed)(features)


def reclassify(features: _Matrix, labels: Labels, held_out: _Matrix, *, own: int, classes: int) -> Reclassified:
    """Train on `features` [n, d] with `labels`, all classes weighted equally, and classify `held_out` [m, d], whose label is `own`.

    Every fifth sample of the other classes is left out of training; their margin is the reference of `Reclassified.home`.
    """
    others = np.flatnonzero(labels != own)[::_KEPT_BACK]
    trained = np.setdiff1d(np.arange(len(labels)), others)
    scores = _ridge(features[trained], labels[trained], classes, np.concatenate([held_out, features[others]]))
    known, scores = scores[len(held_out) :], scores[: len(held_out)]
    taken_for = scores.argmax(axis=1)
    strays = taken_for[taken_for != own]
    margin, usual = (float((np.sort(some, axis=1)[:, -2:] @ (-1, 1)).mean()) if len(some) else 0.0 for some in (scores, known))
    return Reclassified(
        own=float((taken_for == own).mean()),
        source=int(np.bincount(strays, minlength=classes).argmax()) if len(strays) else own,
        margin=margin,
        home=margin / usual if usual > 0 else 0.0,
        recognised=float((known.argmax(axis=1) == labels[others]).mean()) if len(others) else 0.0,
        classes=taken_for,
    )


def _ridge(features: _Matrix, labels: Labels, classes: int, asked: _Matrix) -> _Matrix:
    """Scores [m, k] of ridge regression on one-hot labels: argmin_B sum_i w_i |x_i B - y_i|^2 + r |B|^2, classes weighted equally."""
    weights: _Matrix = 1.0 / np.maximum(np.bincount(labels, minlength=classes), 1)[labels]
    weights /= weights.sum()
    targets = np.eye(classes)[labels]
    middle, level = weights @ features, weights @ targets
    centred = features - middle
    weighted = centred * weights[:, None]
    # Single precision takes half the time; the ridge is far above its rounding error.
    moments: _Matrix = (weighted.astype(np.float32).T @ centred.astype(np.float32)).astype(np.float64)
    moments[np.diag_indices_from(moments)] += _RIDGE * np.trace(moments) / len(moments) + 1e-12
    scores: _Matrix = (asked - middle) @ np.linalg.solve(moments, weighted.T @ (targets - level)) + level
    return scores
