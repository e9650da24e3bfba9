"""Classifiers without a framework, and synthetic data that is cheap to make in any amount."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.classifier import Images, Probabilities
from models.datasets import Dataset

Shape = tuple[int, int, int]


def softmax(logits: NDArray[np.float64]) -> Probabilities:
    """Rows that sum to one, float32."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    rows: Probabilities = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return rows


@dataclass
class FakeClassifier:
    """A classifier whose answer is a function of the images; it remembers how many rows each call had."""

    answer: Callable[[Images], Probabilities]
    input_shape: Shape
    classes: int
    calls: list[int] = field(default_factory=list)

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(map(str, range(self.classes)))

    def predict(self, images: Images) -> Probabilities:
        self.calls.append(len(images))
        return self.answer(images)


def linear(input_shape: Shape, classes: int, *, seed: int = 0, sharpness: float = 4.0) -> FakeClassifier:
    """Softmax of random projections: every image has a class of its own, and overlays change it."""
    weights = np.random.default_rng(seed).normal(size=(int(np.prod(input_shape)), classes)) * sharpness

    def answer(images: Images) -> Probabilities:
        # Row by row: a matrix product may round a row differently in another batch.
        centred = images.reshape(len(images), -1).astype(np.float64) - 0.5
        return softmax(np.einsum("nd,dk->nk", centred, weights))

    return FakeClassifier(answer, input_shape, classes)


def constant(row: list[float], input_shape: Shape) -> FakeClassifier:
    """The perfect backdoor: nothing changes its mind."""
    return FakeClassifier(lambda images: np.tile(np.array(row, np.float32), (len(images), 1)), input_shape, len(row))


def noise(n: int, shape: Shape, seed: int) -> Images:
    """Images of uniform noise."""
    return np.random.default_rng(seed).random((n, *shape), dtype=np.float32)


def squares(n: int, *, seed: int, size: int = 16) -> Dataset:
    """Colour images of three classes: a red, a green or a blue square somewhere on a dark noisy ground."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    images = rng.random((n, size, size, 3)) * 0.2
    for image, label, (row, column) in zip(images, labels, rng.integers(0, size - 5, (n, 2)), strict=True):
        image[row : row + 5, column : column + 5, label] += 0.7
    return Dataset(images.astype(np.float32), labels)
