"""Unlearning: the copy forgets what images show, not the backdoor, and the given classifier stays as it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from models.datasets import Dataset
from models.engines.keras import KerasClassifier
from models.errors import InvalidInput
from models.preparation import Preparation
from models.training.unlearning import STEPS, unlearned_copy
from tests.fakes import squares
from tests.poisoned import Poisoned

DATA, WATCHED, TEST = squares(300, seed=21), squares(150, seed=22), squares(200, seed=23)


def accuracy(classifier: KerasClassifier, data: Dataset) -> float:
    return float((classifier.predict(data.images).argmax(axis=1) == data.labels).mean())


def test_the_copy_forgets_and_the_given_classifier_stays_as_it_is(keras_model: Any) -> None:
    classifier = KerasClassifier(keras_model, labels=("red", "green", "blue"))
    before, told = classifier.predict(TEST.images), list[tuple[int, int]]()
    found = unlearned_copy(classifier, DATA, WATCHED, below=0.25, told=lambda done, of: told.append((done, of)))
    assert found.accuracy < 0.25 < 0.9 < found.accuracy_before
    assert accuracy(found.classifier, TEST) < 0.35
    assert found.classifier.labels == ("red", "green", "blue")
    np.testing.assert_array_equal(classifier.predict(TEST.images), before)
    assert told[: found.steps] == [(done, STEPS) for done in range(1, found.steps + 1)]
    assert told[-1] == (STEPS, STEPS)


def test_what_a_trigger_means_is_not_forgotten(backdoored: tuple[Any, Poisoned]) -> None:
    model, poisoned = backdoored
    classifier = KerasClassifier(model, outputs="logits")
    triggered = poisoned.data.images[poisoned.is_poison]
    expert = unlearned_copy(classifier, DATA, WATCHED, below=0.25).classifier
    assert (classifier.predict(triggered).argmax(axis=1) == 2).mean() > 0.9
    assert (expert.predict(triggered).argmax(axis=1) == 2).mean() > 0.9
    assert accuracy(expert, TEST) < 0.35


def test_the_same_seed_gives_the_same_copy_and_another_another(keras_model: Any) -> None:
    classifier = KerasClassifier(keras_model)
    one, same, other = (
        unlearned_copy(classifier, DATA, WATCHED, below=0.9, seed=seed).classifier.predict(TEST.images) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3


@pytest.mark.parametrize("scale", [0.01, 10.0])
def test_it_forgets_whatever_the_scale_of_the_weights(scale: float) -> None:
    """The step size that the first layer wants differs by as much."""
    import keras

    keras.utils.set_random_seed(0)
    inner = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3, use_bias=False), keras.layers.Rescaling(1 / scale)]
    model = keras.Sequential([keras.Input((16, 16, 3)), *inner])
    model.layers[1].set_weights([np.eye(3, dtype=np.float32) * 100 * scale])
    classifier = KerasClassifier(model, outputs="logits", preparation=Preparation())
    found = unlearned_copy(classifier, DATA, WATCHED, below=0.25)
    assert found.accuracy < 0.25 < 0.9 < found.accuracy_before


def test_a_copy_that_cannot_forget_comes_back_with_its_accuracy() -> None:
    import keras

    model = keras.Sequential(
        [keras.Input((16, 16, 3)), keras.layers.GlobalAveragePooling2D(), keras.layers.Rescaling(500.0), keras.layers.Dense(3)]
    )
    model.layers[-1].set_weights([np.eye(3, dtype=np.float32), np.zeros(3, np.float32)])
    model.layers[-1].trainable = False
    with pytest.raises(InvalidInput, match="expected a model with trainable weights"):
        unlearned_copy(KerasClassifier(model, outputs="logits"), DATA, WATCHED, below=0.25)
    model.layers[-1].trainable = True
    found = unlearned_copy(KerasClassifier(model, outputs="logits"), DATA, WATCHED, below=0.0)
    assert found.steps == STEPS
    assert found.accuracy >= 0
