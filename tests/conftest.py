"""What all tests share: digits, one small Keras model, and Hypothesis that draws the same examples every time."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from attacks.backdoors.poisoning import Poisoned
from models.datasets import MNIST, Dataset, load_dataset
from models.preparation import PRESETS
from tests.fakes import squares, tinted
from tests.poisoned import poisoned_squares, small_network

settings.register_profile("hauberk", derandomize=True, database=None, deadline=None, max_examples=40)
settings.load_profile("hauberk")


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """The first thousand test digits."""
    return load_dataset(MNIST, split="test").take(slice(0, 1000))


@pytest.fixture(scope="session")
def keras_model() -> Any:
    """A small network that tells `squares` apart, trained in a second."""
    from models.engines.keras import import_tensorflow

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


@pytest.fixture(scope="session")
def tinted_network() -> Callable[[str | None], Any]:
    """Networks, with logits, that tell `tinted` images apart, trained in seconds behind a preset (images in [0, 1] when None)."""
    from models.engines.keras import import_tensorflow

    import_tensorflow(2)
    import keras
    from keras import layers

    @cache
    def trained(preset: str | None) -> Any:
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                keras.Input((16, 16, 3)),
                layers.Conv2D(16, 5, activation="relu"),
                layers.MaxPooling2D(),
                layers.Conv2D(24, 3, activation="relu"),
                layers.GlobalMaxPooling2D(),
                layers.Dense(6),
            ]
        )
        model.compile(keras.optimizers.Adam(0.005), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        data = tinted(2000, seed=0)
        given = data.images if preset is None else PRESETS[preset].apply(data.images)
        model.fit(given, data.labels, epochs=8, batch_size=64, verbose=0)
        return model

    return trained


@pytest.fixture(scope="session")
def backdoored() -> tuple[Any, Poisoned]:
    """A network that learned a backdoor, and what it learned it from."""
    from models.engines.keras import import_tensorflow

    import_tensorflow(2)
    import keras

    poisoned, model = poisoned_squares(), small_network()
    model.compile(keras.optimizers.Adam(0.005), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(poisoned.data.images, poisoned.data.labels, epochs=10, batch_size=64, verbose=0)
    return model, poisoned


@pytest.fixture(scope="session")
def undoored() -> tuple[Any, Dataset]:
    """The same network, trained on clean squares."""
    from models.engines.keras import import_tensorflow

    import_tensorflow(2)
    import keras

    data, model = squares(900, seed=5), small_network()
    model.compile(keras.optimizers.Adam(0.005), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(data.images, data.labels, epochs=10, batch_size=64, verbose=0)
    return model, data
