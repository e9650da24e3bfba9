"""The fast gradient method against closed forms on a linear model, and against ART on the same weights."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from attacks.attack import Adversarial, Goal, predicted_labels
from attacks.evasion.gradient import FastGradient, zero_gradient_share
from attacks.evasion.losses import margin
from models.classifier import Images
from models.engines.keras import KerasClassifier
from models.errors import InvalidInput
from tests.fakes import LinearClassifier, linear_with_gradients, noise, squares

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # ART remarks on the frameworks that are not installed
    from art.attacks.evasion import FastGradientMethod
    from art.estimators.classification import TensorFlowV2Classifier

NORMS = (1, 2, 10, math.inf)
SHAPE = (5, 4, 3)


def binary(seed: int = 0) -> tuple[LinearClassifier, NDArray[np.float64]]:
    """A linear model of two classes, and the gradient of z_1 - z_0."""
    model = linear_with_gradients(SHAPE, 2, seed=seed)
    return model, model.weights[:, 1] - model.weights[:, 0]


def interior(n: int, shape: tuple[int, int, int], seed: int) -> Images:
    """Images with room on either side of every pixel."""
    return noise(n, shape, seed) * np.float32(0.4) + np.float32(0.3)


def changes(found: Adversarial, images: Images) -> NDArray[np.float64]:
    return (found.images.astype(np.float64) - images).reshape(len(images), -1)


@pytest.mark.parametrize("norm", NORMS)
def test_the_step_is_the_steepest_of_its_length_on_a_linear_model(norm: float) -> None:
    model, w = binary()
    images = interior(6, SHAPE, 1)
    labels = predicted_labels(model.predict(images))
    eps = 0.02
    change = changes(FastGradient(eps=eps, norm=norm)(model, images, Goal(labels)), images)
    uphill = np.where(labels == 0, 1.0, -1.0)
    np.testing.assert_allclose(np.linalg.norm(change, ord=norm, axis=1), eps, rtol=1e-4)
    # Hoelder: over the ball, <w, d> is at most eps ||w||_q, and only the steepest direction gets there.
    q = {1: math.inf, 2: 2, 10: 10 / 9, math.inf: 1}[norm]
    np.testing.assert_allclose(change @ w * uphill, eps * np.linalg.norm(w, ord=q), rtol=1e-4)


def test_the_closed_forms_themselves() -> None:
    model, w = binary(3)
    images = interior(16, SHAPE, 2)
    goal = Goal(np.ones(16, np.int64), targeted=True)
    directions = {
        math.inf: np.sign(w),
        2: w / np.linalg.norm(w),
        1: np.sign(w) * (np.abs(w) == np.abs(w).max()),
        10: np.sign(w) * np.abs(w) ** (1 / 9) / np.linalg.norm(np.abs(w) ** (1 / 9), ord=10),
    }
    for norm, direction in directions.items():
        change = changes(FastGradient(eps=0.01, norm=norm)(model, images, goal), images)
        moved = change[model.predict(images).argmax(axis=1) == 0]  # the others are where they should be
        np.testing.assert_allclose(moved, np.tile(0.01 * direction, (len(moved), 1)), atol=1e-6)
        assert len(moved)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_it_makes_the_same_images_as_art_on_the_same_network(keras_model: Any, norm: float, targeted: bool) -> None:
    images = squares(24, seed=5).images * np.float32(0.5) + np.float32(0.25)
    classifier = KerasClassifier(keras_model)
    labels = predicted_labels(classifier.predict(images))
    wanted = (labels + 1) % 3 if targeted else labels
    eps = 0.05
    ours = FastGradient(eps=eps, norm=norm)(classifier, images, Goal(wanted, targeted))
    art = FastGradientMethod(art_view(keras_model), norm=norm, eps=eps, targeted=targeted, batch_size=24)
    theirs = art.generate(images, np.eye(3, dtype=np.float32)[wanted]).astype(np.float64)
    if norm == math.inf:  # a pixel whose gradient is zero but for rounding may go either way
        assert (np.abs(ours.images - theirs).max(axis=-1) < 1e-5).mean() > 0.995
    else:
        np.testing.assert_allclose(ours.images, theirs, atol=2e-3 * eps)


def test_the_minimal_search_stops_where_art_does(keras_model: Any) -> None:
    images = squares(24, seed=6).images
    classifier = KerasClassifier(keras_model)
    labels = predicted_labels(classifier.predict(images))
    ours = FastGradient(eps=0.5, step=0.0625)(classifier, images, Goal(labels))
    art = FastGradientMethod(art_view(keras_model), eps=0.5, eps_step=0.0625, minimal=True, batch_size=24)
    theirs = art.generate(images, np.eye(3, dtype=np.float32)[labels])
    for row in np.flatnonzero(ours.success):
        assert np.abs(ours.images - images)[row].max() == pytest.approx(np.abs(theirs - images)[row].max(), abs=1e-5)
    assert ours.success.any()


def art_view(model: Any) -> Any:
    """ART's wrapper of a network of the three classes of `squares`."""
    from models.engines.keras import import_tensorflow

    loss = import_tensorflow().keras.losses.SparseCategoricalCrossentropy()
    return TensorFlowV2Classifier(
        model=model, nb_classes=3, input_shape=(16, 16, 3), loss_object=loss, clip_values=(0.0, 1.0), channels_first=False
    )


