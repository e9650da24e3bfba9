"""Train the reference classifier, reproducibly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.datasets import Dataset
from models.errors import InvalidInput
from models.keras_classifier import import_tensorflow


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train: Adam with a cosine-decayed step size.

    Args:
        epochs: passes over the data.
        batch_size: images a step.
        learning_rate: the first step size.
        seed: of weights, shuffling and dropout; the same seed, data and thread count give the same weights.
    """

    epochs: int = 12
    batch_size: int = 128
    learning_rate: float = 2e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"expected {name} >= 1, got {getattr(self, name)}")


def reference_network(input_shape: tuple[int, int, int], classes: int) -> Any:
    """Two convolutions, pooled, and a dense layer of 128: 109,000 parameters on MNIST, small because STRIP calls it often."""
    import_tensorflow()
    import keras
    from keras import layers

    if min(input_shape[:2]) < 12:
        raise InvalidInput(f"expected images of at least 12 x 12 for the reference network, got {input_shape[:2]}")
    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.4),
            layers.Dense(classes, activation="softmax"),
        ]
    )


def train(
    data: Dataset,
    *,
    recipe: Recipe,
    on_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
    threads: int | None = None,
) -> Any:
    """A reference network trained on `data`.

    Returns: a Keras model. Raises: InvalidInput: fewer than two classes.
    """
    classes = int(data.labels.max()) + 1
    if classes < 2:
        raise InvalidInput("expected labels of at least 2 classes to train on, got only class 0")
    tf = import_tensorflow(threads)
    import keras

    keras.utils.set_random_seed(recipe.seed)
    tf.config.experimental.enable_op_determinism()
    h, w, c = data.images.shape[1:]
    model = reference_network((h, w, c), classes)
    steps = -(-len(data) // recipe.batch_size) * recipe.epochs
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(recipe.learning_rate, steps)),
        "sparse_categorical_crossentropy",
    )
    report = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: on_epoch(epoch + 1, float(logs["loss"])))
    model.fit(data.images, data.labels, batch_size=recipe.batch_size, epochs=recipe.epochs, verbose=0, callbacks=[report])
    return model


def save(model: Any, path: Path) -> None:
    """Write the model without its optimiser state, which a `.keras` file holds whatever `include_optimizer` says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if model.compiled:
        trained, model = model, type(model).from_config(model.get_config())
        model.set_weights(trained.get_weights())
    model.save(path)
