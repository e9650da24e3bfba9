"""ROC, AUROC and their intervals against scikit-learn, SciPy, brute force, the binormal closed form, and simulation."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom, binomtest, norm
from sklearn.metrics import roc_auc_score, roc_curve

from evaluation.statistics import intervals
from evaluation.statistics.intervals import clopper_pearson, share
from evaluation.statistics.roc import auroc, roc, tpr_at_fpr
from models.errors import InvalidInput

Scores = NDArray[np.float64]


def drawn(n: int, m: int, *, shift: float = 1.0, seed: int = 0, decimals: int | None = None) -> tuple[Scores, Scores]:
    """Positives around -shift and negatives around 0; rounded, they tie."""
    rng = np.random.default_rng(seed)
    positives, negatives = rng.normal(-shift, 1, n), rng.normal(0, 1, m)
    return (positives, negatives) if decimals is None else (positives.round(decimals), negatives.round(decimals))


@pytest.mark.parametrize("decimals", [None, 1, 0])
@pytest.mark.parametrize(("n", "m"), [(40, 60), (7, 300), (1, 1)])
def test_the_curve_and_its_area_are_those_of_scikit_learn(n: int, m: int, decimals: int | None) -> None:
    positives, negatives = drawn(n, m, decimals=decimals)
    truth, scores = np.repeat([1, 0], [n, m]), -np.concatenate([positives, negatives])
    fpr, tpr, thresholds = roc_curve(truth, scores, drop_intermediate=False)
    ours = roc(positives, negatives)
    np.testing.assert_allclose(ours.fpr, fpr, atol=1e-12)
    np.testing.assert_allclose(ours.tpr, tpr, atol=1e-12)
    np.testing.assert_allclose(ours.thresholds, -thresholds)
    assert auroc(positives, negatives).value == pytest.approx(roc_auc_score(truth, scores))


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.999])
@pytest.mark.parametrize("of", [1, 10, 333])
def test_the_interval_of_a_share_is_scipys_exact_one(of: int, confidence: float) -> None:
    hits = np.unique([0, 1, of // 2, of - 1, of])
    lows, highs = clopper_pearson(hits, of, confidence)
    for k, low, high in zip(hits, lows, highs, strict=True):
        expected = binomtest(int(k), of).proportion_ci(confidence, method="exact")
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_the_share_of_nothing_may_be_anything() -> None:
    nothing = share(np.empty(0, bool))
    assert (nothing.hits, nothing.of, nothing.low, nothing.high) == (0, 0, 0.0, 1.0)
    assert np.isnan(nothing.rate)
    assert doctest.testmod(intervals) == (0, 2)


@pytest.mark.parametrize("decimals", [None, 0])
def test_the_variance_of_the_area_is_delongs_by_brute_force(decimals: int | None) -> None:
    positives, negatives = drawn(23, 31, decimals=decimals)
    order = np.array([[(p < q) + (p == q) / 2 for q in negatives] for p in positives], float)
    area = order.mean()
    variance = order.mean(axis=1).var(ddof=1) / 23 + order.mean(axis=0).var(ddof=1) / 31
    half = norm.ppf(0.975) * np.sqrt(variance) / (area * (1 - area))
    found = auroc(positives, negatives)
    assert found.value == pytest.approx(area)
    odds = np.log(area / (1 - area))
    assert (found.low, found.high) == pytest.approx((1 / (1 + np.exp(half - odds)), 1 / (1 + np.exp(-half - odds))))


def test_the_area_approaches_the_binormal_closed_form() -> None:
    positives, negatives = drawn(40_000, 40_000, shift=1.5)
    assert auroc(positives, negatives).value == pytest.approx(norm.cdf(1.5 / np.sqrt(2)), abs=0.004)


def test_a_perfect_order_still_has_an_interval() -> None:
    best = auroc(np.arange(30.0), np.arange(100.0, 140.0))
    assert (best.value, best.high) == (1.0, 1.0)
    assert best.low == pytest.approx(0.025 ** (1 / 30))  # the exact bound of 30 independent pairs in order
    worst = auroc(np.arange(100.0, 140.0), np.arange(30.0))
    assert (worst.value, worst.low, worst.high) == pytest.approx((0.0, 0.0, 1 - best.low))
    assert auroc(np.zeros(5), np.zeros(9)).value == 0.5
    assert (auroc(np.zeros(5), np.zeros(9)).low, auroc(np.zeros(5), np.zeros(9)).high) == (0.0, 1.0)


def test_the_intervals_of_area_and_tpr_cover_the_truth_as_often_as_they_say() -> None:
    runs, shift = 400, 1.5
    area, tpr = norm.cdf(shift / np.sqrt(2)), norm.cdf(norm.ppf(0.05) + shift)
    covered = np.zeros(2, int)
    for seed in range(runs):
        sample = drawn(60, 90, shift=shift, seed=seed)
        for which, (truth, found) in enumerate(((area, auroc(*sample)), (tpr, tpr_at_fpr(*sample, 0.05)))):
            covered[which] += found.low <= truth <= found.high
            assert found.low <= found.value <= found.high
    assert covered[0] >= binom.ppf(0.01, runs, 0.94)  # asymptotic
    assert covered[1] >= binom.ppf(0.01, runs, 0.95)  # exact


def test_the_band_holds_for_the_whole_curve_as_often_as_it_says_and_the_pointwise_interval_at_a_point() -> None:
    runs, shift = 300, 1.0
    whole = pointwise = 0
    for seed in range(runs):
        curve = roc(*drawn(50, 70, shift=shift, seed=seed))
        truth = norm.cdf(norm.ppf(curve.fpr) + shift)
        whole += bool(((curve.band_low <= truth + 1e-12) & (truth <= curve.band_high + 1e-12)).all())
        middle = np.searchsorted(curve.thresholds, -1.0, side="right") - 1
        pointwise += bool(curve.tpr_low[middle] <= 0.5 <= curve.tpr_high[middle])
    assert whole >= binom.ppf(0.01, runs, 0.95)
    assert pointwise >= binom.ppf(0.01, runs, 0.95)


def test_the_band_is_what_both_inequalities_allow_by_brute_force() -> None:
    positives, negatives = drawn(40, 25, decimals=0)
    curve = roc(positives, negatives, confidence=0.9)
    each = np.sqrt(0.9)
    up, along = (np.sqrt(np.log(2 / (1 - each)) / (2 * n)) for n in (40, 25))
    for fpr, low, high in zip(curve.fpr, curve.band_low, curve.band_high, strict=True):
        # Every threshold whose true FPR may be this one bounds the true TPR.
        possible = curve.tpr[(curve.fpr <= fpr + along)].max() + up
        least = curve.tpr[(curve.fpr >= fpr - along)].min() - up
        assert (low, high) == pytest.approx((max(least, 0), min(possible, 1)))


def test_the_tpr_at_a_rate_is_that_of_the_last_threshold_within_it() -> None:
    positives, negatives = np.array([0.0, 1, 2, 3]), np.arange(1.5, 101.5)
    assert tpr_at_fpr(positives, negatives, 0.01).value == 0.75  # 2 refuses one negative of 100, 3 would two
    assert tpr_at_fpr(positives, negatives, 0.02).value == 1.0


@pytest.mark.parametrize(
    ("positives", "negatives"),
    [(np.zeros(3), np.empty(0)), (np.empty(0), np.zeros(3)), (np.array([np.nan]), np.zeros(2))],
)
def test_no_scores_and_no_numbers_are_refused(positives: Scores, negatives: Scores) -> None:
    for measure in (roc, auroc, tpr_at_fpr):
        with pytest.raises(InvalidInput, match="none of them NaN"):
            measure(positives, negatives)
    with pytest.raises(InvalidInput, match="confidence"):
        roc(np.zeros(2), np.zeros(2), confidence=1.0)
