"""Is one class of a network unlike the others? Grubbs's test, one-sided.

Papers: Grubbs 1950, Ann. Math. Statist. 21(1), 27-58; Liu & Xie 2020, J. Am. Stat. Assoc. 115(529), 393-402 (Cauchy combination test).
Maths: of k scores s the i-th is compared with the mean and the deviation of the k - 1 others:

    t_i = (s_i - mean_{j != i} s_j) / (sd_{j != i} s_j * sqrt(1 + 1 / (k - 1)))

which has Student's distribution with k - 2 degrees of freedom where all k are draws of one normal distribution.
p = min(1, k * P(T > t_i)) bounds the chance that the largest of them is as far out (Bonferroni). With few classes nothing is far out: at
k = 3 one class has to lie 19 deviations away for p = 0.05, at k = 5 4.5, at k = 10 3.4.

Several scores of the same classes, whose P(T > t_i) are q_1 to q_n with weights w that add up to 1, are one test:

    q = P(C > sum_j w_j tan((1/2 - q_j) pi)),  C of the standard Cauchy distribution;   p = min(1, k * q)

q_j above 0.99 counts as 0.99. Where q is small that holds however the scores depend on each other; n times their smallest would say less.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import cauchy
from scipy.stats import t as student

CLASSES_AT_LEAST = 5
"""With fewer no class can be told to be unlike the others."""

_LEAST, _MOST = 1e-15, 0.99
"""Of q_j: below, the tangent is rounding; above, a class that lies far below the others in one score would hide in all of them."""

_Scores = NDArray[np.float64]


def distances(scores: _Scores) -> _Scores:
    """t_i [k] of scores [k]; 0 where all others are the same and the i-th as well."""
    k = len(scores)
    total, squares = scores.sum(), (scores**2).sum()
    others = (total - scores) / (k - 1)
    variance = np.maximum((squares - scores**2) - (k - 1) * others**2, 0) / (k - 2)
    spread = np.sqrt(variance * (1 + 1 / (k - 1)))
    away = scores - others
    tiny = 1e-9 * max(1.0, float(np.abs(scores).max()))
    return np.where(np.abs(away) > tiny, away / np.maximum(spread, tiny), 0.0)


def p_values(scores: _Scores) -> _Scores:
    """p [k] of scores [k], k >= 3: how likely a class lies as far above the others by chance."""
    found: _Scores = np.minimum(1.0, len(scores) * _tails(scores))
    return found


def combined_p_values(scores: _Scores, weights: _Scores) -> _Scores:
    """p [k] of n scores of each class [n, k], k >= 3, whose weights [n] add up to 1."""
    tails = np.clip([_tails(row) for row in scores], _LEAST, _MOST)
    together = cauchy.sf(weights @ np.tan((0.5 - tails) * np.pi))
    found: _Scores = np.minimum(1.0, scores.shape[1] * together)
    return found


def _tails(scores: _Scores) -> _Scores:
    """P(T > t_i) [k]."""
    found: _Scores = student.sf(distances(scores), len(scores) - 2)
    return found
