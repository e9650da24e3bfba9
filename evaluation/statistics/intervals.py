"""Shares with exact confidence intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from models.errors import InvalidInput


@dataclass(frozen=True)
class Share:
    """The share `hits` / `of` with its exact (Clopper-Pearson) two-sided interval; for `of` = 0 it is NaN, with the interval [0, 1]."""

    hits: int
    of: int
    rate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.rate:.1f} % ({100 * self.low:.1f} to {100 * self.high:.1f})"


def share(rows: NDArray[np.bool_], *, confidence: float = 0.95) -> Share:
    """The share of true rows, bool [n], with an interval of this confidence in (0, 1)."""
    hits, of = int(rows.sum()), len(rows)
    low, high = clopper_pearson(np.array([hits]), of, confidence)
    return Share(hits, of, hits / of if of else float("nan"), float(low[0]), float(high[0]))


def clopper_pearson(hits: NDArray[np.int64], of: int, confidence: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Exact two-sided intervals (low [n], high [n]) of the shares hits [n] / of, by inverting the binomial test (Clopper & Pearson 1934).

    Raises: InvalidInput: a confidence outside (0, 1).

    >>> low, high = clopper_pearson(np.array([0, 5, 10]), 10, 0.95)
    >>> low.round(3), high.round(3)
    (array([0.   , 0.187, 0.692]), array([0.308, 0.813, 1.   ]))
    """
    if not 0 < confidence < 1:
        raise InvalidInput(f"expected a confidence in (0, 1), got {confidence}")
    tail = (1 - confidence) / 2
    low, high = np.zeros(len(hits)), np.ones(len(hits))
    some, missed = hits > 0, hits < of
    low[some] = beta.ppf(tail, hits[some], of - hits[some] + 1)
    high[missed] = beta.isf(tail, hits[missed] + 1, of - hits[missed])
    return low, high
