"""The derivatives of the losses, against differences in float64 and against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax
from scipy.stats import entropy

from attacks.evasion import losses
from models.classifier import Loss

LOGITS = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32) * 3
LABELS = np.array([0, 1, 2, 3, 4, 0])
ROWS = np.arange(6)
LOSSES: dict[str, Loss] = {
    "cross_entropy": losses.cross_entropy,
    "margin": losses.margin,
    "logit": losses.logit,
    "probability": losses.probability,
    "entropy_bits": losses.entropy_bits,
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_derivative_is_the_slope_of_its_loss(name: str) -> None:
    _, derivative = LOSSES[name](LOGITS, LABELS)
    h = 1e-2
    for column in range(LOGITS.shape[1]):
        step = np.zeros_like(LOGITS)
        step[:, column] = h
        above, below = (LOSSES[name](LOGITS + sign * step, LABELS)[0].astype(np.float64) for sign in (1, -1))
        np.testing.assert_allclose(derivative[:, column], (above - below) / (2 * h), atol=2e-3)


def test_the_values_are_the_published_ones() -> None:
    log_p = log_softmax(LOGITS.astype(np.float64), axis=1)
    np.testing.assert_allclose(losses.cross_entropy(LOGITS, LABELS)[0], -log_p[ROWS, LABELS], rtol=1e-5)
    np.testing.assert_allclose(losses.entropy_bits(LOGITS, LABELS)[0], entropy(np.exp(log_p), axis=1, base=2), rtol=1e-5)
    others = LOGITS.copy()
    others[ROWS, LABELS] = -np.inf
    np.testing.assert_allclose(losses.margin(LOGITS, LABELS)[0], others.max(axis=1) - LOGITS[ROWS, LABELS])


def test_cross_entropy_of_a_very_sure_answer_still_has_a_direction() -> None:
    sure = np.array([[60.0, 0.0, 1.0]], np.float32)
    loss, derivative = losses.cross_entropy(sure, np.array([0]))
    assert loss[0] >= 0
    assert derivative[0, 0] < 0 < derivative[0, 1] < derivative[0, 2]
