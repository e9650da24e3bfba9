"""The odds that probabilities lay against a label."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.classifier import Probabilities

_LEAST = 1e-45  # the smallest number of float32, below which a probability is 0


def log_odds_against(outputs: Probabilities, labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """log((1 - p) / p) of the probability p that each row gives its label: [n, k], [n] -> [n], float64.

    1 - p is the sum over the other classes, so that classifiers that are sure do not tie where float32 rounds p to 1.
    """
    rows, others = np.arange(len(labels)), outputs.astype(np.float64)
    own = others[rows, labels]
    others[rows, labels] = 0
    against: NDArray[np.float64] = np.log(np.maximum(others.sum(axis=1), _LEAST)) - np.log(np.maximum(own, _LEAST))
    return against
