"""Conformal thresholds against published ranks, the binomial law, and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import betabinom, binom

from defences.calibration import split
from defences.conformal import conformal_rank, conformal_threshold, scores_needed
from defences.defended_classifier import DefendedClassifier, Step
from defences.strip_calibration import calibrate_strip
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
        choice = calibrate_strip(classifier, parts, rate=rate, seed=seed)
        assert choice.mode == "enforce"
        held = len(choice.scores)
        rank = conformal_rank(held, rate)
        assert (choice.scores <= choice.strip.threshold).sum() == rank
        coat = DefendedClassifier(classifier, detectors=[Step(choice.strip)], secret=b"another secret than calibration's")
        found = int(coat.classify(pictures[900:]).abstained.sum())
        low, high = betabinom.interval(0.999, fresh, rank, held - rank + 1)
        assert low <= found <= high, seed
        refused, lows, highs = refused + found, lows + low, highs + high
    assert 0.5 * rate < refused / (5 * fresh) < 2 * rate
