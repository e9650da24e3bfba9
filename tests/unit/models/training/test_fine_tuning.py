"""Fine-tuning: the given classifier is not changed, whatever its input and output."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from models.datasets import Dataset
from models.engines.keras import KerasClassifier
from models.errors import InvalidInput
from models.training.fine_tuning import Shown, fine_tune
from tests.fakes import noise, squares

DATA = squares(200, seed=3)
SWAPPED = Dataset(DATA.images, (DATA.labels + 1) % 3)


@pytest.fixture(scope="module")
def keras(keras_model: Any) -> Any:
    """The module, imported quietly when the model was made."""
    import keras

    return keras


def accuracy(classifier: KerasClassifier, data: Dataset) -> float:
    return float((classifier.predict(data.images).argmax(axis=1) == data.labels).mean())


def test_the_copy_learns_and_the_given_classifier_stays_as_it_is(keras_model: Any) -> None:
    classifier = KerasClassifier(keras_model, labels=("red", "green", "blue"), batch_size=64)
    weights = [weight.copy() for weight in keras_model.get_weights()]
    before = classifier.predict(DATA.images)
    losses: list[tuple[int, float]] = []
    copy = fine_tune(
        classifier,
        SWAPPED,
        epochs=8,
        learning_rate=0.03,
        batch_size=32,
        on_epoch=lambda epoch, loss: losses.append((epoch, loss)),
    )
    assert accuracy(copy, SWAPPED) > 0.95
    assert (copy.labels, copy.input_shape, copy.batch_size) == (("red", "green", "blue"), (16, 16, 3), 64)
    assert [epoch for epoch, _ in losses] == list(range(1, 9))
    assert losses[-1][1] < losses[0][1]
    for one, other in zip(weights, keras_model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(classifier.predict(DATA.images), before)
    assert not hasattr(keras_model, "optimizer") or keras_model.optimizer is not copy.model.optimizer


def test_what_is_shown_takes_the_place_of_every_batch_and_is_told_the_copy_as_it_is_by_then(keras_model: Any) -> None:
    classifier = KerasClassifier(keras_model)
    sizes, first, losses = [], [], []

    def shown(copy: KerasClassifier, batch: Dataset) -> Dataset:
        sizes.append(len(batch))
        first.append(copy.predict(DATA.images[:1]))
        return Dataset(batch.images, (batch.labels + 1) % 3)

    copy = fine_tune(
        classifier,
        DATA,
        epochs=8,
        learning_rate=0.03,
        batch_size=32,
        shown=shown,
        on_epoch=lambda epoch, loss: losses.append(loss),
    )
    assert accuracy(copy, SWAPPED) > 0.95
    assert sizes == [32, 32, 32, 32, 32, 32, 8] * 8
    np.testing.assert_array_equal(first[0], classifier.predict(DATA.images[:1]))
    assert all((one != another).any() for one, another in itertools.pairwise(first))
    assert losses[-1] < losses[0]


def test_the_same_seed_gives_the_same_copy_and_another_another(keras_model: Any) -> None:
    classifier = KerasClassifier(keras_model)
    first, second, other = (fine_tune(classifier, SWAPPED, epochs=1, seed=seed).model.get_weights() for seed in (0, 0, 1))
    for one, same in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, same)
    assert any((one != another).any() for one, another in zip(first, other, strict=True))


@pytest.mark.parametrize(
    ("outputs", "columns", "input_range"),
    [
        ("probabilities", 1, (0.0, 1.0)),
        ("logits", 1, (-1.0, 1.0)),
        ("logits", 3, (0.0, 255.0)),
        ("probabilities", 3, (-1.0, 1.0)),
    ],
)
@pytest.mark.parametrize("shown", [None, lambda copy, batch: batch])
def test_any_kind_of_output_and_input_range_is_trained_as_it_is_used(
    keras: Any, outputs: Any, columns: int, input_range: tuple[float, float], shown: Shown | None
) -> None:
    keras.utils.set_random_seed(1)
    activation = None if outputs == "logits" else ("sigmoid" if columns == 1 else "softmax")
    low, high = input_range
    layers = [
        keras.Input((16, 16, 3)),
        keras.layers.Rescaling(1 / (high - low), offset=-low / (high - low)),
        keras.layers.AveragePooling2D(4),
        keras.layers.Flatten(),
        keras.layers.Dense(columns, activation=activation),
    ]
    classifier = KerasClassifier(keras.Sequential(layers), input_range=input_range, outputs=outputs)
    data = Dataset(DATA.images, np.minimum(DATA.labels, len(classifier.labels) - 1))
    copy = fine_tune(classifier, data, epochs=12, learning_rate=0.1, batch_size=32, shown=shown)
    assert (copy.input_range, copy.outputs) == (input_range, outputs)
    assert accuracy(copy, data) > 0.9
    assert accuracy(classifier, data) < 0.8


@pytest.mark.parametrize(("own", "shape"), [((4, 6), (4, 6, 1)), ((24,), (4, 2, 3)), ((None, None, 3), (4, 6, 3))])
def test_models_with_another_input_shape_get_input_of_that_shape(
    keras: Any, own: tuple[int | None, ...], shape: tuple[int, int, int]
) -> None:
    last = [
        keras.layers.GlobalAveragePooling2D() if None in own else keras.layers.Flatten(),
        keras.layers.Dense(2, activation="softmax"),
    ]
    classifier = KerasClassifier(keras.Sequential([keras.Input(own), *last]), input_shape=shape)
    images = noise(80, shape, 0) * np.float32(0.2)
    images[40:] += 0.7
    data = Dataset(images, np.arange(80) // 40)
    assert accuracy(fine_tune(classifier, data, epochs=8, learning_rate=0.1, batch_size=16), data) > 0.95


def test_frozen_layers_stay_frozen(keras: Any) -> None:
    layers = [keras.layers.Flatten(), keras.layers.Dense(4, trainable=False), keras.layers.Dense(3, activation="softmax")]
    model = keras.Sequential([keras.Input((16, 16, 3)), *layers])
    frozen, _, free, _ = fine_tune(KerasClassifier(model), DATA, epochs=1).model.get_weights()
    np.testing.assert_array_equal(frozen, model.get_weights()[0])
    assert (free != model.get_weights()[2]).any()


def test_what_cannot_be_trained_is_refused_in_one_sentence(keras: Any, keras_model: Any) -> None:
    classifier = KerasClassifier(keras_model)
    frozen = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Flatten(), keras.layers.Dense(3, trainable=False)])
    with pytest.raises(InvalidInput, match="trainable weights"):
        fine_tune(KerasClassifier(frozen, outputs="logits"), DATA)
    with pytest.raises(InvalidInput, match=r"images \[n, 16, 16, 3\]"):
        fine_tune(classifier, Dataset(noise(4, (8, 8, 3), 0), np.zeros(4, np.int64)))
    with pytest.raises(InvalidInput, match="labels from 0 to 2"):
        fine_tune(classifier, Dataset(DATA.images, DATA.labels + 1))
    with pytest.raises(InvalidInput, match="at least one image"):
        fine_tune(classifier, DATA.take(slice(0, 0)))
    with pytest.raises(InvalidInput, match="epochs"):
        fine_tune(classifier, DATA, epochs=0)


def test_a_model_that_cannot_describe_itself_is_refused(keras: Any) -> None:
    inputs = keras.Input((16, 16, 3))
    size = 3

    class Nameless(keras.layers.Layer):  # type: ignore[misc]
        def __init__(self, units: int) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(units, activation="softmax")

        def call(self, images: Any) -> Any:
            return self.dense(keras.ops.mean(images, axis=(1, 2)))

        def get_config(self) -> Any:
            raise NotImplementedError

    model = keras.Model(inputs, Nameless(size)(inputs))
    with pytest.raises(InvalidInput, match="copied from its configuration"):
        fine_tune(KerasClassifier(model), DATA)
