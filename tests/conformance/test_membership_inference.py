"""Areas, rates and scores against scikit-learn, the bootstrap and plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from attacks.extraction.membership_inference import judge, modified_entropy
from tests.fakes import softmax


@pytest.mark.parametrize("decimals", [12, 1, 0])
@pytest.mark.parametrize("sizes", [(400, 250), (3, 5), (1, 1)])
def test_area_advantage_and_rate_are_those_of_scikit_learn(sizes: tuple[int, int], decimals: int) -> None:
    rng = np.random.default_rng(sum(sizes))
    members, others = (np.round(rng.normal(mean, 1, n), decimals) for mean, n in zip((0.7, 0.0), sizes, strict=True))
    row = judge("x", members, others)
    truth, scores = np.repeat([1, 0], sizes), np.concatenate([members, others])
    assert row.auc == pytest.approx(roc_auc_score(truth, scores))
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
    assert row.advantage == pytest.approx((true - false).max())
    assert row.tpr_at_1_fpr == pytest.approx(true[false <= 0.01].max())


def test_the_error_of_the_area_is_the_spread_over_new_samples() -> None:
    rng = np.random.default_rng(0)
    rows = [judge("x", rng.normal(0.7, 1, 120), rng.normal(0, 1, 80)) for _ in range(400)]
    spread = np.std([row.auc for row in rows])
    assert np.mean([row.auc_error for row in rows]) == pytest.approx(spread, rel=0.1)


def test_perfect_and_useless_scores_have_the_figures_they_must() -> None:
    perfect, useless = judge("x", np.ones(9), np.zeros(9)), judge("x", np.ones(9), np.ones(9))
    assert (perfect.auc, perfect.advantage, perfect.tpr_at_1_fpr) == (1, 1, 1)
    assert (useless.auc, useless.advantage, useless.tpr_at_1_fpr) == (0.5, 0, 0)


def test_modified_entropy_is_the_published_sum() -> None:
    rng = np.random.default_rng(1)
    probabilities, labels = softmax(rng.normal(size=(50, 4)) * 2), rng.integers(0, 4, 50)
    expected = [
        -(1 - row[y]) * math.log(row[y]) - sum(p * math.log(1 - p) for i, p in enumerate(row) if i != y)
        for row, y in zip(probabilities.astype(float).tolist(), labels.tolist(), strict=True)
    ]
    np.testing.assert_allclose(modified_entropy(probabilities, labels), -np.array(expected), rtol=1e-6)


def test_modified_entropy_of_certain_rows_is_finite_and_ordered() -> None:
    right, wrong = (modified_entropy(np.array([[1.0, 0.0]], np.float32), np.array([label]))[0] for label in (0, 1))
    assert right == pytest.approx(0, abs=1e-9)
    assert -100 < wrong < -20
