"""A covariance matrix of few samples.

Paper: Ledoit & Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices", section 3.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def ledoit_wolf(centred: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shrink the empirical covariance S of centred samples towards m I, with m the mean of its eigenvalues:

        (1 - q) S + q m I,   q = min(1, b / d),  d = |S - m I|^2,  b = 1/n^2 sum_i |x_i x_i' - S|^2   (squared Frobenius norms)

    Shapes: [n, d] -> [d, d], with a smallest eigenvalue above 0 unless all samples are 0.

    >>> ledoit_wolf(np.array([[1.0, 0.0], [-1.0, 0.0]])).round(3).tolist()
    [[1.0, 0.0], [0.0, 0.0]]
    """
    n, dimensions = centred.shape
    covariance = centred.T @ centred / n
    mean = float(np.trace(covariance)) / dimensions
    squared = float((covariance**2).sum())
    apart = squared - dimensions * mean**2
    noise = (float((np.einsum("ij,ij->i", centred, centred) ** 2).sum()) / n - squared) / n
    share = min(1.0, noise / apart) if apart > 0 else 1.0
    shrunk: NDArray[np.float64] = (1 - share) * covariance
    shrunk[np.diag_indices(dimensions)] += share * mean
    return shrunk
