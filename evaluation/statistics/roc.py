"""The ROC of a detector that refuses low scores, with confidence intervals.

Positives are to be refused, negatives are not: TPR(t) = P(positive <= t), FPR(t) = P(negative <= t).
Each interval states whether it is distribution-free or asymptotic; all allow ties, and none is random.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import binom, norm, rankdata

from evaluation.statistics.intervals import clopper_pearson
from models.errors import InvalidInput

Scores = NDArray[np.float64]
_Rates = NDArray[np.float64]


@dataclass(frozen=True)
class Roc:
    """A point for every threshold with a decision of its own, from refusing nothing to refusing everything.

    Attributes:
        thresholds: [m], ascending; the first is -inf.
        fpr, tpr: [m].
        tpr_low, tpr_high: [m], pointwise: the exact interval of the TPR at a given threshold (Clopper-Pearson).
        band_low, band_high: [m], simultaneous: the whole curve of the populations, TPR over FPR, lies between (fpr, band_low) and
            (fpr, band_high) with this confidence. The band shifts the curve along both axes by the bounds of the
            Dvoretzky-Kiefer-Wolfowitz inequality, with Massart's constant, of the two samples (Campbell 1994,
            doi:10.1002/sim.4780130508).
    """

    thresholds: Scores
    fpr: _Rates
    tpr: _Rates
    tpr_low: _Rates
    tpr_high: _Rates
    band_low: _Rates
    band_high: _Rates
    confidence: float


@dataclass(frozen=True)
class IntervalEstimate:
    """A point estimate and the ends of its two-sided interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def roc(positives: Scores, negatives: Scores, *, confidence: float = 0.95) -> Roc:
    """The curve of scores [n] of positives and [m] of negatives. Raises: InvalidInput: no scores, or NaN among them."""
    _check(positives, negatives, confidence)
    thresholds = np.concatenate([[-np.inf], np.unique(np.concatenate([positives, negatives]))])
    hits = np.searchsorted(np.sort(positives), thresholds, side="right")
    tpr = hits / len(positives)
    fpr = np.searchsorted(np.sort(negatives), thresholds, side="right") / len(negatives)
    low, high = clopper_pearson(hits, len(positives), confidence)
    each = math.sqrt(confidence)  # independent samples: both inequalities hold with the product of their confidences
    up, along = _dkw(len(positives), each), _dkw(len(negatives), each)
    return Roc(
        thresholds,
        fpr,
        tpr,
        low,
        high,
        np.maximum(np.where(fpr - along > 0, tpr[np.searchsorted(fpr, fpr - along, side="left")], 0) - up, 0),
        np.minimum(tpr[np.searchsorted(fpr, fpr + along, side="right") - 1] + up, 1),
        confidence,
    )


def auroc(positives: Scores, negatives: Scores, *, confidence: float = 0.95) -> IntervalEstimate:
    """P(positive < negative) + P(equal) / 2, with DeLong's interval (1988, doi:10.2307/2531595) on the logit scale.

    Where all pairs have the same order, DeLong's variance is 0 and the interval a point. There the exact interval of min(n, m) disjoint,
    hence independent, pairs that all have that order is used, with the bound ((1 - confidence) / 2) ** (1 / min(n, m)).
    """
    _check(positives, negatives, confidence)
    n, m = len(positives), len(negatives)
    ranks = rankdata(np.concatenate([positives, negatives]))  # mid-ranks
    # The share of negatives above every positive, and of positives below every negative, ties counting half.
    above = 1 - (ranks[:n] - rankdata(positives)) / m
    below = (ranks[n:] - rankdata(negatives)) / n
    area = float(above.mean())
    variance = float(above.var(ddof=1)) / n + float(below.var(ddof=1)) / m if min(n, m) > 1 else 0.0
    tail = (1 - confidence) / 2
    if variance <= 0 or not 0 < area < 1:
        bound = tail ** (1 / min(n, m)) if area in (0.0, 1.0) else 0.0
        return IntervalEstimate(area, bound if area > 0 else 0.0, 1 - bound if area < 1 else 1.0)
    middle = math.log(area / (1 - area))
    half = float(norm.isf(tail)) * math.sqrt(variance) / (area * (1 - area))
    return IntervalEstimate(area, float(expit(middle - half)), float(expit(middle + half)))


def tpr_at_fpr(positives: Scores, negatives: Scores, rate: float = 0.01, *, confidence: float = 0.95) -> IntervalEstimate:
    """The TPR at the largest threshold whose FPR is at most `rate`, with a distribution-free interval for that of the populations.

    Half of the error probability covers the true threshold, between two order statistics of the negatives (binomial law); the other half
    covers the share of positives at or below each of the two (Clopper-Pearson). The interval is conservative.
    """
    _check(positives, negatives, confidence)
    if not 0 < rate < 1:
        raise InvalidInput(f"expected a false positive rate in (0, 1), got {rate}")
    ordered = np.concatenate([[-np.inf], np.sort(negatives), [np.inf]])
    n = len(negatives)
    tail = (1 - confidence) / 4
    first, last = int(binom.ppf(tail, n, rate)), int(binom.isf(tail, n, rate)) + 1
    half = (1 + confidence) / 2
    low = clopper_pearson(_counted(positives, ordered[first]), len(positives), half)[0]
    high = clopper_pearson(_counted(positives, ordered[min(last, n + 1)]), len(positives), half)[1]
    curve = roc(positives, negatives, confidence=confidence)
    value = float(curve.tpr[curve.fpr <= rate][-1])
    return IntervalEstimate(value, float(low[0]), float(high[0]))


def _counted(scores: Scores, threshold: float) -> NDArray[np.int64]:
    return np.array([int((scores <= threshold).sum())])


def _dkw(n: int, confidence: float) -> float:
    """The largest distance of an empirical distribution function of n samples from the true one, with this confidence."""
    return math.sqrt(math.log(2 / (1 - confidence)) / (2 * n))


def _check(positives: Scores, negatives: Scores, confidence: float) -> None:
    for what, scores in (("positives", positives), ("negatives", negatives)):
        if scores.ndim != 1 or not len(scores) or np.isnan(scores).any():
            raise InvalidInput(f"expected scores [n] of {what}, none of them NaN, got {list(scores.shape)}")
    if not 0 < confidence < 1:
        raise InvalidInput(f"expected a confidence in (0, 1), got {confidence}")
