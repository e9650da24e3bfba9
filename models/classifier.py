"""What every layer means by a classifier."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.float32]
"""float32 [n, h, w, c] in [0, 1]."""

Probabilities = NDArray[np.float32]
"""float32 [n, k], rows non-negative; they sum to one, or to zero for a row a defended classifier refused."""


@runtime_checkable
class Classifier(Protocol):
    """A function from images to class probabilities.

    Attributes:
        input_shape: (h, w, c) of one image.
        labels: the k class names, in the order of the columns `predict` returns.
    """

    @property
    def input_shape(self) -> tuple[int, int, int]: ...

    @property
    def labels(self) -> tuple[str, ...]: ...

    def predict(self, images: Images) -> Probabilities:
        """Class probabilities [n, k] of images float32 [n, h, w, c] in [0, 1]; one model call per image."""
        ...


class ClassifierWrapper:
    """What a classifier around another one has of it: the shape of its images and its labels."""

    classifier: Classifier

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return self.classifier.input_shape

    @property
    def labels(self) -> tuple[str, ...]:
        return self.classifier.labels


Labels = NDArray[np.int64]
"""int64 [n], class indices."""

Logits = NDArray[np.float32]
"""float32 [n, k]; softmax of a row is its probabilities."""

Loss = Callable[[Logits, Labels], tuple[NDArray[np.float32], Logits]]
"""Logits [n, k] and one class per row -> the loss of every row [n] and its derivative by the logits [n, k], row by row."""


class LossGradient(NamedTuple):
    """What one forward and one backward pass give: loss [n], logits [n, k], and the loss's gradient by the image [n, h, w, c]."""

    loss: NDArray[np.float32]
    logits: Logits
    gradient: Images


@runtime_checkable
class DifferentiableClassifier(Classifier, Protocol):
    """A classifier whose inside is at hand: what gradient attacks need. Softmax of `logits` is what `predict` returns."""

    def logits(self, images: Images) -> Logits:
        """Logits [n, k] of images float32 [n, h, w, c]; one model call per image."""
        ...

    def loss_gradient(self, images: Images, labels: Labels, loss: Loss) -> LossGradient:
        """The loss of every row for its label and the loss's gradient by the image; a forward and a backward pass per image."""
        ...

    def class_gradients(self, images: Images) -> NDArray[np.float32]:
        """The gradients of all logits by the image, [n, k, h, w, c]; a forward and k backward passes per image."""
        ...


Activations = NDArray[np.float32]
"""float32 [n, d], what a layer inside the classifier computes, flattened."""


@runtime_checkable
class ActivationClassifier(Classifier, Protocol):
    """A classifier whose layers can be read: what defences that look at how it decides need."""

    def layers(self) -> tuple[str, ...]:
        """The names of the layers that can be read, in the order they are computed."""
        ...

    def hidden_layer(self) -> str:
        """The name of the last hidden layer, what the classification head is given; `activations` reads it by default."""
        ...

    def earlier_layer(self) -> str | None:
        """The name of the last feature map before it, which knows where things are and less of the label; none where there is none."""
        ...

    def activations(self, images: Images, layer: str | int | None = None) -> Activations:
        """Activations [n, d] of a layer, by name or position in `layers`; at most a forward pass per image.

        Raises: InvalidInput: no such layer; the message lists those that exist.
        """
        ...


@runtime_checkable
class DifferentiableActivations(ActivationClassifier, Protocol):
    """A classifier whose layers can be read and differentiated: what the attacker of such a defence needs."""

    def activation_gradients(self, images: Images, layer: str | int | None, by_activations: Activations) -> Images:
        """The gradient by the image of a function of a layer's activations, whose gradient by these [n, d] is given."""
        ...
