"""The slope of layer disagreement's score by features."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from attacks.evasion.layer_gradients import score_gradients
from models.classifier import Features
from tests.fakes import layered, noise
from tests.property.strategies import layer_disagreement

SHAPE = (4, 5, 1)
DETECTOR = layer_disagreement(SHAPE, 0.0)
FEATURES = layered(SHAPE, 4).layered(DETECTOR.layers)(noise(200, SHAPE, 0)).features
ANSWERS = np.random.default_rng(1).integers(0, 4, 200)
SURE = np.eye(4, dtype=np.float32)[ANSWERS]


def moved(features: Features, by: NDArray[Any]) -> Features:
    return np.asarray(features + by, np.float32)


def test_that_of_the_probes_is_their_slope() -> None:
    only_probes = layer_disagreement(SHAPE, 0.0, moments=np.array([[1.0, 0.5], [0.0, 1e9], [0.0, 1e9]]))
    gradient = score_gradients(only_probes, FEATURES, ANSWERS)
    direction, h = np.random.default_rng(2).normal(size=FEATURES.shape), 1e-3
    high, low = (only_probes.scores(moved(FEATURES, sign * h * direction), SURE) for sign in (1, -1))
    np.testing.assert_allclose((gradient * direction).sum(axis=1), (high - low) / (2 * h), rtol=0.02, atol=0.02)


def test_that_of_the_ranks_leads_to_lower_ranks() -> None:
    gradient = score_gradients(
        layer_disagreement(SHAPE, 0.0, moments=np.array([[0.0, 1e9], [0.0, 1.0], [0.0, 1e9]])), FEATURES, ANSWERS
    )
    before = DETECTOR.parts(FEATURES, SURE)[:, 1]
    step = 0.3 * gradient / np.maximum(np.abs(gradient).max(axis=1, keepdims=True), 1e-12)
    after = DETECTOR.parts(moved(FEATURES, step), SURE)[:, 1]
    high = before > np.median(before[ANSWERS < 3])
    assert (after < before)[high & (ANSWERS < 3)].mean() > 0.8
    assert np.abs(gradient[ANSWERS == 3]).max() < 1e-6  # a class without references: of the probes alone, divided by 1e9


@pytest.mark.parametrize("label", [0, 2])
def test_answers_that_are_not_judged_have_no_slope(label: int) -> None:
    judged = np.arange(4) != label
    gradient = score_gradients(layer_disagreement(SHAPE, 0.0, judged=judged), FEATURES, ANSWERS)
    assert not gradient[label == ANSWERS].any()
    assert gradient[label != ANSWERS].any(axis=1).all()
