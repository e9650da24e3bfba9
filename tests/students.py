"""Networks and recipes with which a copy of a small victim is trained in a moment."""

from __future__ import annotations

from typing import Any

from models.engines.keras import import_tensorflow
from models.training.reference_classifier import Recipe

QUICK = Recipe(epochs=6, batch_size=32, learning_rate=0.02)
"""Enough to tell `squares` apart with `small`."""


def small(input_shape: tuple[int, int, int], classes: int) -> Any:
    """One convolution, the maximum of each channel, a softmax."""
    import_tensorflow(2)
    import keras
    from keras import layers

    head = [layers.Conv2D(8, 5, activation="relu"), layers.GlobalMaxPooling2D(), layers.Dense(classes, activation="softmax")]
    return keras.Sequential([keras.Input(input_shape), *head])


def logistic(input_shape: tuple[int, int, int], classes: int) -> Any:
    """Softmax of a linear map: what a linear victim is."""
    import_tensorflow(2)
    import keras
    from keras import layers

    return keras.Sequential([keras.Input(input_shape), layers.Flatten(), layers.Dense(classes, activation="softmax")])


def forgetful(input_shape: tuple[int, int, int], classes: int) -> Any:
    """`small` with everything that a training step can get wrong: dropout, batch statistics, a penalty on weights."""
    import_tensorflow(2)
    import keras
    from keras import layers

    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Conv2D(8, 5, activation="relu", kernel_regularizer=keras.regularizers.L2(0.5)),
            layers.BatchNormalization(),
            layers.GlobalMaxPooling2D(),
            layers.Dropout(0.5),
            layers.Dense(classes, activation="softmax"),
        ]
    )
