"""The classifier protocols that every layer shares, and their array types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.float32]
"""float32 [n, h, w, c] in [0, 1]."""

Probabilities = NDArray[np.float32]
"""float32 [n, k], rows non-negative; a row sums to 1, or to 0 where a defended classifier refused the image."""

_CHANNELS = (1, 3, 4)


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


def has_channels_first(shape: tuple[int | None, ...]) -> bool:
    """Whether an image's shape is (c, h, w) rather than (h, w, c): one, three or four rows of much more are no picture."""
    if len(shape) != 3 or shape[0] not in _CHANNELS:
        return False
    return all(size is None or size > max(_CHANNELS) for size in shape[1:])


class ClassifierWrapper:
    """A base for classifiers that wrap another one: input shape and labels are those of `classifier`."""

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
    """The result of a forward and a backward pass: loss [n], logits [n, k], gradient of the loss by the image [n, h, w, c]."""

    loss: NDArray[np.float32]
    logits: Logits
    gradient: Images


@runtime_checkable
class DifferentiableClassifier(Classifier, Protocol):
    """A classifier with logits and gradients, as gradient attacks need them; `predict` is the softmax of `logits`."""

    def logits(self, images: Images) -> Logits:
        """Logits [n, k] of images float32 [n, h, w, c] in [0, 1]; one model call per image."""
        ...

    def loss_gradient(self, images: Images, labels: Labels, loss: Loss) -> LossGradient:
        """The loss of every image for its label, and its gradient by the image; a forward and a backward pass per image."""
        ...

    def class_gradients(self, images: Images) -> NDArray[np.float32]:
        """The gradients of all logits by the image, [n, k, h, w, c]; a forward and k backward passes per image."""
        ...


Activations = NDArray[np.float32]
"""float32 [n, d], outputs of a layer inside the classifier, flattened."""


@runtime_checkable
class ActivationClassifier(Classifier, Protocol):
    """A classifier with readable layers, as activation clustering and activation detectors need them."""

    def layers(self) -> tuple[str, ...]:
        """The names of the readable layers, in order of computation."""
        ...

    def hidden_layer(self) -> str:
        """The name of the last hidden layer, the input of the classification head; `activations` reads it by default."""
        ...

    def earlier_layer(self) -> str | None:
        """The name of the last feature map [h, w, c] before the hidden layer, or None: more spatial detail, less about the label."""
        ...

    def activations(self, images: Images, layer: str | int | None = None) -> Activations:
        """Activations [n, d] of a layer, by name or position in `layers`; at most a forward pass per image.

        Raises: InvalidInput: no such layer; the message lists the existing ones.
        """
        ...


@runtime_checkable
class DifferentiableActivations(ActivationClassifier, Protocol):
    """A classifier with readable and differentiable layers, as attacks on activation detectors need them."""

    def activation_gradients(self, images: Images, layer: str | int | None, by_activations: Activations) -> Images:
        """Backpropagate a gradient by a layer's activations [n, d] to one by the images [n, h, w, c]."""
        ...


Features = NDArray[np.float32]
"""float32 [n, d], feature maps of several layers side by side, each averaged over squares and flattened with its channels last."""


class LayeredAnswers(NamedTuple):
    """What one forward pass says: probabilities [n, k], and the features [n, d] of some layers on the way to them."""

    probabilities: Probabilities
    features: Features


LayeredPass = Callable[[Images], LayeredAnswers]
"""Images float32 [n, h, w, c] in [0, 1] -> answers and features; one model call per image."""


@runtime_checkable
class LayeredClassifier(ActivationClassifier, Protocol):
    """A classifier that shows features of its layers in the pass that answers, as detectors of disagreement between layers need them."""

    def blocks(self) -> Mapping[str, tuple[int, int, int]]:
        """The outputs of its convolution blocks, in order of computation: names that are in `layers`, and (h, w, c) of their maps.

        A block is a convolution and what follows it up to the next: normalisation, activation function, pooling.
        """
        ...

    def layered(self, layers: tuple[str, ...]) -> LayeredPass:
        """The forward pass with the features of these of its `blocks`, whose averages `models.engines.reading.features` defines.

        Raises: InvalidInput: no such block, none at all.
        """
        ...
