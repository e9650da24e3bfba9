"""Unlearning: the copy forgets what images show, not the backdoor, and the given classifier stays as it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from attacks.backdoors.poisoning import Poisoned
from models.datasets import Dataset
from models.engines.keras import KerasClassifier
from models.errors import InvalidInput
from models.preparation import Preparation
from models.training.unlearning import RUNS, STEPS_AT_LEAST, STEPS_AT_MOST, _Run, unlearned_copy
from tests.fakes import squares

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
    assert STEPS_AT_LEAST <= found.steps <= STEPS_AT_MOST
    most = RUNS * STEPS_AT_MOST
    assert told[0] == (STEPS_AT_MOST, most)
    assert told[-1] == (most, most)


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


def test_a_model_all_of_whose_layers_are_frozen_is_refused(keras_model: Any) -> None:
    import keras

    model = keras.models.clone_model(keras_model)
    model.trainable = False
    with pytest.raises(InvalidInput, match="expected a model with trainable weights"):
        unlearned_copy(KerasClassifier(model), DATA, WATCHED, below=0.25)


def test_where_no_step_size_leads_there_the_copy_that_came_closest_is_returned(
    keras_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.training.unlearning.RUNS", 2)
    monkeypatch.setattr("models.training.unlearning.STEPS_AT_MOST", 10)
    found = unlearned_copy(KerasClassifier(keras_model), DATA, WATCHED, below=0.0)
    assert found.steps == 10
    assert found.learning_rate in (1e-3, 4e-3)
    assert 0 <= found.accuracy <= found.accuracy_before
    assert accuracy(found.classifier, WATCHED) == found.accuracy


def test_when_the_time_is_over_the_best_copy_so_far_is_returned(keras_model: Any) -> None:
    found = unlearned_copy(KerasClassifier(keras_model), DATA, WATCHED, below=0.25, within_s=0.0)
    assert found.steps == 1
    assert accuracy(found.classifier, WATCHED) == found.accuracy


@pytest.mark.parametrize(
    ("runs", "best"),
    [
        ([(10, 0.1), (40, 0.2), (120, 0.9)], 1),
        ([(120, 0.9), (120, 0.3), (5, np.nan)], 1),
        ([(5, np.nan), (120, 0.99)], 1),
    ],
)
def test_of_several_copies_the_gentlest_that_has_forgotten_is_taken(runs: list[tuple[int, float]], best: int) -> None:
    made = [_Run(1e-3, steps, right, []) for steps, right in runs]
    assert min(made, key=lambda run: run.rank(0.25)) is made[best]
