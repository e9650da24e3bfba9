"""Classifiers without a framework, and synthetic data that is cheap to make in any amount."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from attacks.attack import BudgetSpent
from models.classifier import ClassifierWrapper, Images, LayeredAnswers, Loss, LossGradient, Probabilities
from models.datasets import Dataset
from models.engines.reading.features import chosen, features_of

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
        centred = images.reshape(len(images), len(weights)).astype(np.float64) - 0.5
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


_TINTS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]], np.float64)


def tinted(n: int, *, seed: int, size: int = 16) -> Dataset:
    """Colour images of six classes: a square somewhere, a little redder, greener, bluer ... than its ground, whose colour varies more.

    A wrong range, other statistics and exchanged channels each cost a network some of its accuracy, none of them all.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(_TINTS), n)
    images = rng.uniform(0.15, 0.55, (n, 1, 1, 3)) + rng.normal(0, 0.08, (n, size, size, 3))
    for image, label, (row, column) in zip(images, labels, rng.integers(0, size - 5, (n, 2)), strict=True):
        image[row : row + 5, column : column + 5] += 0.2 * _TINTS[label] + 0.08
    return Dataset(np.clip(images, 0, 1).astype(np.float32), labels)


@dataclass
class LinearClassifier:
    """Softmax of weights [d, k] and bias [k]: everything about it, the distance to its boundary included, has a closed form."""

    weights: NDArray[np.float64]
    bias: NDArray[np.float64]
    input_shape: Shape
    calls: int = 0

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(map(str, range(self.weights.shape[1])))

    def predict(self, images: Images) -> Probabilities:
        return softmax(self.logits(images).astype(np.float64))

    def logits(self, images: Images) -> NDArray[np.float32]:
        self.calls += len(images)
        flat = images.reshape(len(images), len(self.weights)).astype(np.float64)
        logits: NDArray[np.float32] = (np.einsum("nd,dk->nk", flat, self.weights) + self.bias).astype(np.float32)
        return logits

    def loss_gradient(self, images: Images, labels: NDArray[np.int64], loss: Loss) -> LossGradient:
        logits = self.logits(images)
        values, derivative = loss(logits, labels)
        gradient = derivative.astype(np.float64) @ self.weights.T
        return LossGradient(values, logits, gradient.astype(np.float32).reshape(images.shape))

    def class_gradients(self, images: Images) -> NDArray[np.float32]:
        self.calls += len(images)
        one = self.weights.T.reshape(1, -1, *self.input_shape)
        return np.repeat(one, len(images), axis=0).astype(np.float32)


@dataclass
class ReadableClassifier(LinearClassifier):
    """With a layer to read, `hidden`: what tanh makes of half the logits, whose slope has a closed form too."""

    def layers(self) -> tuple[str, ...]:
        return ("hidden",)

    def hidden_layer(self) -> str:
        return "hidden"

    def earlier_layer(self) -> str | None:
        return None

    def activations(self, images: Images, layer: str | int | None = None) -> NDArray[np.float32]:
        return np.tanh(self.logits(images) / 2)

    def activation_gradients(self, images: Images, layer: str | int | None, by_activations: NDArray[np.float32]) -> Images:
        slopes = by_activations * (1 - self.activations(images) ** 2) / 2
        return (slopes.astype(np.float64) @ self.weights.T).astype(np.float32).reshape(images.shape)


@dataclass
class LayeredClassifier(ReadableClassifier):
    """With two blocks to see while it answers: `early`, the image itself, and `late`, the hidden layer as a map of one pixel.

    `seen` has how many rows each call had.
    """

    seen: list[int] = field(default_factory=list)

    def layers(self) -> tuple[str, ...]:
        return ("early", "late", "hidden")

    def activations(self, images: Images, layer: str | int | None = None) -> NDArray[np.float32]:
        return images.reshape(len(images), -1) if layer == "early" else super().activations(images, layer)

    def activation_gradients(self, images: Images, layer: str | int | None, by_activations: NDArray[np.float32]) -> Images:
        if layer == "early":
            return by_activations.reshape(images.shape)
        return super().activation_gradients(images, layer, by_activations)

    def blocks(self) -> dict[str, Shape]:
        return {"early": self.input_shape, "late": (1, 1, self.weights.shape[1])}

    def layered(self, layers: tuple[str, ...]) -> Callable[[Images], LayeredAnswers]:
        shapes = chosen(self.blocks(), layers)

        def answer(images: Images) -> LayeredAnswers:
            self.seen.append(len(images))
            features = [features_of(self.activations(images, layer), shape) for layer, shape in shapes.items()]
            return LayeredAnswers(self.predict(images), np.concatenate(features, axis=1))

        return answer


def layered(input_shape: Shape, classes: int, *, seed: int = 0) -> LayeredClassifier:
    """As `linear_with_gradients`."""
    plain = linear_with_gradients(input_shape, classes, seed=seed)
    return LayeredClassifier(plain.weights, plain.bias, input_shape)


def readable(input_shape: Shape, classes: int, *, seed: int = 0) -> ReadableClassifier:
    """As `linear_with_gradients`."""
    plain = linear_with_gradients(input_shape, classes, seed=seed)
    return ReadableClassifier(plain.weights, plain.bias, input_shape)


def linear_with_gradients(input_shape: Shape, classes: int, *, seed: int = 0) -> LinearClassifier:
    """Random weights; an image of all 0.5 is on no class's side."""
    weights = np.random.default_rng(seed).normal(size=(int(np.prod(input_shape)), classes))
    return LinearClassifier(weights, -weights.sum(axis=0) / 2, input_shape)


@dataclass
class Metered(ClassifierWrapper):
    """A classifier that answers so many images and no more, as one behind a budget does."""

    classifier: LinearClassifier
    budget: int
    spent: int = 0

    def predict(self, images: Images) -> Probabilities:
        some = images[: self.budget - self.spent]
        self.spent += len(some)
        answers = self.classifier.predict(some) if len(some) else np.empty((0, len(self.labels)), np.float32)
        if len(some) < len(images):
            raise BudgetSpent("no more", answers)
        return answers


@dataclass
class Touchy(ClassifierWrapper):
    """A classifier that refuses a share of what it is asked, by the image alone: half of it when not given."""

    classifier: LinearClassifier
    share: float = 0.5

    def predict(self, images: Images) -> Probabilities:
        answers = self.classifier.predict(images)
        turns = images.sum(axis=(1, 2, 3), dtype=np.float64) * 1e3 % 1
        answers[turns < self.share] = 0
        return answers
