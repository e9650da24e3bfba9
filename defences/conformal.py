"""Thresholds with a guarantee: split conformal quantiles.

For scores of n clean images that are exchangeable with the next clean one, refusing at or below the k-th smallest of them refuses the
next with probability at most k / (n + 1) (Vovk, Gammerman & Shafer 2005). Over the draw of the n scores the realised false rate is
Beta(k, n - k + 1) distributed, which gives the second guarantee: with a stated confidence it stays below the rate.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from defences.errors import InvalidInput


def conformal_rank(n: int, rate: float, confidence: float | None = None) -> int:
    """The largest k such that refusing at or below the k-th smallest of n clean scores keeps the false rate at `rate`.

    Args:
        confidence: None for the marginal guarantee P(refused) <= rate; c for P(false rate <= rate) >= c over the calibration draw.

    Returns: k, 0 when n is too small for any refusal.

    >>> conformal_rank(5000, 0.01), conformal_rank(5000, 0.01, 0.95), conformal_rank(298, 0.01, 0.95)
    (50, 39, 0)
    """
    _check(rate, confidence)
    marginal = int(np.floor(rate * (n + 1) + 1e-9))
    if confidence is None or marginal == 0:
        return marginal
    ranks = np.arange(1, marginal + 1)
    held = beta.cdf(rate, ranks, n - ranks + 1) >= confidence
    return int(ranks[held][-1]) if held.any() else 0


def scores_needed(rate: float, confidence: float | None = None) -> int:
    """The smallest n for which `conformal_rank` is at least 1.

    >>> scores_needed(0.01), scores_needed(0.01, 0.95)
    (99, 299)
    """
    _check(rate, confidence)
    if confidence is None:
        return int(np.ceil(1 / rate - 1 - 1e-9))
    return int(np.ceil(np.log1p(-confidence) / np.log1p(-rate)))


def conformal_threshold(scores: NDArray[np.float64], rate: float, confidence: float | None = None) -> float:
    """The largest threshold t for which refusing scores <= t keeps the guarantee; -inf when only refusing nobody does.

    Ties are counted against us: where the k-th smallest score is shared by more images than k allows, t drops to the score below.
    """
    k = conformal_rank(len(scores), rate, confidence)
    ordered = np.sort(scores)
    while k > 0 and k < len(ordered) and ordered[k] == ordered[k - 1]:
        k -= 1
    return float(ordered[k - 1]) if k > 0 else -np.inf


def _check(rate: float, confidence: float | None) -> None:
    if not 0 < rate < 1:
        raise InvalidInput(f"expected a false abstention rate in (0, 1), got {rate}")
    if confidence is not None and not 0 < confidence < 1:
        raise InvalidInput(f"expected a confidence in (0, 1), got {confidence}")
