"""Exclusionary reclassification: is a cluster still of its class once the classifier has not been told that it is?

Paper: Chen et al. 2018, arXiv:1811.03728, section 4. They train the network anew; here a linear classifier on an earlier layer is trained
anew, which takes a second. Poison falls back on the class it was made of; a natural cluster stays in its class, or strays in small parts.
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
    """What a cluster is taken for by a classifier that was trained without it.

    Attributes:
        own: share that is still of its class.
        source: the other class that most are taken for.
        margin: mean distance between the two best scores; of about two clusters that both leave, the surer one is the intruder.
        home: that margin over the one that other classes' own samples have which the classifier has not seen: near 1 for samples that are
            at home elsewhere, and well below for those that are only like something else.
        classes: int64 [m], what each sample is taken for.
    """

    own: float
    source: int
    margin: float
    home: float
    classes: Labels


def standardised(features: NDArray[np.floating], seed: int) -> _Matrix:
    """Features [n, d] on one scale, [n, at most 512] by a random projection (Johnson & Lindenstrauss 1984)."""
    centred = features.astype(np.float32) - features.mean(axis=0, dtype=np.float64).astype(np.float32)
    spread = centred.std(axis=0, dtype=np.float64)
    centred /= (spread + 0.1 * spread.mean() + 1e-12).astype(np.float32)
    width = centred.shape[1]
    if width > _FEATURES_AT_MOST:
        projection = np.random.default_rng(seed).normal(size=(width, _FEATURES_AT_MOST)) / np.sqrt(_FEATURES_AT_MOST)
        centred = centred @ projection.astype(np.float32)
    scaled: _Matrix = centred.astype(np.float64)
    return scaled


def reclassify(features: _Matrix, labels: Labels, held_out: _Matrix, *, own: int, classes: int) -> Reclassified:
    """Train on `features` [n, d] with `labels`, all classes weighing the same, and classify `held_out` [m, d], labelled `own`.

    Every fifth sample of the other classes is kept back, to know how sure the classifier is of what it should be sure of.
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
        classes=taken_for,
    )


def _ridge(features: _Matrix, labels: Labels, classes: int, asked: _Matrix) -> _Matrix:
    """Scores [m, k] of ridge regression on one-hot labels: argmin_B sum_i w_i |x_i B - y_i|^2 + r |B|^2, all classes weighing alike."""
    weights: _Matrix = 1.0 / np.maximum(np.bincount(labels, minlength=classes), 1)[labels]
    weights /= weights.sum()
    targets = np.eye(classes)[labels]
    middle, level = weights @ features, weights @ targets
    centred = features - middle
    weighted = centred * weights[:, None]
    # In single precision: the ridge is far above what it loses, and it takes half as long.
    moments: _Matrix = (weighted.astype(np.float32).T @ centred.astype(np.float32)).astype(np.float64)
    moments[np.diag_indices_from(moments)] += _RIDGE * np.trace(moments) / len(moments) + 1e-12
    scores: _Matrix = (asked - middle) @ np.linalg.solve(moments, weighted.T @ (targets - level)) + level
    return scores
