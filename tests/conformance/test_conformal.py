"""Conformal thresholds against published ranks, the binomial law, and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import betabinom, binom

from defences.calibration.conformal import conformal_rank, conformal_threshold, joint_thresholds, scores_needed
from defences.calibration.split import Terms, split
from defences.calibration.strip import fit_strip
from defences.calibration.thresholds import conclude
from defences.defended_classifier import DefendedClassifier, Step
from defences.errors import InvalidInput
from models.datasets import Dataset
from tests.fakes import linear, noise


@pytest.mark.parametrize(("n", "rank"), [(5000, 39), (2000, 13), (1000, 5), (299, 1), (298, 0)])
def test_one_percent_with_95_percent_confidence_takes_the_published_ranks(n: int, rank: int) -> None:
    assert conformal_rank(n, 0.01, 0.95) == rank


@pytest.mark.parametrize(("n", "rank"), [(5000, 50), (2000, 20), (1000, 10), (99, 1), (98, 0), (0, 0)])
def test_the_marginal_rank_is_the_floor_of_rate_times_one_more_than_the_images(n: int, rank: int) -> None:
    assert conformal_rank(n, 0.01) == rank


def test_at_least_299_scores_are_needed_for_one_percent_with_95_percent_confidence() -> None:
    assert scores_needed(0.01, 0.95) == 299
    assert scores_needed(0.01) == 99


@pytest.mark.parametrize("confidence", [None, 0.8, 0.95, 0.99])
@pytest.mark.parametrize("rate", [0.001, 0.01, 0.05, 0.2])
def test_as_many_scores_as_needed_are_the_fewest_with_a_rank(rate: float, confidence: float | None) -> None:
    n = scores_needed(rate, confidence)
    assert conformal_rank(n, rate, confidence) >= 1
    assert conformal_rank(n - 1, rate, confidence) == 0


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("n", [300, 1000, 3333])
@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
def test_the_rank_is_the_largest_the_binomial_law_allows(n: int, rate: float, confidence: float) -> None:
    # The k-th smallest score has a false rate below `rate` exactly when k or more of n scores fall below the rate-quantile.
    k = conformal_rank(n, rate, confidence)
    assert binom.sf(k - 1, n, rate) >= confidence
    assert binom.sf(k, n, rate) < confidence or k == conformal_rank(n, rate)


@pytest.mark.parametrize("confidence", [None, 0.95])
@pytest.mark.parametrize(("n", "rate"), [(300, 0.01), (1000, 0.01), (400, 0.05)])
def test_simulated_calibrations_keep_the_promise(n: int, rate: float, confidence: float | None) -> None:
    runs = 4000
    scores = np.random.default_rng(n).random((runs, n))
    false_rates = np.array(
        [conformal_threshold(row, rate, confidence) for row in scores]
    )  # of uniform scores: the threshold itself
    if confidence is None:
        error = false_rates.std() / np.sqrt(runs)
        assert rate - 1 / n - 4 * error < false_rates.mean() < rate + 4 * error
    else:
        assert (false_rates > rate).sum() <= binom.ppf(0.999, runs, 1 - confidence)


@pytest.mark.parametrize("rate", [0.02, 0.1])
def test_clean_images_are_refused_at_the_rate_that_calibration_promises(rate: float) -> None:
    shape, fresh = (4, 4, 1), 3000
    refused = lows = highs = 0
    for seed in range(5):
        classifier = linear(shape, 5, seed=seed, sharpness=3.0)
        pictures = noise(900 + fresh, shape, seed)
        labels = classifier.predict(pictures).argmax(axis=1)
        parts = split(Dataset(pictures[:900], labels[:900]), rate=rate, confidence=None, seed=seed)
        terms = Terms(rate=rate, seed=seed)
        (choice,) = conclude([fit_strip(classifier, parts, terms)], terms)
        assert choice.mode == "enforce"
        scores = choice.fitted.holding
        held = len(scores)
        rank = conformal_rank(held, rate)
        assert (scores <= choice.threshold).sum() == rank
        defended = DefendedClassifier(classifier, detectors=[Step(choice.detector)], secret=b"another secret than calibration's")
        found = int(defended.classify(pictures[900:]).abstained.sum())
        low, high = betabinom.interval(0.999, fresh, rank, held - rank + 1)
        assert low <= found <= high, seed
        refused, lows, highs = refused + found, lows + low, highs + high
    assert 0.5 * rate < refused / (5 * fresh) < 2 * rate


def scores_of(kind: str, count: int, n: int, rng: np.random.Generator) -> list[NDArray[np.float64]]:
    """Clean scores [count][n] of detectors that have more or less in common, on scales of their own."""
    if kind == "the same":
        common = rng.normal(size=n)
        return [common * (number + 1) for number in range(count)]
    if kind == "strongly dependent":
        common = rng.normal(size=n)
        return [np.exp(common + 0.1 * rng.normal(size=n)) for _ in range(count)]
    if kind == "tied":
        # Most images share a score, and so do many of the lowest.
        return [np.minimum(rng.integers(0, 60, n), 8) / 8.0 for _ in range(count)]
    return [rng.gamma(number + 1, size=n) for number in range(count)]


KINDS = ("the same", "strongly dependent", "independent", "tied")


@pytest.mark.parametrize("confidence", [None, 0.9])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_detectors_together_keep_the_promise_that_one_would(kind: str, count: int, confidence: float | None) -> None:
    runs, fresh, rate = 300, 4000, 0.05
    rng = np.random.default_rng(count)
    false_rates = np.empty(runs)
    for run in range(runs):
        choosing = [scores_of(kind, count, 60, rng)[number] for number in range(count)]
        thresholds = joint_thresholds(choosing, scores_of(kind, count, 300, rng), rate, confidence)
        others = scores_of(kind, count, fresh, rng)
        false_rates[run] = np.any([s <= t for s, t in zip(others, thresholds, strict=True)], axis=0).mean()
    if confidence is None:
        assert false_rates.mean() < rate + 4 * false_rates.std() / np.sqrt(runs)
        if kind != "tied":
            assert false_rates.mean() > rate - 1 / 300 - 4 * false_rates.std() / np.sqrt(runs)
    else:
        # A realised rate is measured on 4,000 images: let it exceed by their noise.
        noise_of_a_rate = 2 * np.sqrt(rate / fresh)
        assert (false_rates > rate + noise_of_a_rate).sum() <= binom.ppf(0.999, runs, 1 - confidence)


@pytest.mark.parametrize("kind", ["the same", "strongly dependent"])
def test_detectors_that_refuse_the_same_images_share_the_rate_better_than_by_dividing_it(kind: str) -> None:
    rng = np.random.default_rng(0)
    choosing, holding, fresh = (scores_of(kind, 2, n, rng) for n in (1000, 40_000, 100_000))
    together = joint_thresholds(choosing, holding, 0.02)
    divided = [conformal_threshold(scores, 0.01) for scores in holding]
    for number in range(2):
        assert (fresh[number] <= together[number]).mean() > 1.4 * (fresh[number] <= divided[number]).mean()


@pytest.mark.parametrize("confidence", [None, 0.9])
@pytest.mark.parametrize("kind", KINDS)
def test_one_detector_gets_the_threshold_it_would_have_alone(kind: str, confidence: float | None) -> None:
    rng = np.random.default_rng(1)
    choosing, holding = scores_of(kind, 1, 50, rng), scores_of(kind, 1, 500, rng)
    assert joint_thresholds(choosing, holding, 0.03, confidence) == (conformal_threshold(holding[0], 0.03, confidence),)


@pytest.mark.parametrize("kind", KINDS)
def test_as_many_held_images_are_refused_by_any_detector_as_the_rank_allows(kind: str) -> None:
    rng = np.random.default_rng(2)
    choosing, holding = scores_of(kind, 3, 100, rng), scores_of(kind, 3, 1000, rng)
    thresholds = joint_thresholds(choosing, holding, 0.05)
    refused = np.any([s <= t for s, t in zip(holding, thresholds, strict=True)], axis=0).sum()
    assert refused <= conformal_rank(1000, 0.05)
    if kind != "tied":
        assert refused == conformal_rank(1000, 0.05)


def test_a_detector_that_cannot_tell_its_lowest_images_apart_leaves_the_rate_to_the_other() -> None:
    rng = np.random.default_rng(3)
    blind = [np.where(rng.random(n) < 0.3, 0.0, rng.random(n)) for n in (100, 1000)]
    sharp = [rng.random(n) for n in (100, 1000)]
    first, second = joint_thresholds([blind[0], sharp[0]], [blind[1], sharp[1]], 0.05)
    assert first < 0
    assert second == pytest.approx(conformal_threshold(sharp[1], 0.05), abs=0.01)


def test_no_detector_refuses_anybody_when_there_are_too_few_images() -> None:
    few = [np.arange(50.0), np.arange(50.0)]
    assert joint_thresholds(few, few, 0.01) == (-np.inf, -np.inf)


def test_scores_of_different_images_are_not_calibrated_together() -> None:
    some = [np.arange(50.0), np.arange(50.0)]
    for choosing, holding in ((some, [np.arange(50.0), np.arange(49.0)]), (some[:1], some), ([], [])):
        with pytest.raises(InvalidInput, match="on the same held images"):
            joint_thresholds(choosing, holding, 0.1)
