"""What holds for every attack, on a classifier whose boundary is known: a new attack is one row of the table."""

from __future__ import annotations

import math

import numpy as np
import pytest

from attacks.attack import Attack, Goal, predicted_labels
from attacks.evasion.carlini_wagner import CarliniWagner
from attacks.evasion.deep_fool import DeepFool
from attacks.evasion.gradient import BasicIterative, FastGradient, ProjectedGradientDescent
from attacks.evasion.hop_skip_jump import HopSkipJump
from attacks.evasion.lavan import LaVAN
from attacks.evasion.losses import cross_entropy, margin
from attacks.evasion.noise import RandomNoise
from attacks.evasion.saliency_map import SaliencyMap
from attacks.evasion.square import Square
from models.datasets import Dataset
from models.errors import InvalidInput
from tests.fakes import LinearClassifier, Metered, Touchy, linear_with_gradients, noise

SHAPE = (6, 5, 3)
CLASSES = 4
SEED = 7

STARTS = Dataset(noise(40, SHAPE, 2), predicted_labels(linear_with_gradients(SHAPE, CLASSES).predict(noise(40, SHAPE, 2))))
"""Images of every class, for those that begin from one."""

GRADIENT_ATTACKS: dict[str, Attack] = {
    "fast_gradient": FastGradient(eps=0.1),
    "fast_gradient, L1": FastGradient(eps=6.0, norm=1),
    "fast_gradient, L2": FastGradient(eps=1.0, norm=2),
    "fast_gradient, L10": FastGradient(eps=0.15, norm=10),
    "fast_gradient, minimal": FastGradient(eps=0.2, step=0.01),
    "basic_iterative": BasicIterative(eps=0.1),
    "projected_gradient_descent": ProjectedGradientDescent(eps=0.1, iterations=10, restarts=2),
    "projected_gradient_descent, L1": ProjectedGradientDescent(eps=6.0, norm=1, iterations=10, restarts=2),
    "projected_gradient_descent, L2": ProjectedGradientDescent(eps=1.0, norm=2, iterations=10, restarts=2, loss=margin),
    "carlini_wagner": CarliniWagner(iterations=60, searches=4, learning_rate=0.05, constant=0.1),
    "lavan": LaVAN(size=(3, 4), places=((0, 0), (3, 1)), locations=2, iterations=12),
    "lavan, at random places": LaVAN(size=(4, 3), locations=3, iterations=10, loss=cross_entropy),
    "deep_fool": DeepFool(),
    "deep_fool, two candidates": DeepFool(candidates=2),
    "saliency_map": SaliencyMap(gamma=0.3),
    "saliency_map, downwards and in small steps": SaliencyMap(theta=-0.3, gamma=0.31),
}
"""Those that need a differentiable classifier."""

BLACK_BOX_ATTACKS: dict[str, Attack] = {
    "noise": RandomNoise(eps=0.6, queries=100),
    "noise, L2": RandomNoise(eps=6.0, norm=2, queries=100),
    "square": Square(eps=0.3, queries=150),
    "square, L2": Square(eps=2.0, norm=2, queries=200),
    "hop_skip_jump": HopSkipJump(queries=500, first_estimate=30),
    "hop_skip_jump, Linf": HopSkipJump(queries=500, first_estimate=30, norm=math.inf),
    "hop_skip_jump, within eps": HopSkipJump(queries=500, first_estimate=30, eps=1.5),
    "hop_skip_jump, from starts": HopSkipJump(queries=300, first_estimate=30, starts=STARTS),
}
"""Those that only ask for predictions."""

ATTACKS = GRADIENT_ATTACKS | BLACK_BOX_ATTACKS

pytestmark = pytest.mark.skipif(not ATTACKS, reason="no attacks yet")


@pytest.fixture
def classifier() -> LinearClassifier:
    return linear_with_gradients(SHAPE, CLASSES)


def mistaken(classifier: LinearClassifier, n: int = 12) -> tuple[np.ndarray, Goal]:
    """Images and the goal to have them called anything but what they are called."""
    images = noise(n, SHAPE, 1)
    return images, Goal(predicted_labels(classifier.predict(images)))


@pytest.mark.parametrize("name", ATTACKS)
def test_adversarial_images_stay_images_and_the_given_ones_stay_as_they_are(name: str, classifier: LinearClassifier) -> None:
    images, goal = mistaken(classifier)
    before = images.copy()
    found = ATTACKS[name](classifier, images, goal, seed=SEED)
    np.testing.assert_array_equal(images, before)
    assert found.images.dtype == np.float32
    assert found.images.shape == images.shape
    assert found.images is not images
    assert ((found.images >= 0) & (found.images <= 1)).all()
    assert found.success.dtype == bool
    assert found.success.shape == found.queries.shape == found.gradients.shape == (len(images),)


