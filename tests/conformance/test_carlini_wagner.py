"""The attack of Carlini and Wagner against the smallest perturbation there is, which on a linear classifier has a closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from attacks.attack import Goal
from attacks.evasion.carlini_wagner import CarliniWagner
from models.errors import InvalidInput
from tests.fakes import linear_with_gradients

SHAPE = (6, 5, 3)


def grey(n: int) -> Any:
    """Images whose nearest boundary is inside the box."""
    return (0.5 + 0.05 * np.random.default_rng(1).normal(size=(n, *SHAPE))).astype(np.float32)


@pytest.mark.parametrize("targeted", [False, True])
def test_on_a_linear_classifier_it_comes_close_to_the_smallest_perturbation(targeted: bool) -> None:
    model, images = linear_with_gradients(SHAPE, 2), grey(10)
    logits = model.logits(images).astype(np.float64)
    goal = Goal(logits.argmin(axis=1), targeted=True) if targeted else Goal(logits.argmax(axis=1))
    found = CarliniWagner(iterations=200, searches=9)(model, images, goal)
    smallest = np.abs(logits[:, 1] - logits[:, 0]) / np.linalg.norm(model.weights[:, 1] - model.weights[:, 0])
    size = np.linalg.norm((found.images.astype(np.float64) - images).reshape(10, -1), axis=1)
    assert found.success.all()
    assert (size >= smallest * (1 - 1e-4)).all()
    assert (size <= smallest * 1.15 + 2e-3).all()


def test_confidence_is_the_margin_by_which_the_goal_wins() -> None:
    model, images = linear_with_gradients(SHAPE, 3), grey(10)
    labels = model.logits(images).argmax(axis=1)
    found = CarliniWagner(confidence=2.0, learning_rate=0.05)(model, images, Goal(labels))
    logits = model.logits(found.images)
    own = logits[np.arange(10), labels]
    assert found.success.all()
    assert (logits.max(axis=1) - own >= 2.0 - 1e-3).all()


def test_what_cannot_be_reached_is_no_success_and_stays_an_image() -> None:
    model, images = linear_with_gradients(SHAPE, 2), grey(4)
    model.bias[:] = (1e4, 0)
    found = CarliniWagner(iterations=30, searches=3)(model, images, Goal(np.zeros(4, np.int64)))
    assert not found.success.any()
    assert ((found.images >= 0) & (found.images <= 1)).all()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"confidence": -1.0}, "carlini_wagner: expected confidence >= 0, got -1.0"),
        ({"learning_rate": 0.0}, "expected learning_rate > 0, got 0.0"),
        ({"constant": float("nan")}, "expected constant > 0, got nan"),
        ({"iterations": 0}, "expected iterations >= 1, got 0"),
        ({"searches": 0}, "expected searches >= 1, got 0"),
    ],
)
def test_parameters_that_mean_nothing_are_refused_in_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        CarliniWagner(**options)
