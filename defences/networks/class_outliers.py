"""Is one class of a network unlike the others? Grubbs's test, one-sided.

Paper: Grubbs 1950, Ann. Math. Statist. 21(1), 27-58.
Maths: of k scores s the i-th is compared with the mean and the deviation of the k - 1 others:

    t_i = (s_i - mean_{j != i} s_j) / (sd_{j != i} s_j * sqrt(1 + 1 / (k - 1)))

which has Student's distribution with k - 2 degrees of freedom where all k are draws of one normal distribution.
p = min(1, k * P(T > t_i)) bounds the chance that the largest of them is as far out (Bonferroni). With few classes nothing is far out: at
k = 3 one class has to lie 19 deviations away for p = 0.05, at k = 5 4.5, at k = 10 3.4.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

CLASSES_AT_LEAST = 5
"""With fewer no class can be told to be unlike the others."""

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
    found: _Scores = np.minimum(1.0, len(scores) * student.sf(distances(scores), len(scores) - 2))
    return found
