"""Two populations in one class, told apart by what the other classes look like.

Papers: Tang et al. 2021, arXiv:1908.00686 (a sample is its class's mean and variation that all classes share; a class with a trigger has
two means); Hastie & Tibshirani 1996, J. R. Stat. Soc. B 58 (classes of several means with one covariance); Chen et al. 2018,
arXiv:1811.03728, section 4 (a cluster is classified by a classifier trained without it).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf_shrinkage

from defences.poison.class_split import ClassSplit, SplitLine, described, line_between, refined, sphered
from models.classifier import Labels

SMALLEST = 20
"""Fewer samples are no population."""

_SHARE_AT_LEAST = 0.03
_DIRECTIONS = 40  # beside those between the other classes
_SAMPLES_A_DIRECTION = 12  # fewer, and any halves could be told apart
_STARTS = 12  # directions whose tails and halves are tried
_TAILS = (0.05, 0.2)

_Matrix = NDArray[np.float64]
_Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Lens:
    """A space in which the variation within the other classes is the identity, so that the nearest mean is the likeliest class.

    Attributes:
        matrix: [d, r], features to that space: the directions between the other classes, and those in which this class varies most.
        means: [k - 1, r], of the other classes.
        classes: int64 [k - 1], which they are.
    """

    matrix: _Matrix
    means: _Matrix
    classes: Labels

    @classmethod
    def on(cls, features: _Matrix, others: _Matrix, labels: Labels) -> Lens:
        """The lens for a class with features [n, d], from samples [m, d] of the others and their labels [m].

        Maths: the covariance within the others, shrunk (Ledoit & Wolf 2004); no sample of the class itself takes part in it.
        """
        classes = np.unique(labels)
        means = np.stack([others[labels == label].mean(axis=0) for label in classes])
        away = others - means[np.searchsorted(classes, labels)]
        shrinkage = float(ledoit_wolf_shrinkage(away, assume_centered=True))
        values, vectors = np.linalg.eigh(away.T @ away / len(away))
        level = max(float(values.mean()), 1e-12)
        white = vectors / np.sqrt((1 - shrinkage) * np.maximum(values, 0) + shrinkage * level + 1e-9 * level)
        between = np.linalg.svd((means - means.mean(axis=0)) @ white, full_matrices=False)[2][: len(classes) - 1]
        own = (features - features.mean(axis=0)) @ white
        own -= (own @ between.T) @ between
        size = max(1, min(_DIRECTIONS, len(own) // _SAMPLES_A_DIRECTION))
        widest = np.linalg.eigh(own.T @ own)[1][:, ::-1][:, :size]
        matrix = white @ np.concatenate([between.T, widest], axis=1)
        return cls(matrix, means @ matrix, classes)

    def shares(self, asked: _Matrix, own: _Matrix) -> _Matrix:
        """Shares [k] of samples [n, r] whose nearest mean is that of each other class, and, last, `own` [r]."""
        means = np.concatenate([self.means, own[None]])
        nearest = (asked @ means.T - (means**2).sum(axis=1) / 2).argmax(axis=1)
        shares: _Matrix = np.bincount(nearest, minlength=len(means)) / len(asked)
        return shares


@dataclass(frozen=True)
class Judged:
    """How the halves of a class look among the other classes.

    Attributes:
        own: [2], shares that keep their class where the other half stands for it.
        sources: [2], their most frequent other classes there.
        stranger: the half that is more like a sample of the other classes, 0 or 1.
        foreign: in [0, 3], how clearly it is one; see `judged`.
    """

    own: _Matrix
    sources: NDArray[np.int64]
    stranger: int
    foreign: float


def judged(lens: Lens, seen: _Matrix, second: _Mask, mix: _Matrix) -> Judged:
    """Classify the halves of a class, seen [n, r] through the lens; `mix` [k - 1] are the shares p of the other classes.

    Maths: o(q) = sum_j min(q_j, p_j) is 1 for a fair sample of the other classes, and low for one kind of image. Each half h is
    classified twice: as it is, with the other half's mean for its class, to shares q_h and own_h; and moved so that its mean is
    sum_j p_j m_j, that of the other classes, with this point for its class, to shares r_h and rest_h. A large trigger spoils the first,
    as it moves all samples alike; the second takes any, but needs content that the layer shows clearly. With d_h = o(r_h) - rest_h, s the
    half of the larger d and t the other one: foreign = max(0, o(q_s) - max(own)) + d_s - d_t.
    """
    own, sources, even, apart = [], [], [], []
    for asked, taught in ((seen[~second], seen[second]), (seen[second], seen[~second])):
        left_out = lens.shares(asked, taught.mean(axis=0))
        middle = mix @ lens.means
        moved = lens.shares(asked - asked.mean(axis=0) + middle, middle)
        own.append(left_out[-1])
        sources.append(lens.classes[left_out[:-1].argmax()])
        even.append(np.minimum(left_out[:-1], mix).sum())
        apart.append(np.minimum(moved[:-1], mix).sum() - moved[-1])
    stranger = int(apart[1] > apart[0])
    foreign = max(0.0, even[stranger] - max(own)) + apart[stranger] - apart[1 - stranger]
    return Judged(np.array(own), np.array(sources), stranger, float(foreign))


def populations(
    features: _Matrix,
    others: _Matrix,
    labels: Labels,
    counts: NDArray[np.int64],
    *,
    foreign_at_least: float,
    valley_at_most: float,
) -> ClassSplit | None:
    """The two populations of one class; None where there are none.

    Splits start from the halves and the tails of the class's directions of largest variance, and are refined by Fisher's discriminant
    and two normal densities along it. Of those that have a valley and are foreign enough, the one with the most of both is taken; of all
    where there is none. The more foreign half is the second.

    Args:
        features: [n, d], of the class.
        others, labels: [m, d] and [m], of samples of the other classes.
        counts: [k], samples of each class in the data.
    """
    lens = Lens.on(features, others, labels)
    seen = features @ lens.matrix
    mix = counts[lens.classes] / counts[lens.classes].sum()
    least = max(SMALLEST, _SHARE_AT_LEAST * len(seen))
    best: tuple[tuple[bool, float], SplitLine, Judged] | None = None
    for second, position in refined(sphered(seen), _starts(seen)):
        if not least <= second.sum() <= len(second) - least:
            continue
        halves = judged(lens, seen, second, mix)
        line = line_between(position, second) if halves.stranger else line_between(-position, ~second)
        if line is None:
            continue
        found = halves.foreign >= foreign_at_least and line.valley <= valley_at_most
        rank = (found, halves.foreign * line.merit)
        if best is None or rank > best[0]:
            best = rank, line, halves
    if best is None:
        return None
    _, line, halves = best
    order = [1 - halves.stranger, halves.stranger]
    split = described(line, seen - seen.mean(axis=0), np.random.default_rng(0))
    return replace(split, own=halves.own[order], sources=halves.sources[order], foreign=halves.foreign)


def _starts(seen: _Matrix) -> _Mask:
    """Initial halves [s, n]: both tails and the halves of the directions of largest variance."""
    centred = seen - seen.mean(axis=0)
    along = centred @ np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :_STARTS]
    starts = [*(along >= np.median(along, axis=0)).T]
    for tail in _TAILS:
        low, high = np.quantile(along, [tail, 1 - tail], axis=0)
        starts += [*(along <= low).T, *(along >= high).T]
    return np.stack(starts)
