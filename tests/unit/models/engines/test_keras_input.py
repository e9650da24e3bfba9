"""Keras models that want their images otherwise: channels first, whole numbers, one of several outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from models.datasets import Dataset
from models.engines.keras import KerasClassifier
from models.errors import InvalidInput
from models.preparation import PRESETS, Preparation
from models.training.fine_tuning import fine_tune
from tests.fakes import noise, squares

SHAPE = (12, 10, 3)
BYTES = Preparation.of_range(0, 255, dtype="uint8")


@pytest.fixture(scope="module")
def keras(keras_model: Any) -> Any:
    import keras

    return keras


def network(keras: Any, inputs: tuple[int, ...], *, dtype: str = "float32", first: bool = False) -> Any:
    """An untrained convolutional network, the same weights in either layout."""
    keras.utils.set_random_seed(3)
    layers, layout = keras.layers, {"data_format": "channels_first" if first else "channels_last"}
    scaled = [layers.Rescaling(1 / 255)] if dtype != "float32" else []
    return keras.Sequential(
        [
            keras.Input(inputs, dtype=dtype),
            *scaled,
            layers.Conv2D(6, 3, activation="relu", **layout),
            layers.MaxPooling2D(**layout),
            layers.DepthwiseConv2D(3, padding="same", **layout),
            layers.BatchNormalization(axis=1 if first else -1),
            layers.AveragePooling2D(2, **layout),
            layers.GlobalMaxPooling2D(**layout),
            layers.Dense(3),
        ]
    )


def first_logit(logits: Any, labels: Any) -> Any:
    return logits[:, 0], np.eye(3, dtype=np.float32)[np.zeros(len(logits), int)]


@pytest.mark.parametrize("preparation", [Preparation(), PRESETS["caffe"], PRESETS["torch"], Preparation.of_range(1, 0)], ids=str)
def test_the_graph_prepares_images_as_numpy_does(keras: Any, preparation: Preparation) -> None:
    model, images = network(keras, SHAPE), noise(5, SHAPE, 0)
    classifier = KerasClassifier(model, preparation=preparation, outputs="logits")
    np.testing.assert_allclose(
        classifier.logits(images), model.predict(preparation.apply(images), verbose=0), rtol=1e-4, atol=1e-4
    )


def test_convolutions_with_channels_first_answer_and_differentiate_as_with_channels_last(keras: Any) -> None:
    first, last = network(keras, (3, 12, 10), first=True), network(keras, SHAPE)
    last.set_weights(first.get_weights())
    images = noise(5, SHAPE, 1)
    one, other = (
        KerasClassifier(model, preparation=preparation, outputs="logits")
        for model, preparation in ((first, Preparation(layout="nchw", channels="bgr")), (last, Preparation(channels="bgr")))
    )
    assert one.input_shape == other.input_shape == SHAPE
    np.testing.assert_allclose(one.predict(images), other.predict(images), atol=1e-6)
    gradients = [classifier.loss_gradient(images, np.zeros(5, np.int64), first_logit).gradient for classifier in (one, other)]
    assert np.abs(gradients[0]).max() > 0
    np.testing.assert_allclose(gradients[0], gradients[1], atol=1e-6)
    np.testing.assert_allclose(one.activations(images), other.activations(images), atol=1e-6)
    assert [layer.data_format for layer in first.layers if hasattr(layer, "data_format")] == ["channels_first"] * 5
    assert not any("call" in layer.__dict__ for layer in first.layers)


def residual(keras: Any, inputs: tuple[int, ...], *, first: bool = False) -> Any:
    """Large maps out of layers of every kind, also of those that do not say where their channels are, and a head that convolves."""
    keras.utils.set_random_seed(4)
    layers, layout = keras.layers, {"data_format": "channels_first" if first else "channels_last"}
    images = keras.Input(inputs)
    one = layers.Conv2D(8, 3, padding="same", name="conv", **layout)(images)
    scaled = layers.BatchNormalization(axis=1 if first else -1, name="scaled")(one)
    positive = layers.Activation("relu", name="positive")(scaled)
    framed = layers.ZeroPadding2D(1, name="framed", **layout)(layers.Cropping2D(1, **layout)(one))
    both = layers.Add(name="both")([positive, framed])
    head = layers.Conv2D(3, 1, name="head", **layout)(layers.Activation("tanh", name="last")(both))
    return keras.Model(images, layers.GlobalAveragePooling2D(**layout)(head))


def test_maps_of_channels_first_are_read_with_their_channels_last(keras: Any) -> None:
    first, last = residual(keras, (3, 34, 28), first=True), residual(keras, (34, 28, 3))
    last.set_weights(first.get_weights())
    one = KerasClassifier(first, preparation=Preparation(layout="nchw"), outputs="logits")
    other = KerasClassifier(last, outputs="logits")
    images = noise(3, (34, 28, 3), 2)
    maps = np.asarray(keras.Model(last.inputs[0], last.get_layer("positive").output)(images))
    averaged = maps.reshape(3, 17, 2, 14, 2, 8).mean(axis=(2, 4)).reshape(3, -1)  # 34 * 28 * 8 are more numbers than are kept
    np.testing.assert_allclose(one.activations(images, "positive"), averaged, atol=1e-5)
    for layer in ("conv", "scaled", "positive", "framed", "both", "last", "head"):
        np.testing.assert_allclose(one.activations(images, layer), other.activations(images, layer), atol=1e-5, err_msg=layer)
        by = noise(3, (other.activations(images, layer).shape[1], 1, 1), 5)[:, :, 0, 0]
        one_gradient, other_gradient = (each.activation_gradients(images, layer, by) for each in (one, other))
        np.testing.assert_allclose(one_gradient, other_gradient, atol=1e-5, err_msg=layer)
    assert (one.hidden_layer(), one.earlier_layer()) == (other.hidden_layer(), other.earlier_layer()) == ("last", "both")
    np.testing.assert_allclose(one.activations(images), other.activations(images, "last"), atol=1e-5)


def test_a_network_with_channels_first_is_fine_tuned(keras: Any) -> None:
    data = squares(60, seed=0)
    model = network(keras, (3, 16, 16), first=True)
    classifier = KerasClassifier(model, preparation=Preparation(layout="nchw"), outputs="logits")
    tuned = fine_tune(classifier, Dataset(data.images, data.labels), epochs=1)
    assert tuned.preparation == classifier.preparation
    assert not np.allclose(tuned.predict(data.images), classifier.predict(data.images))


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_whole_numbers_are_rounded_for_the_model_and_passed_through_for_its_gradient(keras: Any, dtype: str) -> None:
    model, images = network(keras, SHAPE, dtype=dtype), noise(5, SHAPE, 2)
    classifier = KerasClassifier(model, preparation=BYTES, outputs="logits")
    np.testing.assert_allclose(classifier.logits(images), model.predict(BYTES.apply(images), verbose=0), atol=1e-5)
    plain = KerasClassifier(network(keras, SHAPE), outputs="logits")
    plain.model.set_weights(model.get_weights())
    rounded = BYTES.apply(images).astype(np.float32) / np.float32(255)
    gradient = classifier.loss_gradient(rounded, np.zeros(5, np.int64), first_logit).gradient
    np.testing.assert_allclose(gradient, plain.loss_gradient(rounded, np.zeros(5, np.int64), first_logit).gradient, atol=1e-4)


def test_numbers_and_bytes_are_not_taken_for_each_other(keras: Any) -> None:
    with pytest.raises(InvalidInput, match=r"expected a preparation of uint8 for a model whose input is uint8, got float32"):
        KerasClassifier(network(keras, SHAPE, dtype="uint8"), outputs="logits")
    with pytest.raises(InvalidInput, match=r"expected a model whose input is uint8, as declared, got float32"):
        KerasClassifier(network(keras, SHAPE), preparation=BYTES, outputs="logits")
    with pytest.raises(InvalidInput, match=r"expected a preparation or an input range, got both"):
        KerasClassifier(network(keras, SHAPE), preparation=Preparation(), input_range=(0.0, 1.0))
    with pytest.raises(InvalidInput, match=r"one for each of 1 channels, got 3"):
        KerasClassifier(network(keras, (12, 10, 1)), preparation=PRESETS["torch"])
