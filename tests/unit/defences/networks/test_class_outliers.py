"""Grubbs's test of one class against the others: its formula, its rate under its null, and what few classes allow."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_ind

from defences.networks.class_outliers import combined_p_values, distances, p_values


def test_a_class_is_compared_with_the_others_as_student_compares_one_draw_with_a_sample() -> None:
    scores = np.random.default_rng(0).normal(size=10)
    found = distances(scores)
    for label in range(10):
        others = np.delete(scores, label)
        by_hand = (scores[label] - others.mean()) / (others.std(ddof=1) * np.sqrt(1 + 1 / 9))
        assert found[label] == pytest.approx(by_hand)
        # With one draw the pooled variance is that of the others: the textbook's test of two samples.
        pooled = ttest_ind([scores[label]], others, equal_var=True).statistic
        assert found[label] == pytest.approx(pooled)


def test_classes_of_one_normal_distribution_are_called_outliers_as_often_as_promised() -> None:
    rng = np.random.default_rng(1)
    smallest = np.array([p_values(rng.normal(size=10)).min() for _ in range(2000)])
    assert 0.035 <= (smallest <= 0.05).mean() <= 0.06


@pytest.mark.parametrize(("classes", "deviations"), [(3, 19), (5, 4.5), (10, 3.4)])
def test_with_fewer_classes_one_has_to_lie_further_away(classes: int, deviations: float) -> None:
    others = np.linspace(-1, 1, classes - 1)
    spread = others.std(ddof=1) * np.sqrt(1 + 1 / (classes - 1))
    for far, found in ((0.95, False), (1.05, True)):
        scores = np.append(others, far * deviations * spread)
        assert (p_values(scores)[-1] <= 0.05) == found


def test_classes_that_are_all_the_same_are_no_outliers() -> None:
    assert (p_values(np.zeros(10)) >= 0.5).all()
    assert p_values(np.array([*[1.0] * 9, 2.0]))[-1] < 1e-9


@pytest.mark.parametrize("shared", [0.0, 0.7, 1.0])
def test_scores_together_keep_the_rate_however_they_depend_on_each_other(shared: float) -> None:
    rng, weights = np.random.default_rng(2), np.array([0.4, 0.3, 0.2, 0.1])

    def smallest() -> float:
        scores = np.sqrt(shared) * rng.normal(size=10) + np.sqrt(1 - shared) * rng.normal(size=(4, 10))
        return float(combined_p_values(scores, weights).min())

    assert 0.03 <= np.mean([smallest() <= 0.05 for _ in range(2000)]) <= 0.065


def test_one_score_is_enough_and_another_that_says_no_does_not_outweigh_it() -> None:
    usual = np.linspace(-1, 1, 9)
    high, low, weights = np.append(usual, 9.0), np.append(usual, -99.0), np.array([0.5, 0.5])
    alone = combined_p_values(high[None], np.ones(1))[-1]
    assert alone == pytest.approx(p_values(high)[-1])
    assert combined_p_values(np.stack([high, usual.mean() + 0 * high]), weights)[-1] == pytest.approx(2 * alone, rel=0.1)
    assert combined_p_values(np.stack([high, low]), weights)[-1] <= 3 * alone
