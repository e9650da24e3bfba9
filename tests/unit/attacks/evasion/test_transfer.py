"""Adversarial images of a copy, tried on the original."""

from __future__ import annotations

import numpy as np

from attacks.attack import Goal, predicted_labels
from attacks.evasion.gradient import ProjectedGradientDescent
from attacks.evasion.transfer import transferred
from tests.fakes import LinearClassifier, linear_with_gradients, noise

SHAPE = (6, 5, 3)


def test_the_climb_goes_on_beyond_the_copys_own_boundary() -> None:
    original = linear_with_gradients(SHAPE, 3)
    rng = np.random.default_rng(1)
    copy = LinearClassifier(original.weights + rng.normal(size=original.weights.shape), original.bias, SHAPE)
    images = noise(40, SHAPE, 2)
    goal = Goal(predicted_labels(original.predict(images)))
    before = images.copy()
    found = transferred(copy, images, goal, eps=0.15)
    assert np.abs(found - images).max() <= 0.15 + 1e-6
    assert ((found >= 0) & (found <= 1)).all()
    np.testing.assert_array_equal(images, before)
    fooled = goal.reached(predicted_labels(original.predict(found))).mean()
    barely = ProjectedGradientDescent(eps=0.15)(copy, images, goal).images
    assert fooled > goal.reached(predicted_labels(original.predict(barely))).mean() + 0.1
