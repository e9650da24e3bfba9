"""Reference classifiers: their networks, and reproducible training from a recipe."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from models.datasets import Dataset
from models.engines.keras import import_tensorflow
from models.errors import InvalidInput

Build = Callable[[tuple[int, int, int], int], Any]
"""(input shape, classes) -> a Keras model, untrained, that ends in a softmax."""

Optimiser = Literal["adam", "momentum", "sgd"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train a network; by default with Adam and a cosine-decayed step size.

    Args:
        epochs: passes over the data, >= 1.
        batch_size: images per step, >= 1.
        learning_rate: the first step size, > 0.
        seed: of weights, shuffling and dropout; the same seed, data and thread count give the same weights.
        optimiser: "adam", "momentum" (SGD with momentum .9) or "sgd" (without).
        decay: "cosine" to zero, or "none".
        steps_at_least: smallest number of steps, >= 0; small data sets are passed over more often to reach it.

    Raises: InvalidInput on construction.
    """

    epochs: int = 12
    batch_size: int = 128
    learning_rate: float = 2e-3
    seed: int = 0
    optimiser: Optimiser = "adam"
    decay: Literal["cosine", "none"] = "cosine"
    steps_at_least: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("steps_at_least", 0)):
            if getattr(self, name) < least:
                raise InvalidInput(f"expected {name} >= {least}, got {getattr(self, name)}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InvalidInput(f"expected learning_rate > 0, got {self.learning_rate}")
        for name, known in (("optimiser", get_args(Optimiser)), ("decay", ("cosine", "none"))):
            if getattr(self, name) not in known:
                raise InvalidInput(f"expected {name} of {', '.join(known)}, got {getattr(self, name)!r}")

    def passes(self, samples: int) -> int:
        """The number of passes over this many samples, `steps_at_least` considered."""
        return max(self.epochs, -(-self.steps_at_least // -(-samples // self.batch_size)))

    def build_optimiser(self, step_size: Any) -> Any:
        """The Keras optimiser, with a number or a schedule as its step size."""
        import keras

        if self.optimiser == "adam":
            return keras.optimizers.Adam(step_size)
        return keras.optimizers.SGD(step_size, momentum=0.9 if self.optimiser == "momentum" else 0.0)


def reference_network(input_shape: tuple[int, int, int], classes: int) -> Any:
    """An untrained network of two pooled convolutions and a dense layer of 128: 109,000 parameters on MNIST.

    It is small because STRIP makes many model calls. Raises: InvalidInput: images under 12 x 12.
    """
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


def robust_network(input_shape: tuple[int, int, int], classes: int, eps: float) -> Any:
    """An untrained network for adversarial training under L-inf `eps` in [0, 1]: a fixed thresholding of pixels, two strided
    convolutions, a dense layer of 128.

        level(x) = clip((x - low) / (1 - 2 low), 0, 1) + x / 50,   low = 4/3 eps, at most .45

    Adversarially trained networks on digits learn a similar thresholding in their first layer (Madry et al. 2017, arXiv:1706.06083,
    appendix C): pixels within `eps` of either end of the range stay near that end under attack, which leaves the attacker those in
    between. At small `eps` it is close to the identity. Its slope is nowhere 0 (x / 50), so that it masks no gradients.
    """
    import_tensorflow()
    import keras
    from keras import layers

    channels = input_shape[2]
    model = keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Conv2D(3 * channels, 1, activation="relu", trainable=False, name="ramps"),
            layers.Conv2D(channels, 1, use_bias=False, trainable=False, name="level"),
            layers.Conv2D(24, 4, strides=2, padding="same", activation="relu"),
            layers.Conv2D(48, 4, strides=2, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(classes, activation="softmax"),
        ]
    )
    low = min(4 / 3 * eps, 0.45)
    slope = 1 / (1 - 2 * low)
    each = np.eye(channels, dtype=np.float32)
    # relu(slope (x - low)) - relu(slope (x - high)) + relu(x) / 50
    ramps = np.concatenate([slope * each, slope * each, each], axis=1)
    starts = np.repeat(np.array([-slope * low, -slope * (1 - low), 0], np.float32), channels)
    model.get_layer("ramps").set_weights([ramps[None, None], starts])
    model.get_layer("level").set_weights([np.concatenate([each, -each, each / 50])[None, None]])
    return model


def untrained(data: Dataset, *, seed: int, build: Build = reference_network, threads: int | None = None) -> Any:
    """A network for these images and classes, as training starts from it.

    Args:
        seed: of the weights.
        build: what makes the network.
        threads: TensorFlow's threads, if it has not been started yet.

    Returns: a Keras model. Raises: InvalidInput: fewer than two classes.
    """
    classes = int(data.labels.max()) + 1
    if classes < 2:
        raise InvalidInput("expected labels of at least 2 classes to train on, got only class 0")
    tf = import_tensorflow(threads)
    import keras

    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    h, w, c = data.images.shape[1:]
    return build((h, w, c), classes)


def train(
    data: Dataset,
    *,
    recipe: Recipe,
    build: Build = reference_network,
    on_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
    threads: int | None = None,
) -> Any:
    """Train a network on `data`.

    Args:
        build: what makes the network; the reference network when not given.
        on_epoch: called with (epoch, loss).
        threads: TensorFlow's threads, if it has not been started yet.

    Returns: a Keras model. Raises: InvalidInput: fewer than two classes.
    """
    model = untrained(data, seed=recipe.seed, build=build, threads=threads)
    import keras

    passes = recipe.passes(len(data))
    steps = -(-len(data) // recipe.batch_size) * passes
    schedule = keras.optimizers.schedules.CosineDecay(recipe.learning_rate, steps)
    model.compile(
        recipe.build_optimiser(schedule if recipe.decay == "cosine" else recipe.learning_rate), "sparse_categorical_crossentropy"
    )
    report = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: on_epoch(epoch + 1, float(logs["loss"])))
    model.fit(data.images, data.labels, batch_size=recipe.batch_size, epochs=passes, verbose=0, callbacks=[report])
    return model


def save(model: Any, path: Path) -> None:
    """Write a Keras model to a `.keras` file without its optimiser state, which `include_optimizer=False` does not omit."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if model.compiled:
        trained, model = model, type(model).from_config(model.get_config())
        model.set_weights(trained.get_weights())
    model.save(path)