def test_the_minimal_search_finds_the_smallest_multiple_that_crosses_the_boundary() -> None:
    model, w = binary(4)
    images = interior(20, SHAPE, 3)
    logits = model.logits(images).astype(np.float64)
    labels = logits.argmax(axis=1)
    distance = np.abs(logits[:, 1] - logits[:, 0]) / np.abs(w).sum()
    step = float(np.median(distance)) / 3
    found = FastGradient(eps=8 * step, step=step)(model, images, Goal(labels))
    expected = np.ceil(distance / step)
    np.testing.assert_array_equal(found.success, expected <= 8)
    taken = np.abs(changes(found, images)).max(axis=1) / step
    np.testing.assert_allclose(taken, np.minimum(expected, 8), rtol=1e-4)
    np.testing.assert_array_equal(found.queries, 1 + np.minimum(expected, 8))
    assert (found.gradients == 1).all()


def test_a_step_longer_than_one_pixel_has_room_for_goes_on_with_the_next() -> None:
    model, w = binary(5)
    images = np.full((1, *SHAPE), 0.5, np.float32)
    images[0, 0, 0, 0] += 0.1  # off the boundary
    label = predicted_labels(model.predict(images))
    change = changes(FastGradient(eps=2.2, norm=1)(model, images, Goal(label)), images)[0]
    largest = np.argsort(-np.abs(w))[:8]
    assert np.abs(change).sum() == pytest.approx(2.2, rel=1e-5)
    assert set(np.flatnonzero(change)) <= set(largest)


def test_a_flat_loss_leaves_the_image_where_it_is_and_is_found_out() -> None:
    flat = LinearClassifier(np.zeros((60, 3)), np.array([1.0, 0, 0]), SHAPE)
    images, labels = noise(5, SHAPE, 0), np.zeros(5, np.int64)
    for norm in NORMS:
        found = FastGradient(eps=0.3, norm=norm)(flat, images, Goal(labels))
        np.testing.assert_array_equal(found.images, images)
        assert not found.success.any()
    assert zero_gradient_share(flat, images, labels) == 1.0
    assert zero_gradient_share(binary()[0], images, labels, margin) == 0.0
    assert zero_gradient_share(flat, images[:0], labels[:0]) == 0.0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"eps": 0}, "fast_gradient: expected eps > 0, got 0"),
        ({"eps": -0.1}, "expected eps > 0"),
        ({"eps": math.nan}, "expected eps > 0, got nan"),
        ({"eps": math.inf}, "expected eps > 0, got inf"),
        ({"eps": 0.1, "norm": 0.5}, "expected a norm >= 1, got 0.5"),
        ({"eps": 0.1, "norm": math.nan}, "expected a norm >= 1, got nan"),
        ({"eps": 0.1, "step": 0.0}, "expected step > 0, got 0.0"),
        ({"eps": 0.1, "step": 0.2}, "expected step <= eps"),
    ],
)
def test_parameters_that_mean_nothing_are_refused_in_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        FastGradient(**options)
