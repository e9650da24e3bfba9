"""Thresholds with a guarantee: split conformal quantiles.

For scores of n clean images that are exchangeable with the next clean one, refusing at or below the k-th smallest of them refuses the
next with probability at most k / (n + 1) (Vovk, Gammerman & Shafer 2005). Over the draw of the n scores the realised false rate is
Beta(k, n - k + 1) distributed, which gives the second guarantee: with a stated confidence it stays below the rate.

Several detectors share one rate. In turns, as often as their budgets say, each cuts off the held image that scores lowest of those that
are left, k times in all; its threshold is the score of the last image it cut off. The k cuts are statistically equivalent blocks (Tukey
1947, doi:10.1214/aoms/1177730343; Fraser 1951): the probability that any detector refuses a clean image is Beta(k, n - k + 1)
distributed, whatever the scores have to do with each other, and both guarantees hold as for one detector. An image that one detector cut
off costs the others nothing, so that detectors that refuse the same images hardly use up the rate, which dividing it by their number
(Bonferroni) would. Budgets are chosen on other data than the held images (`defences/calibration/budgets.py`).

Where k is too small for two cuts each, the shares of other clean images stand in: each score is mapped to the share of them below it,
over the detector's budget, and one conformal threshold on the smallest share of each held image gives a threshold for each detector. The
tails of these shares are guessed from few images, so that a detector with outliers takes more than its budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from defences.errors import InvalidInput

_CUTS_AT_LEAST = 2
"""Of each detector, so that its threshold is read off the held images and not guessed."""


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
    """The largest threshold t for which refusing scores <= t keeps the guarantee; -inf when no image may be refused.

    Where more images share the k-th smallest score than k allows, t is the next score below.
    """
    k = conformal_rank(len(scores), rate, confidence)
    ordered = np.sort(scores)
    while k > 0 and k < len(ordered) and ordered[k] == ordered[k - 1]:
        k -= 1
    return float(ordered[k - 1]) if k > 0 else -np.inf


def joint_thresholds(
    choosing: Sequence[NDArray[np.float64]],
    holding: Sequence[NDArray[np.float64]],
    rate: float,
    confidence: float | None = None,
    *,
    budgets: Sequence[float] | None = None,
) -> tuple[float, ...]:
    """A threshold for each detector, such that refusing where *any* score is at or below its own keeps the guarantee.

    Args:
        choosing: clean scores of each detector, at least one; where held images are few, how the rate is shared out depends on them,
            never the guarantee.
        holding: clean scores of each detector on the same n images, none of them among those of `choosing`.
        budgets: of each detector, relative to the others', >= 0; equal ones when none. They must not depend on `holding`.

    Returns: for one detector `conformal_threshold` of its held scores; -inf for all when no image may be refused, and for a detector
    without a budget.
    Raises: InvalidInput: lists of different lengths, budgets that are none.
    """
    if len(choosing) != len(holding) or not holding or len({len(scores) for scores in holding}) != 1:
        raise InvalidInput("expected the scores of each detector on other images and on the same held images")
    shared = _budgets(budgets, len(holding))
    spending = [number for number, budget in enumerate(shared) if budget > 0]
    thresholds = [-np.inf] * len(holding)
    if len(spending) == 1:
        thresholds[spending[0]] = conformal_threshold(holding[spending[0]], rate, confidence)
        return tuple(thresholds)
    rank = conformal_rank(len(holding[0]), rate, confidence)
    if rank >= _CUTS_AT_LEAST * len(spending):
        return _by_cuts(holding, shared, rank)
    level = conformal_threshold(joint_scores(choosing, holding, budgets=shared), rate, confidence)
    for number in spending:
        thresholds[number] = _Share.fitted(choosing[number], shared[number]).threshold(level, holding[number])
    return tuple(thresholds)


def _by_cuts(holding: Sequence[NDArray[np.float64]], budgets: Sequence[float], rank: int) -> tuple[float, ...]:
    """The thresholds after so many cuts, see the module.

    Held images of one score are cut off together, or not at all where they are more than may be: such a detector cuts no more.
    """
    orders = [np.argsort(scores, kind="stable") for scores in holding]
    left, gone = rank, np.zeros(len(holding[0]), bool)
    thresholds, cuts = [-np.inf] * len(holding), [0] * len(holding)
    cutting = {number for number, budget in enumerate(budgets) if budget > 0}
    while left and cutting:
        turn = min(cutting, key=lambda number: ((cuts[number] + 1) / budgets[number], number))
        scores, order = holding[turn], orders[turn]
        lowest = scores[order[~gone[order]][0]]
        tied = ~gone & (scores == lowest)
        count = int(np.count_nonzero(tied))
        if count > left:
            cutting.remove(turn)
            continue
        gone |= tied
        left, cuts[turn], thresholds[turn] = left - count, cuts[turn] + count, float(lowest)
    return tuple(thresholds)


def joint_scores(
    choosing: Sequence[NDArray[np.float64]],
    scores: Sequence[NDArray[np.float64]],
    *,
    budgets: Sequence[float] | None = None,
) -> NDArray[np.float64]:
    """One score for each image: the logarithm of the smallest share that any of its scores leaves below, among those of `choosing`,
    each divided by the detector's budget."""
    every = zip(choosing, scores, _budgets(budgets, len(scores)), strict=True)
    joint: NDArray[np.float64] = np.min([_Share.fitted(own, budget)(some) for own, some, budget in every if budget > 0], axis=0)
    return joint


