"""hauberk train --adversarial on a network whose gradients vanish."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.fakes import squares
from tests.unit.hauberk.conftest import Command


def test_training_says_that_its_robust_accuracy_proves_nothing(
    keras_model: Any, hauberk: Command, clean_data: Path, tmp_path: Path
) -> None:
    import keras
    from keras import layers

    steps = layers.Conv2D(3, 1, trainable=False)
    model = keras.Sequential(
        [keras.Input((16, 16, 3)), steps, layers.ReLU(max_value=1.0), layers.Flatten(), layers.Dense(3, activation="softmax")]
    )
    steps.set_weights([1e5 * np.eye(3, dtype=np.float32)[None, None], np.full(3, -4e4, np.float32)])
    model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
    data = squares(600, seed=10)
    model.fit(data.images, data.labels, epochs=5, verbose=0)
    model.save(tmp_path / "steps.keras")
    ran = hauberk(
        *("train", "--data", clean_data, "--out", tmp_path / "out.keras", "--adversarial", "fgm", "--eps", "0.02"),
        *("--classifier", tmp_path / "steps.keras", "--epochs", "1", "--no-purified"),
    )
    assert ran.code == 0, ran.errors
    assert "the figures under attack prove nothing: the gradient of the loss is zero on" in ran.errors
