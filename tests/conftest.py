"""What all tests share: digits, one small Keras model, and Hypothesis that draws the same examples every time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from models.datasets import MNIST, Dataset, load_dataset
from tests.fakes import squares

settings.register_profile("hauberk", derandomize=True, database=None, deadline=None, max_examples=40)
settings.load_profile("hauberk")


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """The first thousand test digits."""
    return load_dataset(MNIST, split="test").take(slice(0, 1000))


@pytest.fixture(scope="session")
def keras_model() -> Any:
    """A small network that tells `squares` apart, trained in a second."""
    from models.keras_classifier import import_tensorflow

    import_tensorflow(2)
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Conv2D(8, 5, activation="relu"),
            layers.GlobalMaxPooling2D(),
            layers.Dense(3, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy")
    data = squares(600, seed=0)
    model.fit(data.images, data.labels, epochs=6, batch_size=32, verbose=0)
    return model


@pytest.fixture(scope="session")
def keras_file(keras_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network as a file."""
    path = tmp_path_factory.mktemp("keras") / "squares.keras"
    keras_model.save(path)
    return path