def _budgets(given: Sequence[float] | None, count: int) -> tuple[float, ...]:
    budgets = (1.0,) * count if given is None else tuple(map(float, given))
    if len(budgets) != count or not all(0 <= budget < np.inf for budget in budgets) or not any(budgets):
        raise InvalidInput(f"expected a budget >= 0 of each of {count} detectors, and not all 0, got {given}")
    return budgets


@dataclass(frozen=True)
class _Share:
    """A score as the logarithm of the share of clean images at or below it, over a budget: strictly increasing on the whole line.

    Between the clean scores it was fitted on it is linear. Below them it goes on as an exponential tail does, with the mean excess of
    the lowest tenth for a scale: the share wanted may be smaller than one over their number.
    """

    knots: NDArray[np.float64]
    logs: NDArray[np.float64]
    below: float
    above: float

    @classmethod
    def fitted(cls, scores: NDArray[np.float64], budget: float = 1.0) -> _Share:
        ordered = np.sort(scores)
        knots = np.unique(ordered)
        at_or_below = np.searchsorted(ordered, knots, side="right")
        lowest = ordered[: max(2, len(ordered) // 10)]
        spread = float(ordered.std()) or 1.0
        excess = float((lowest[-1] - lowest).mean()) or spread
        return cls(knots, np.log(at_or_below / (len(ordered) + 1)) - np.log(budget), excess, spread)

    def __call__(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        inside = np.interp(scores, self.knots, self.logs)
        outside = np.minimum(scores - self.knots[0], 0) / self.below + np.maximum(scores - self.knots[-1], 0) / self.above
        logs: NDArray[np.float64] = inside + outside
        return logs

    def threshold(self, level: float, held: NDArray[np.float64]) -> float:
        """The largest score whose logarithm is at most `level`; rounding moves no held score to its other side."""
        if level == -np.inf:
            return -np.inf
        inside = np.interp(level, self.logs, self.knots)
        outside = min(level - self.logs[0], 0.0) * self.below + max(level - self.logs[-1], 0.0) * self.above
        refused = self(held) <= level
        found = max([float(inside + outside), *held[refused]])
        return float(min([found, *np.nextafter(held[~refused], -np.inf)]))


def _check(rate: float, confidence: float | None) -> None:
    if not 0 < rate < 1:
        raise InvalidInput(f"expected a false abstention rate in (0, 1), got {rate}")
    if confidence is not None and not 0 < confidence < 1:
        raise InvalidInput(f"expected a confidence in (0, 1), got {confidence}")
