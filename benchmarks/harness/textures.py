"""Colour pictures of many classes and a network of real size that knows them, made from a seed: nothing is downloaded.

A class is a base colour with two gratings of its own colours, frequencies and directions; in a picture of it they are shifted a
little, and brightness and noise are its own. The network is Keras's MobileNetV2 with random weights. Its batch normalisation is set to
the statistics of such pictures, so that all layers pass something on, and its last layer to the nearest class mean of its own features:
answers are sure for most pictures and not for mixtures of two, as those of a trained network are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.engines.keras import KerasClassifier, import_tensorflow
from models.engines.keras_export import exported
from models.engines.onnx import OnnxClassifier

_PER_BATCH = 32
_PER_CLASS = 2  # pictures that a class mean is made of
_SHARPNESS = 3.0
_LIFT = 1.2  # of what a ReLU gets: with 0, fifty random layers make any two pictures of a class as different as those of two
_NOISE, _BRIGHTNESS, _SHIFT = 0.03, 0.04, 0.3


class Textures:
    """Pictures uint8 [n, side, side, 3] of `classes` classes."""

    def __init__(self, side: int, classes: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.side, self.classes = side, classes
        self._base = rng.uniform(0.25, 0.75, (classes, 3)).astype(np.float32)
        self._colours = rng.uniform(-0.25, 0.25, (classes, 2, 3)).astype(np.float32)
        angle, cycles = rng.uniform(0, np.pi, (classes, 2)), 2 * np.pi * rng.uniform(3, side / 8, (classes, 2)) / side
        self._waves = np.stack([cycles * np.cos(angle), cycles * np.sin(angle)], axis=-1).astype(np.float32)
        self._phases = rng.uniform(0, 2 * np.pi, (classes, 2)).astype(np.float32)
        self._places = np.indices((side, side), np.float32)

    def pictures(self, labels: NDArray[np.int64], seed: int) -> NDArray[np.uint8]:
        """One picture of each label."""
        rng = np.random.default_rng(seed)
        made = np.empty((len(labels), self.side, self.side, 3), np.uint8)
        for row, label in enumerate(labels):
            made[row] = self._picture(int(label), rng)
        return made

    def _picture(self, label: int, rng: np.random.Generator) -> NDArray[np.uint8]:
        picture = self._base[label] + np.float32(rng.uniform(-_BRIGHTNESS, _BRIGHTNESS))
        picture = picture + _NOISE * rng.standard_normal((self.side, self.side, 3), np.float32)
        phases = self._phases[label] + rng.uniform(-_SHIFT, _SHIFT, 2).astype(np.float32)
        for wave, colour, phase in zip(self._waves[label], self._colours[label], phases, strict=True):
            picture += np.sin(np.tensordot(wave, self._places, 1) + phase)[..., None] * colour
        rounded: NDArray[np.uint8] = np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
        return rounded


def network(textures: Textures, seed: int = 0, width: float = 1.0) -> Any:
    """A Keras model from images float32 [n, side, side, 3] in [0, 1] to probabilities. Cost: three forward passes a class.

    Args:
        width: of MobileNetV2's layers; 1 is the published network.
    """
    import_tensorflow()
    import keras

    keras.utils.set_random_seed(seed)
    shape = (textures.side, textures.side, 3)
    model = keras.applications.MobileNetV2(weights=None, classes=textures.classes, input_shape=shape, alpha=width)
    labels = np.repeat(np.arange(textures.classes), _PER_CLASS)
    order = np.random.default_rng(seed).permutation(len(labels))
    pictures = _scaled(textures.pictures(labels[order[:_PER_BATCH]], seed + 1))
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
            if not layer.name.endswith("project_BN"):
                layer.beta.assign(np.full(layer.beta.shape, _LIFT, np.float32))
    model(pictures, training=True)
    features = _features(keras.Model(model.inputs, model.layers[-2].output))
    seen = [
        features.predict(_scaled(textures.pictures(labels[start : start + _PER_BATCH], seed + 2 + start)))
        for start in range(0, len(labels), _PER_BATCH)
    ]
    model.layers[-1].set_weights(_nearest_mean(np.concatenate(seen), labels))
    return model


def _features(model: Any) -> OnnxClassifier:
    """The layer before the last in the engine that is fastest; its outputs stand where a classifier has probabilities."""
    source = KerasClassifier(model)
    graph = exported(source).SerializeToString()
    return OnnxClassifier(graph, labels=source.labels, input_shape=source.input_shape)


def _nearest_mean(features: NDArray[np.float32], labels: NDArray[np.int64]) -> list[NDArray[np.float32]]:
    """Weights and biases of a layer whose logits are the negative squared distances to the class means, scaled."""
    means = features.reshape(-1, _PER_CLASS, features.shape[1]).mean(axis=1)
    deviation = np.sqrt(((features - means[labels]) ** 2).mean(axis=0)) + 1e-3
    points = means / deviation
    within = ((features / deviation - points[labels]) ** 2).sum(axis=1).mean()
    scale = _SHARPNESS / within
    return [(scale * points / deviation).T.astype(np.float32), (-scale * (points**2).sum(axis=1) / 2).astype(np.float32)]


def _scaled(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    return pictures.astype(np.float32) / np.float32(255)
