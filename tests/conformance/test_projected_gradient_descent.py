"""Projected gradient descent against the exact margin of a linear classifier, and against itself without restarts."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from attacks.attack import Goal, predicted_labels
from attacks.evasion.gradient import BasicIterative, FastGradient, ProjectedGradientDescent
from attacks.evasion.losses import cross_entropy, margin
from models.classifier import Images, Labels
from models.engines.keras import KerasClassifier
from models.errors import InvalidInput
from tests.fakes import LinearClassifier, linear_with_gradients, noise, squares

SHAPE = (6, 6, 1)
NORMS = (1, 2, math.inf)
DUAL = {1: math.inf, 2: 2, math.inf: 1}


def near_the_boundary(classes: int, norm: float, n: int = 8) -> tuple[LinearClassifier, Images, Labels, NDArray[np.float64]]:
    """A linear classifier, grey images, their classes, and how far each is from the nearest boundary, in closed form."""
    model = linear_with_gradients(SHAPE, classes, seed=2)
    images = (0.5 + 0.05 * np.random.default_rng(3).normal(size=(n, *SHAPE))).astype(np.float32)
    logits = model.logits(images).astype(np.float64)
    labels = logits.argmax(axis=1)
    distances = np.full((n, classes), np.inf)
    for row, label in enumerate(labels):
        for other in set(range(classes)) - {int(label)}:
            w = model.weights[:, other] - model.weights[:, label]
            distances[row, other] = (logits[row, label] - logits[row, other]) / np.linalg.norm(w, ord=DUAL[norm])
    return model, images, labels, distances.min(axis=1)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("restarts", [0, 2])
def test_it_succeeds_just_above_the_exact_distance_and_fails_just_below(norm: float, restarts: int) -> None:
    model, images, labels, distance = near_the_boundary(2, norm)
    for loss in (margin, cross_entropy):
        for row in range(len(images)):
            one, goal = images[row : row + 1], Goal(labels[row : row + 1])
            for factor, succeeds in ((1.002, True), (0.998, False)):
                attack = ProjectedGradientDescent(eps=factor * distance[row], norm=norm, restarts=restarts, loss=loss)
                assert attack(model, one, goal, seed=row).success[0] == succeeds


@pytest.mark.parametrize("norm", NORMS)
def test_it_never_succeeds_below_the_distance_to_the_nearest_of_many_classes(norm: float) -> None:
    model, images, labels, distance = near_the_boundary(5, norm)
    for row in range(len(images)):
        attack = ProjectedGradientDescent(eps=0.998 * distance[row], norm=norm, restarts=3)
        assert not attack(model, images[row : row + 1], Goal(labels[row : row + 1])).success[0]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("attack", [BasicIterative, ProjectedGradientDescent])
def test_no_image_leaves_the_ball_or_the_box(attack: Any, norm: float) -> None:
    model = linear_with_gradients(SHAPE, 3)
    images = noise(40, SHAPE, 4)
    labels = predicted_labels(model.predict(images))
    eps = {1: 3.0, 2: 0.7, math.inf: 0.1}[norm]
    options = {"restarts": 2} if attack is ProjectedGradientDescent else {}
    for targeted in (False, True):
        goal = Goal((labels + 1) % 3 if targeted else labels, targeted)
        found = attack(eps=eps, norm=norm, step=eps / 2, iterations=7, **options)(model, images, goal, seed=1)
        size = np.linalg.norm((found.images.astype(np.float64) - images).reshape(40, -1), ord=norm, axis=1)
        assert (size <= eps * (1 + 1e-5)).all()
        assert found.images.min() >= 0
        assert found.images.max() <= 1


def test_restarts_are_never_worse_than_none(keras_model: Any) -> None:
    classifier, data = KerasClassifier(keras_model), squares(96, seed=7)
    goal = Goal(predicted_labels(classifier.predict(data.images)))
    for eps in (0.1, 0.2, 0.3):
        found = [ProjectedGradientDescent(eps=eps, iterations=6, restarts=r)(classifier, data.images, goal) for r in (0, 1, 3)]
        for fewer, more in itertools.pairwise(found):
            assert (more.success >= fewer.success).all()
            np.testing.assert_array_equal(more.images[fewer.success], fewer.images[fewer.success])
    assert found[0].success.any(), "one that never succeeds compares nothing"


def test_a_fast_gradient_is_one_step_of_the_iterative_method() -> None:
    model = linear_with_gradients(SHAPE, 3)
    images = noise(20, SHAPE, 5)
    goal = Goal(predicted_labels(model.predict(images)))
    for norm in NORMS:
        once = BasicIterative(eps=0.2, step=0.2, iterations=1, norm=norm)(model, images, goal)
        np.testing.assert_allclose(once.images, FastGradient(eps=0.2, norm=norm)(model, images, goal).images, atol=1e-6)


def test_what_never_gets_there_is_the_point_of_the_highest_loss() -> None:
    model, images, labels, distance = near_the_boundary(3, math.inf)
    attack = ProjectedGradientDescent(eps=0.5 * distance.min(), iterations=20, restarts=1, loss=margin)
    found = attack(model, images, Goal(labels))
    assert not found.success.any()
    w = model.weights
    for row, label in enumerate(labels):  # the best point of the ball is a corner of it, for the class that gains most
        best = max(
            model.logits(images)[row] @ (np.eye(3)[other] - np.eye(3)[label])
            + attack.eps * np.abs(w[:, other] - w[:, label]).sum()
            for other in set(range(3)) - {int(label)}
        )
        assert margin(model.logits(found.images[row : row + 1]), labels[row : row + 1])[0][0] == pytest.approx(best, abs=1e-3)


def test_an_image_that_is_mistaken_already_stays_as_it_is_and_costs_two_queries() -> None:
    model = linear_with_gradients(SHAPE, 3)
    images = noise(10, SHAPE, 6)
    goal = Goal((predicted_labels(model.predict(images)) + 1) % 3)
    found = ProjectedGradientDescent(eps=0.3)(model, images, goal)
    np.testing.assert_array_equal(found.images, images)
    assert found.success.all()
    assert (found.queries == 2).all()


class RefusesBright(LinearClassifier):
    """Refuses every image whose mean is above a half: a zero row, as a defended classifier answers."""

    def predict(self, images: Images) -> Any:
        answers = super().predict(images)
        answers[images.mean(axis=(1, 2, 3)) > 0.5] = 0
        return answers


def test_a_point_that_the_classifier_refuses_is_no_success_whatever_its_logits_say() -> None:
    known = linear_with_gradients(SHAPE, 3)
    model = RefusesBright(known.weights, known.bias, SHAPE)
    images = noise(30, SHAPE, 8)
    goal = Goal(model.logits(images).argmax(axis=1))
    found = ProjectedGradientDescent(eps=0.3, iterations=10, restarts=1)(model, images, goal)
    answers = model.predict(found.images)
    np.testing.assert_array_equal(found.success, answers.any(axis=1) & (answers.argmax(axis=1) != goal.labels))
    assert 0 < found.success.mean() < 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"eps": 0.0}, "projected_gradient_descent: expected eps > 0"),
        ({"eps": math.nan}, "expected eps > 0, got nan"),
        ({"eps": 0.1, "norm": 3}, "expected norm 1, 2 or inf, whose balls can be projected onto, got 3"),
        ({"eps": 0.1, "norm": math.nan}, "expected norm 1, 2 or inf"),
        ({"eps": 0.1, "iterations": 0}, "expected iterations >= 1, got 0"),
        ({"eps": 0.1, "restarts": -1}, "expected restarts >= 0, got -1"),
        ({"eps": 0.1, "step": -0.1}, "expected step > 0, got -0.1"),
    ],
)
def test_parameters_that_mean_nothing_are_refused_in_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        ProjectedGradientDescent(**options)
