"""Features of blocks: the same numbers in every engine, in the pass that answers, and a linear function of activations."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper

from models.classifier import LayeredClassifier
from models.engines.keras import KerasClassifier, import_tensorflow
from models.engines.onnx import OnnxClassifier
from models.engines.reading.features import POOLED_AT_MOST, feature_gradients, features_of, width
from models.engines.reading.onnx_layers import METADATA, OnnxLayers, layers_of
from models.errors import InvalidInput
from tests.converted import converted
from tests.fakes import layered, linear, noise

SHAPE = (37, 26, 3)


def residual() -> Any:
    """Two convolutions with normalisation and a shortcut, a pooling, a strided convolution, a mean over pixels."""
    import_tensorflow(2)
    import keras
    from keras import layers

    keras.utils.set_random_seed(1)
    images = keras.Input(SHAPE)
    first = layers.Activation("relu")(layers.BatchNormalization()(layers.Conv2D(12, 3, padding="same")(images)))
    second = layers.BatchNormalization()(layers.Conv2D(12, 3, padding="same")(first))
    joined = layers.MaxPooling2D()(layers.Activation("relu", name="joined")(layers.Add()([first, second])))
    third = layers.Conv2D(16, 3, strides=2, activation="relu")(joined)
    model = keras.Model(images, layers.Dense(4)(layers.GlobalAveragePooling2D()(third)))
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([np.random.default_rng(0).uniform(0.5, 1.5, value.shape) for value in layer.get_weights()])
    return model


@pytest.fixture(scope="module")
def source() -> KerasClassifier:
    return KerasClassifier(residual(), outputs="logits")


@pytest.fixture(scope="module")
def graph(source: KerasClassifier) -> OnnxClassifier:
    return converted(source)


def test_a_block_is_a_convolution_and_what_follows_it_up_to_the_next(source: KerasClassifier, graph: OnnxClassifier) -> None:
    wanted = [(37, 26, 12), (18, 13, 12), (8, 6, 16)]
    for classifier in (source, graph):
        assert isinstance(classifier, LayeredClassifier)
        assert list(classifier.blocks().values()) == wanted
        assert set(classifier.blocks()) <= set(classifier.layers())


def test_features_come_with_the_answers_and_are_averages_of_activations(source: KerasClassifier, graph: OnnxClassifier) -> None:
    images = noise(7, SHAPE, seed=0)
    for classifier in (source, graph):
        shapes = classifier.blocks()
        outputs = classifier.layered(tuple(shapes))(images)
        np.testing.assert_allclose(outputs.probabilities, classifier.predict(images), atol=1e-6)
        read = [features_of(classifier.activations(images, layer), shape) for layer, shape in shapes.items()]
        np.testing.assert_allclose(outputs.features, np.concatenate(read, axis=1), atol=1e-5)
        assert all(width(shape) <= POOLED_AT_MOST for shape in shapes.values())


def test_features_are_the_same_in_every_engine_and_number_of_images(source: KerasClassifier, graph: OnnxClassifier) -> None:
    images = noise(5, SHAPE, seed=1)
    wanted = source.layered(tuple(source.blocks()))(images)
    found = graph.layered(tuple(graph.blocks()))(images)
    np.testing.assert_allclose(found.features, wanted.features, atol=1e-4)
    for classifier in (KerasClassifier(source.model, outputs="logits", batch_size=2), converted(source, batch_size=2)):
        layers = tuple(classifier.blocks())
        few = classifier.layered(layers)
        np.testing.assert_allclose(few(images).features, wanted.features, atol=1e-4)
        assert few(images[:0]).features.shape == (0, wanted.features.shape[1])
        assert few(images[:0]).probabilities.shape == (0, 4)
        assert classifier.layered(layers) is few


def test_a_gradient_by_features_is_their_slope(source: KerasClassifier) -> None:
    images, shapes = noise(3, SHAPE, seed=2), source.blocks()
    passed, rng = source.layered(tuple(shapes)), np.random.default_rng(3)
    by = rng.normal(size=(3, sum(map(width, shapes.values())))).astype(np.float32)
    direction = rng.normal(size=images.shape).astype(np.float32)
    h = np.float32(1e-3)
    high, low = (passed(images + sign * h * direction).features.astype(np.float64) for sign in (1, -1))
    slopes = ((high - low) * by).sum(axis=1) / (2 * h)
    told = (feature_gradients(source, images, shapes, by) * direction).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(told, slopes, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("make", [KerasClassifier, converted])
def test_a_layer_that_is_no_block_is_refused_with_those_that_are(make: Callable[[Any], Any], source: KerasClassifier) -> None:
    classifier = source if make is KerasClassifier else converted(source)
    for layers in ((), ("nothing",), (classifier.hidden_layer(),)):
        with pytest.raises(InvalidInput, match=r"expected layers that are one of .*, got"):
            classifier.layered(layers)


def test_a_model_without_convolutions_has_no_blocks() -> None:
    import_tensorflow(2)
    import keras

    plain = KerasClassifier(keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]))
    for classifier in (plain, converted(plain)):
        assert dict(classifier.blocks()) == {}
        with pytest.raises(InvalidInput, match="expected layers that are a model with convolutions"):
            classifier.layered(("flatten",))
    assert not isinstance(linear((4, 4, 1), 3), LayeredClassifier)
    assert isinstance(layered((4, 4, 1), 3), LayeredClassifier)


def test_blocks_of_a_model_from_before_there_was_a_use_for_them_are_looked_for(graph: OnnxClassifier) -> None:
    model = ModelProto.FromString(graph._activations._source())
    [entry] = [entry for entry in model.metadata_props if entry.key == METADATA]
    told = json.loads(entry.value)
    del told["blocks"]
    assert OnnxLayers.from_text(json.dumps(told)).blocks is None
    helper.set_model_props(model, {METADATA: json.dumps(told)})
    old = OnnxClassifier(model.SerializeToString(), labels=graph.labels, input_shape=SHAPE, threads=1)
    assert old.blocks() == graph.blocks()
    told["blocks"] = ["nothing"]
    with pytest.raises(InvalidInput, match="got nothing, which is none"):
        OnnxLayers.from_text(json.dumps(told))


def test_a_sum_of_branches_ends_the_block_of_the_last_of_them() -> None:
    rng = np.random.default_rng(0)
    from tests.converted import graph as made

    nodes = [
        helper.make_node("Transpose", ["images"], ["turned"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["turned", "kernel"], ["left"]),
        helper.make_node("Conv", ["turned", "other"], ["right"]),
        helper.make_node("Add", ["left", "right"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["rectified"]),
        helper.make_node("Flatten", ["rectified"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["classes"]),
    ]
    weights = {
        "kernel": rng.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "other": rng.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "head": rng.normal(size=(144, 3)).astype(np.float32),
    }
    assert layers_of(made(nodes, weights, images=[8, 8, 3], output="classes", classes=3)).blocks == ("left", "rectified")
