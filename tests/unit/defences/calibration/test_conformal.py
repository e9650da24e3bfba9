"""Conformal thresholds: ties, too few scores, bad rates. The numbers themselves: tests/conformance/test_conformal.py."""

from __future__ import annotations

import numpy as np
import pytest

from defences.calibration.conformal import conformal_rank, conformal_threshold, scores_needed
from defences.errors import InvalidInput


def test_the_threshold_is_the_score_of_the_rank() -> None:
    scores = np.random.default_rng(0).permutation(1000) / 1000
    assert conformal_rank(1000, 0.01) == 10
    assert conformal_threshold(scores, 0.01) == 0.009
    assert conformal_threshold(scores, 0.01, 0.95) == 0.004


def test_too_few_scores_refuse_nobody() -> None:
    assert conformal_threshold(np.arange(98.0), 0.01) == -np.inf
    assert conformal_threshold(np.empty(0), 0.01) == -np.inf


def test_ties_at_the_rank_drop_the_threshold_below_them() -> None:
    scores = np.concatenate([[0.0, 1.0], np.full(20, 2.0), np.arange(3.0, 981.0)])
    assert conformal_rank(len(scores), 0.01) == 10
    assert conformal_threshold(scores, 0.01) == 1.0
    assert conformal_threshold(np.full(1000, 0.5), 0.01) == -np.inf


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, np.nan])
def test_a_rate_that_is_no_share_is_refused(rate: float) -> None:
    with pytest.raises(InvalidInput, match=r"false abstention rate in \(0, 1\)"):
        conformal_rank(1000, rate)


@pytest.mark.parametrize("confidence", [0.0, 1.0, np.nan])
def test_a_confidence_that_is_no_share_is_refused(confidence: float) -> None:
    with pytest.raises(InvalidInput, match=r"confidence in \(0, 1\)"):
        scores_needed(0.01, confidence)