@pytest.mark.parametrize("name", ATTACKS)
def test_success_is_the_classifiers_own_answer_for_the_returned_images(name: str, classifier: LinearClassifier) -> None:
    images, goal = mistaken(classifier)
    found = ATTACKS[name](classifier, images, goal, seed=SEED)
    np.testing.assert_array_equal(found.success, goal.reached(predicted_labels(classifier.predict(found.images))))
    assert found.success.mean() > 0.5, "an attack that never succeeds proves nothing"


@pytest.mark.parametrize("name", ATTACKS)
def test_the_same_seed_gives_the_same_images(name: str, classifier: LinearClassifier) -> None:
    images, goal = mistaken(classifier)
    first, second = (ATTACKS[name](classifier, images, goal, seed=SEED) for _ in range(2))
    np.testing.assert_array_equal(first.images, second.images)
    np.testing.assert_array_equal(first.queries, second.queries)


@pytest.mark.parametrize("name", ATTACKS)
def test_a_targeted_attack_that_succeeds_hits_its_target(name: str, classifier: LinearClassifier) -> None:
    images, goal = mistaken(classifier)
    targets = Goal((goal.labels + 1) % CLASSES, targeted=True)
    found = ATTACKS[name](classifier, images, targets, seed=SEED)
    predicted = predicted_labels(classifier.predict(found.images))
    np.testing.assert_array_equal(predicted[found.success], targets.labels[found.success])
    assert found.success.any()


@pytest.mark.parametrize("name", ATTACKS)
def test_the_queries_counted_are_the_images_the_classifier_was_given(name: str, classifier: LinearClassifier) -> None:
    images, goal = mistaken(classifier)
    classifier.calls = 0
    found = ATTACKS[name](classifier, images, goal, seed=SEED)
    assert found.queries.sum() == classifier.calls


@pytest.mark.parametrize("name", ATTACKS)
def test_no_images_are_no_trouble(name: str, classifier: LinearClassifier) -> None:
    found = ATTACKS[name](classifier, np.empty((0, *SHAPE), np.float32), Goal(np.empty(0, np.int64)), seed=SEED)
    assert found.images.shape == (0, *SHAPE)


@pytest.mark.parametrize("name", ATTACKS)
def test_labels_out_of_range_and_images_of_another_shape_are_refused(name: str, classifier: LinearClassifier) -> None:
    images, goal = mistaken(classifier)
    with pytest.raises(InvalidInput, match=f"labels from 0 to {CLASSES - 1}"):
        ATTACKS[name](classifier, images, Goal(goal.labels + CLASSES), seed=SEED)
    with pytest.raises(InvalidInput, match="expected images"):
        ATTACKS[name](classifier, images[:, :4], goal, seed=SEED)
    with pytest.raises(InvalidInput, match="one label per image"):
        ATTACKS[name](classifier, images, goal.take(slice(0, 3)), seed=SEED)


@pytest.mark.parametrize("name", GRADIENT_ATTACKS)
def test_a_classifier_without_gradients_is_refused_in_one_sentence(name: str, classifier: LinearClassifier) -> None:
    images, goal = mistaken(classifier)

    class OnlyPredicts:
        input_shape, labels, predict = classifier.input_shape, classifier.labels, classifier.predict

    with pytest.raises(InvalidInput, match="needs gradients, and this model is OnlyPredicts, which has none; name a twin"):
        GRADIENT_ATTACKS[name](OnlyPredicts(), images, goal, seed=SEED)


@pytest.mark.parametrize("name", BLACK_BOX_ATTACKS)
def test_an_attack_whose_budget_ends_returns_the_best_so_far(name: str, classifier: LinearClassifier) -> None:
    images, goal = mistaken(classifier)
    whole = BLACK_BOX_ATTACKS[name](classifier, images, goal, seed=SEED)
    for budget in (0, 5, 12, 20, int(whole.queries.sum()) // 2):
        metered = Metered(classifier, budget)
        found = BLACK_BOX_ATTACKS[name](metered, images, goal, seed=SEED)
        assert found.queries.sum() == metered.spent == min(budget, whole.queries.sum())
        predicted = predicted_labels(classifier.predict(found.images))
        assert goal.reached(predicted)[found.success].all()
        assert ((found.images >= 0) & (found.images <= 1)).all()


@pytest.mark.parametrize("name", BLACK_BOX_ATTACKS)
def test_a_refusal_is_never_a_success(name: str, classifier: LinearClassifier) -> None:
    images, goal = mistaken(classifier)
    touchy = Touchy(classifier)
    found = BLACK_BOX_ATTACKS[name](touchy, images, goal, seed=SEED)
    predicted = predicted_labels(touchy.predict(found.images))
    np.testing.assert_array_equal(found.success, goal.reached(predicted))
    nothing = BLACK_BOX_ATTACKS[name](Touchy(classifier, share=1.0), images, goal, seed=SEED)
    assert not nothing.success.any()
