"""Activations: any layer of any kind of Keras model, the last hidden one by default."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from models.classifier import ActivationClassifier
from models.engines.keras import KerasClassifier, import_tensorflow
from models.engines.reading.layers import FEATURES_AT_MOST
from models.errors import InvalidInput
from tests.fakes import noise

SHAPE = (16, 16, 3)


def _sequential(keras: Any) -> tuple[Any, Any]:
    hidden = keras.layers.Dense(7, activation="relu", name="hidden")
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Conv2D(4, 3, name="conv"),
            keras.layers.Flatten(),
            hidden,
            keras.layers.Dropout(0.5),
            keras.layers.Dense(3, name="head"),
            keras.layers.BatchNormalization(),
            keras.layers.Softmax(),
        ]
    )
    return model, keras.Model(model.inputs[0], hidden.output)


def _nested(keras: Any) -> tuple[Any, Any]:
    inside = keras.Input(SHAPE)
    backbone = keras.Model(inside, keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(5, 3)(inside)), name="backbone")
    outside = keras.Input(SHAPE)
    hidden = keras.layers.Dense(6, activation="tanh", name="hidden")(backbone(outside))
    return keras.Model(outside, keras.layers.Dense(3, activation="softmax")(hidden)), keras.Model(outside, hidden)


def _subclassed(keras: Any) -> tuple[Any, Any]:
    class Small(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(name="small")
            self.pool = keras.layers.GlobalMaxPooling2D()
            self.steps = [keras.layers.Dense(9, activation="relu", name="first"), keras.layers.Dense(8, name="hidden")]
            self.head = keras.layers.Dense(3)

        def call(self, images: Any, training: bool = False) -> Any:
            return keras.ops.softmax(self.head(self.hidden(images)))

        def hidden(self, images: Any) -> Any:
            values = self.pool(images)
            for step in self.steps:
                values = step(values)
            return values

    model = Small()
    inputs = keras.Input(SHAPE)
    model(inputs)
    return model, model.hidden


@pytest.mark.parametrize("build", [_sequential, _nested, _subclassed])
def test_the_default_is_the_input_of_the_head(build: Callable[[Any], tuple[Any, Any]]) -> None:
    import_tensorflow(2)
    import keras

    model, reference = build(keras)
    classifier = KerasClassifier(model, input_shape=SHAPE, input_range=(-1.0, 1.0))
    images = noise(300, SHAPE, seed=0)
    assert classifier.hidden_layer().endswith("hidden")
    assert isinstance(classifier, ActivationClassifier)
    activations = classifier.activations(images)
    assert activations.dtype == np.float32
    np.testing.assert_allclose(activations, np.asarray(reference(images * 2 - 1)), atol=1e-5)
    np.testing.assert_array_equal(activations, classifier.activations(images, classifier.hidden_layer()))


def test_layers_are_read_by_name_by_the_end_of_a_name_and_by_position() -> None:
    import_tensorflow(2)
    import keras

    classifier = KerasClassifier(_nested(keras)[0])
    images = noise(5, SHAPE, seed=1)
    names = classifier.layers()
    at = next(at for at, name in enumerate(names) if name == "backbone/conv2d" or name.startswith("backbone/conv2d"))
    by_name = classifier.activations(images, names[at])
    assert by_name.shape == (5, 14 * 14 * 5)
    np.testing.assert_array_equal(by_name, classifier.activations(images, names[at].rpartition("/")[2]))
    np.testing.assert_array_equal(by_name, classifier.activations(images, at - len(names)))
    np.testing.assert_allclose(classifier.activations(images, -1), classifier.predict(images), atol=1e-6)


@pytest.mark.parametrize("layer", ["nowhere", 99, -99])
def test_a_layer_that_does_not_exist_is_refused_with_those_that_do(keras_model: Any, layer: str | int) -> None:
    classifier = KerasClassifier(keras_model)
    with pytest.raises(InvalidInput) as refused:
        classifier.activations(noise(2, SHAPE, seed=0), layer)
    assert all(name in str(refused.value) for name in classifier.layers())


def test_a_layer_called_twice_is_two_layers() -> None:
    import_tensorflow(2)
    import keras

    inputs = keras.Input((4, 4, 1))
    twice = keras.layers.Dense(16, name="twice")
    outputs = keras.layers.Dense(2, activation="softmax")(twice(twice(keras.layers.Flatten()(inputs))))
    classifier = KerasClassifier(keras.Model(inputs, outputs))
    assert {"twice", "twice#2"} < set(classifier.layers())
    assert classifier.hidden_layer() == "twice#2"


def test_large_maps_are_averaged_over_squares() -> None:
    import_tensorflow(2)
    import keras

    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Conv2D(8, 1, name="conv"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )
    classifier = KerasClassifier(model)
    images = noise(3, (32, 32, 3), seed=0)
    maps = np.asarray(keras.Model(model.inputs[0], model.layers[0].output)(images))
    wanted = maps.reshape(3, 16, 2, 16, 2, 8).mean(axis=(2, 4)).reshape(3, -1)
    assert 32 * 32 * 8 > FEATURES_AT_MOST >= wanted.shape[1]
    np.testing.assert_allclose(classifier.activations(images, "conv"), wanted, atol=1e-5)


def test_no_images_have_no_activations_and_batches_change_nothing(keras_model: Any) -> None:
    images = noise(9, SHAPE, seed=2)
    classifier, small = KerasClassifier(keras_model), KerasClassifier(keras_model, batch_size=2)
    assert classifier.activations(images[:0]).shape == (0, 8)
    np.testing.assert_allclose(small.activations(images), classifier.activations(images), atol=1e-6)


def test_watching_a_model_leaves_it_as_it_was(keras_model: Any) -> None:
    before = [dict(layer.__dict__) for layer in keras_model.layers]
    KerasClassifier(keras_model).layers()
    assert [sorted(layer.__dict__) for layer in keras_model.layers] == [sorted(one) for one in before]


def test_a_subclassed_model_without_a_shape_is_refused() -> None:
    import_tensorflow(2)
    import keras

    with pytest.raises(InvalidInput, match="input_shape"):
        KerasClassifier(keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3)]))


@pytest.mark.parametrize("layer", ["conv", "hidden", None])
def test_gradients_by_the_image_are_slopes_of_the_activations(layer: str | None) -> None:
    import_tensorflow()
    import keras

    keras.utils.set_random_seed(1)
    classifier = KerasClassifier(_sequential(keras)[0], outputs="probabilities", batch_size=4)
    images, rng = noise(9, SHAPE, 5), np.random.default_rng(0)
    by = rng.normal(size=classifier.activations(images, layer).shape).astype(np.float32)
    gradient = classifier.activation_gradients(images, layer, by)
    direction, h = rng.normal(size=images.shape).astype(np.float32), np.float32(1e-3)
    ends = [
        (classifier.activations(images + sign * h * direction, layer).astype(np.float64) * by).sum(axis=1) for sign in (1, -1)
    ]
    slopes = (ends[0] - ends[1]) / (2 * h)
    np.testing.assert_allclose((gradient * direction).sum(axis=(1, 2, 3)), slopes, rtol=0.05, atol=0.05 * np.abs(slopes).max())
    assert gradient.shape == images.shape
