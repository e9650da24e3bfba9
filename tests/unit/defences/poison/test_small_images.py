"""Small images, clean and poisoned: no natural kind of a class is called poison, and a trigger still is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attacks.backdoors.poisoning import AllToOne, poison
from attacks.backdoors.triggers import ImagePatch
from defences.poison.activation_clustering import ActivationClustering
from defences.poison.findings import Findings, PoisonDetector, TrainingSet
from defences.poison.spectral_signatures import SpectralSignatures
from defences.poison.statistical_contamination_analyzer import StatisticalContaminationAnalyzer
from models.classifier import Images
from models.datasets import MNIST, Dataset, load_dataset
from models.engines.keras import KerasClassifier


def resized(images: Images, side: int, how: Image.Resampling) -> Images:
    """Grey images [n, h, w] in [0, 1] at another size."""
    pictures = (Image.fromarray(np.rint(image * 255).astype(np.uint8)).resize((side, side), how) for image in images)
    return np.stack([np.asarray(picture, np.float32) for picture in pictures])[..., None] / np.float32(255)


def scikit_digits(side: int, seed: int) -> Dataset:
    """Enlarged; 27 of its ones are written in a way of their own, which clusters find."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return Dataset(resized(digits.images / 16, side, Image.Resampling.BILINEAR), digits.target.astype(np.int64))


def mnist(side: int, seed: int) -> Dataset:
    data = load_dataset(MNIST)
    rows = np.random.default_rng(seed).permutation(len(data))[:2500]
    return Dataset(resized(data.images[rows][..., 0], side, Image.Resampling.BOX), data.labels[rows])


def blobs(side: int, seed: int) -> Dataset:
    """One bright spot, whose quarter of the image is the class: a patch covers all of it."""
    rng = np.random.default_rng(seed)
    labels, grid = rng.integers(0, 4, 1500), np.arange(side) + 0.5
    rows, columns = (np.where(quarter, 0.7, 0.3) * side + rng.normal(0, side / 16, 1500) for quarter in (labels // 2, labels % 2))
    away = (grid[None, :, None] - rows[:, None, None]) ** 2 + (grid[None, None] - columns[:, None, None]) ** 2
    images = np.exp(-away / (2 * (side / 8) ** 2)) + rng.random(away.shape) * 0.2
    return Dataset(np.clip(images, 0, 1)[..., None].astype(np.float32), labels)


def stripes(side: int, seed: int) -> Dataset:
    """Waves of four directions, the classes."""
    rng = np.random.default_rng(seed)
    labels, grid = rng.integers(0, 4, 1500), np.arange(side)
    angle, frequency, phase = labels * np.pi / 4, rng.uniform(1.2, 1.9, 1500), rng.uniform(0, 6.28, 1500)
    along = np.cos(angle)[:, None, None] * grid[None, None] + np.sin(angle)[:, None, None] * grid[None, :, None]
    images = 0.5 + 0.4 * np.sin(frequency[:, None, None] * along + phase[:, None, None])
    return Dataset(np.clip(images + rng.normal(0, 0.08, images.shape), 0, 1)[..., None].astype(np.float32), labels)


def scanned(data: Dataset, seed: int) -> list[Findings]:
    """The findings of all detectors, with a network trained on the data."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(seed)
    hidden = [layers.Dense(64, activation="relu"), layers.Dense(32, activation="relu")]
    head = layers.Dense(int(data.labels.max()) + 1, activation="softmax")
    model = keras.Sequential([keras.Input(data.images.shape[1:]), layers.Flatten(), *hidden, head])
    model.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy")
    model.fit(data.images, data.labels, epochs=12, batch_size=64, verbose=0)
    training = TrainingSet.of(KerasClassifier(model), data)
    detectors: tuple[PoisonDetector, ...] = (
        ActivationClustering(seed=seed),
        SpectralSignatures(seed=seed),
        StatisticalContaminationAnalyzer(seed=seed),
    )
    return [detector.detect(training) for detector in detectors]


CLEAN: dict[str, tuple[Callable[[int, int], Dataset], int, int]] = {
    "scikit-learn's digits, seed 0": (scikit_digits, 12, 0),
    "scikit-learn's digits, seed 1": (scikit_digits, 12, 1),
    "scikit-learn's digits, larger": (scikit_digits, 16, 2),
    "MNIST": (mnist, 14, 0),
    "blobs": (blobs, 12, 0),
    "stripes": (stripes, 12, 0),
}


@pytest.mark.parametrize("what", CLEAN)
def test_clean_small_images_are_not_called_poisoned(keras_model: Any, what: str) -> None:
    make, side, seed = CLEAN[what]
    for found in scanned(make(side, seed), seed):
        assert [(one.name, one.reason) for one in found.classes if one.verdict == "poison"] == []
        assert found.is_clean.all()


def test_a_trigger_in_small_images_is_found(keras_model: Any) -> None:
    patch = np.ones((2, 2, 1), np.float32)
    patch[0, 1] = 0
    poisoned = poison(mnist(14, 0), ImagePatch(patch=patch, row=-1, column=-1), AllToOne(1), rate=0.05, seed=0)
    for found in scanned(poisoned.data, 0)[:2]:  # the trigger is a patch, and what the third finds of it is no promise
        judged = found.judged(poisoned.is_clean, poisoned.data.labels)
        assert [one.label for one in judged.classes if one.verdict == "poison"] == [1]
        assert judged.confusion is not None
        assert (judged.confusion.tpr or 0) > 0.8
        assert (judged.confusion.fpr or 0) < 0.02
