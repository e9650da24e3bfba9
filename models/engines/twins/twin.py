"""A differentiable twin: the same network in a format that has gradients, believed after it was compared.

A classifier that is served as ONNX or by another server has no gradients. Its twin, the model of Keras or PyTorch that it was converted
from, has them, and lends them: answers are the classifier's, gradients the twin's. A twin of other weights would make every attack weaker
than it is, so that one is refused whose answers differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.classifier import (
    ActivationClassifier,
    Activations,
    Classifier,
    ClassifierWrapper,
    DifferentiableActivations,
    DifferentiableClassifier,
    Images,
    Labels,
    LayeredClassifier,
    LayeredPass,
    Logits,
    Loss,
    LossGradient,
    Probabilities,
)
from models.engines.conversion import Agreement, compare
from models.errors import InvalidInput

COMPARED_AT_MOST = 500
"""Images on which a twin is compared."""

AGREEMENT_AT_LEAST, DIFFERENCE_AT_MOST = 0.99, 0.1
"""What a twin has to keep: the share of images with the same label, and by how much a probability may differ. Conversions differ by 1e-4
or less, weights rounded to bytes by some hundredths; two networks trained on the same data by nearly 1."""

_KEPT = 16  # images by which a layer of the twin is recognised
_SAME_LAYER = 0.02  # of the layer's largest activation


@dataclass(frozen=True, eq=False)
class Twinned(ClassifierWrapper):
    """A classifier with the gradients of its twin: a `DifferentiableClassifier`."""

    classifier: Classifier
    twin: DifferentiableClassifier

    def predict(self, images: Images) -> Probabilities:
        """The classifier's own answers."""
        return self.classifier.predict(images)

    def logits(self, images: Images) -> Logits:
        """The twin's."""
        return self.twin.logits(images)

    def loss_gradient(self, images: Images, labels: Labels, loss: Loss) -> LossGradient:
        """The twin's."""
        return self.twin.loss_gradient(images, labels, loss)

    def class_gradients(self, images: Images) -> NDArray[np.float32]:
        """The twin's."""
        return self.twin.class_gradients(images)


@dataclass(frozen=True, eq=False)
class ReadableTwinned(Twinned):
    """With the classifier's own layers, whose gradients are those of the twin's layer with the same values."""

    classifier: ActivationClassifier
    twin: DifferentiableActivations  # type: ignore[assignment]  # narrower, and never assigned
    images: Images
    """Some, by which a layer of the twin is recognised."""
    _found: dict[str, str] = field(init=False, repr=False, default_factory=dict)

    def layers(self) -> tuple[str, ...]:
        """The classifier's."""
        return self.classifier.layers()

    def hidden_layer(self) -> str:
        """The classifier's."""
        return self.classifier.hidden_layer()

    def earlier_layer(self) -> str | None:
        """The classifier's."""
        return self.classifier.earlier_layer()

    def activations(self, images: Images, layer: str | int | None = None) -> Activations:
        """The classifier's."""
        return self.classifier.activations(images, layer)

    def blocks(self) -> Mapping[str, tuple[int, int, int]]:
        """The classifier's."""
        return self.classifier.blocks() if isinstance(self.classifier, LayeredClassifier) else {}

    def layered(self, layers: tuple[str, ...]) -> LayeredPass:
        """The classifier's. Raises: InvalidInput: it shows none."""
        if not isinstance(self.classifier, LayeredClassifier):
            raise InvalidInput(
                f"expected a classifier that shows its layers while it answers, got {type(self.classifier).__name__}"
            )
        return self.classifier.layered(layers)

    def activation_gradients(self, images: Images, layer: str | int | None, by_activations: Activations) -> Images:
        """Those of the twin's layer. Raises: InvalidInput: the twin has no such layer."""
        return self.twin.activation_gradients(images, self._layer_of_the_twin(layer), by_activations)

    def _layer_of_the_twin(self, layer: str | int | None) -> str:
        name = str(self.hidden_layer() if layer is None else layer)
        if name not in self._found:
            self._found[name] = same_layer(self.classifier.activations(self.images, layer), self.twin, self.images, name)
        return self._found[name]


def twinned(classifier: Classifier, twin: DifferentiableClassifier, images: Images, *, name: str = "the twin") -> Twinned:
    """The classifier with the gradients of a twin, after the two were compared on at most 500 of the images.

    Args:
        name: of the twin, for the message.

    Raises: InvalidInput: other classes, another shape, answers that differ.
    """
    if twin.input_shape != classifier.input_shape or len(twin.labels) != len(classifier.labels):
        raise InvalidInput(
            f"expected a twin of the model, {len(classifier.labels)} classes of images {classifier.input_shape}, but {name} tells "
            f"{len(twin.labels)} classes of images {twin.input_shape} apart"
        )
    some = images[np.linspace(0, len(images) - 1, min(len(images), COMPARED_AT_MOST)).astype(np.int64)]
    found = compare(classifier, twin, some)
    if not is_close(found):
        raise InvalidInput(
            f"expected a twin that answers as the model does ({100 * AGREEMENT_AT_LEAST:g} % of the labels, probabilities within "
            f"{DIFFERENCE_AT_MOST:g}), but {name} gives {in_words(found)}; name the model that it was converted from"
        )
    if isinstance(classifier, ActivationClassifier) and isinstance(twin, DifferentiableActivations):
        return ReadableTwinned(classifier, twin, some[:_KEPT])
    return Twinned(classifier, twin)


def is_close(found: Agreement) -> bool:
    """Whether a twin is the same network. NaN is not close."""
    return found.same_labels >= AGREEMENT_AT_LEAST and found.largest_difference <= DIFFERENCE_AT_MOST


def in_words(found: Agreement) -> str:
    """The figures, for a sentence.

    >>> in_words(Agreement(500, 0.97, 0.986))
    'the same label on 98.6 % of 500 images, probabilities that differ by up to 0.97'
    """
    return (
        f"the same label on {100 * found.same_labels:.1f} % of {found.images:,} images, probabilities that differ by up to "
        f"{found.largest_difference:.2g}"
    )


def twin_of(classifier: Classifier) -> DifferentiableClassifier | None:
    """The twin that lends a classifier its gradients, where there is one."""
    return classifier.twin if isinstance(classifier, Twinned) else None


def same_layer(wanted: Activations, twin: ActivationClassifier, images: Images, name: str) -> str:
    """The layer of the twin that has these activations [n, d] on these images: formats name layers differently, their values say which.

    Args:
        name: of the layer in the other format, for the message.

    Raises: InvalidInput: none has them.
    """
    apart: dict[str, float] = {}
    for layer in twin.layers():
        found = twin.activations(images, layer)
        if found.shape == wanted.shape:
            apart[layer] = float(np.abs(found - wanted).max())
    best = min(apart, key=apart.__getitem__, default=None)
    if best is None or apart[best] > _SAME_LAYER * max(float(np.abs(wanted).max()), 1e-6):
        raise InvalidInput(
            f"expected a layer of the twin with the values of {name}, but none has them; calibrate again with another layer, or set the "
            "detector that reads it to off"
        )
    return best
