"""DeepFool against the exact distance to the boundary of a linear classifier."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from attacks.attack import Goal, predicted_labels
from attacks.evasion.deep_fool import DeepFool
from models.engines.keras import KerasClassifier
from models.errors import InvalidInput
from tests.fakes import linear_with_gradients, squares

SHAPE = (6, 5, 3)


def grey(n: int) -> Any:
    """Images whose nearest boundary is inside the box."""
    return (0.5 + 0.05 * np.random.default_rng(1).normal(size=(n, *SHAPE))).astype(np.float32)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("overshoot", [0.0, 0.02, 0.1])
def test_on_a_linear_classifier_it_goes_the_exact_distance_to_the_nearest_class(classes: int, overshoot: float) -> None:
    model, images = linear_with_gradients(SHAPE, classes), grey(20)
    logits = model.logits(images).astype(np.float64)
    labels = logits.argmax(axis=1)
    found = DeepFool(overshoot=overshoot)(model, images, Goal(labels))
    w = model.weights[:, None, :] - model.weights[:, labels][:, :, None]  # [d, n, k]
    norms = np.linalg.norm(w, axis=0)
    distances = (logits.max(axis=1)[:, None] - logits) / np.where(norms > 0, norms, np.nan)
    walked = np.linalg.norm((found.images.astype(np.float64) - images).reshape(20, -1), axis=1)
    assert found.success.all()
    np.testing.assert_allclose(walked, (1 + overshoot) * np.nanmin(distances, axis=1), rtol=1e-3, atol=1e-4)


def test_candidates_one_by_one_and_all_at_once_go_to_the_same_place() -> None:
    model, images = linear_with_gradients(SHAPE, 6), grey(20)
    goal = Goal(predicted_labels(model.predict(images)))
    all_at_once, one_by_one = (DeepFool(candidates=m)(model, images, goal) for m in (6, 5))
    same = np.isclose(all_at_once.images, one_by_one.images, atol=1e-5).all(axis=(1, 2, 3))
    assert same.mean() > 0.8, "the class that is left out is the least likely one"
    assert one_by_one.success.all()


def test_a_target_is_reached_by_the_shortest_way() -> None:
    model, images = linear_with_gradients(SHAPE, 2), grey(12)
    logits = model.logits(images).astype(np.float64)
    targets = logits.argmin(axis=1)
    found = DeepFool()(model, images, Goal(targets, targeted=True))
    walked = np.linalg.norm((found.images.astype(np.float64) - images).reshape(12, -1), axis=1)
    w = np.linalg.norm(model.weights[:, 1] - model.weights[:, 0])
    assert found.success.all()
    np.testing.assert_allclose(walked, 1.02 * np.abs(logits[:, 1] - logits[:, 0]) / w, rtol=1e-3, atol=1e-4)


def test_it_fools_a_network_with_a_small_change(keras_model: Any) -> None:
    classifier, data = KerasClassifier(keras_model), squares(24, seed=8)
    goal = Goal(predicted_labels(classifier.predict(data.images)))
    found = DeepFool()(classifier, data.images, goal)
    size = np.linalg.norm((found.images - data.images).reshape(24, -1), axis=1)
    assert found.success.mean() > 0.9
    assert np.median(size) < 0.5 * np.median(np.linalg.norm(data.images.reshape(24, -1), axis=1))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"overshoot": -0.1}, "deep_fool: expected overshoot >= 0, got -0.1"),
        ({"overshoot": float("nan")}, "expected overshoot >= 0, got nan"),
        ({"iterations": 0}, "expected iterations >= 1, got 0"),
        ({"candidates": 1}, "expected candidates >= 2"),
    ],
)
def test_parameters_that_mean_nothing_are_refused_in_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        DeepFool(**options)
