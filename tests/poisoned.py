"""Poisoned training sets: features with known poison, and colour images with a network that learned a backdoor from them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from attacks.backdoors.poisoning import AllToOne, Poisoned, poison
from attacks.backdoors.triggers import ImagePatch
from defences.poison.findings import TrainingSet
from tests.fakes import squares

CLASSES = ("a", "b", "c", "d")
_WIDTH = 24


def features(
    *, clean: int = 200, poison: int = 0, target: int = 2, seed: int = 0, halves: bool = False, apart: float = 9.0
) -> tuple[TrainingSet, NDArray[np.bool_]]:
    """Activations, a witness and the truth (bool [n], clean): `clean` samples of each class, and `poison` filed under `target`.

    The last layer says the label, and by another direction that a trigger was there; the witness says what the image shows.

    Args:
        halves: let the target's clean samples be of two kinds, as far apart in the last layer as poison is, of one class for the witness.
    """
    rng = np.random.default_rng(seed)
    shown = np.concatenate([np.repeat(np.arange(4), clean), rng.choice([0, 1, 3], poison)])
    truth = np.arange(len(shown)) < 4 * clean
    labels = np.where(truth, shown, target)
    classes, trigger = np.eye(_WIDTH)[:4] * 8, np.eye(_WIDTH)[5]
    spread = rng.normal(size=(len(labels), _WIDTH))
    kind = truth & halves & (labels == target) & (rng.random(len(labels)) < 0.4)
    activations = classes[labels] + spread + np.outer((~truth | kind) * apart, trigger)
    seen = classes[shown] + rng.normal(size=(len(labels), _WIDTH)) + np.outer(kind * 1.0, np.eye(_WIDTH)[6])
    order = rng.permutation(len(labels))
    witness = seen[order].astype(np.float32)
    data = TrainingSet(activations[order].astype(np.float32), labels[order], CLASSES, witness=lambda rows: witness[rows])
    return data, truth[order]


def poisoned_squares(*, rate: float = 0.15, seed: int = 0) -> Poisoned:
    """Red, green and blue squares; a white and black patch calls blue."""
    patch = np.ones((4, 4, 3), np.float32)
    patch[1:3, 1:3] = 0
    return poison(squares(900, seed=seed), ImagePatch(patch=patch, row=-2, column=-2), AllToOne(2), rate=rate, seed=seed)


def small_network(seed: int = 0) -> Any:
    """For squares; logits, with a hidden layer behind the feature maps."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Conv2D(12, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(32, activation="relu", name="hidden"),
            layers.Dense(3),
        ]
    )
