"""Small networks of three kinds, untrained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.training.reference_classifier import Build, reference_network


def _normalised(shape: tuple[int, int, int], classes: int) -> Any:
    """Convolutions with batch normalisation, and a dense layer on their averages."""
    import keras
    from keras import layers

    blocks = []
    for width, stride in ((16, 2), (32, 1), (48, 2)):
        blocks.append(layers.Conv2D(width, 3, strides=stride, padding="same", use_bias=False))
        blocks += [layers.BatchNormalization(momentum=0.9), layers.ReLU()]
    head = [layers.AveragePooling2D(2), layers.Flatten(), layers.Dense(classes, activation="softmax")]
    return keras.Sequential([keras.Input(shape), *blocks, *head])


def _strided(shape: tuple[int, int, int], classes: int) -> Any:
    """Strided convolutions and two dense layers, without pooling."""
    import keras
    from keras import layers

    return keras.Sequential(
        [
            keras.Input(shape),
            layers.Conv2D(24, 5, strides=2, padding="same", activation="relu"),
            layers.Conv2D(48, 3, strides=2, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(classes, activation="softmax"),
        ]
    )


ARCHITECTURES: Mapping[str, Build] = {
    "reference": reference_network,
    "normalised": _normalised,
    "strided": _strided,
}
