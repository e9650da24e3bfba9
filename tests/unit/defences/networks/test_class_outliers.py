"""Grubbs's test of one class against the others: its formula, its rate under its null, and what few classes allow."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_ind

from defences.networks.class_outliers import distances, p_values


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
