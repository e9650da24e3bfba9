"""Small networks of three kinds, untrained, and their training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.datasets import Dataset
from models.engines.keras import KerasClassifier, import_tensorflow
from models.training.reference_classifier import Build, Recipe, reference_network

CLASSES = 10


def trained_from_scratch(build: Build, data: Dataset, recipe: Recipe, *, threads: int) -> KerasClassifier:
    """A network of ten classes on these images, by a recipe with a cosine-decayed step size."""
    tf = import_tensorflow(threads)
    import keras

    keras.utils.set_random_seed(recipe.seed)
    tf.config.experimental.enable_op_determinism()
    h, w, c = data.images.shape[1:]
    model = build((h, w, c), CLASSES)
    steps = -(-len(data) // recipe.batch_size) * recipe.epochs
    schedule = keras.optimizers.schedules.CosineDecay(recipe.learning_rate, steps)
    model.compile(recipe.build_optimiser(schedule), "sparse_categorical_crossentropy")
    model.fit(data.images, data.labels, batch_size=recipe.batch_size, epochs=recipe.epochs, verbose=0)
    return KerasClassifier(model)


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
