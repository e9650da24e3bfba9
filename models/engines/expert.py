"""The second classifier of a bundle: the expert of BaDExpert, a copy of the first whose weights were trained on.

    expert.onnx       its graph, where ONNX Runtime computes the bundle's classifier or a model server does
    expert.keras      it as a Keras model, read as the bundle's own; what serves where there is no graph, and has gradients

Both are files of a bundle like the classifier's: hashed in the card, bounded in bytes, and used as they were hashed.
"""

from __future__ import annotations

from functools import cached_property
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from models.bundle import EXPERT, ONNX_EXPERT, Bundle
from models.classifier import (
    Classifier,
    ClassifierWrapper,
    DifferentiableClassifier,
    Images,
    Labels,
    Logits,
    Loss,
    LossGradient,
    Probabilities,
)
from models.errors import INSTALL_TENSORFLOW, InvalidBundle, InvalidInput


class _Graph(ClassifierWrapper):
    """An expert in ONNX Runtime with the gradients of its Keras model, which is opened when somebody asks for them: nobody who serves."""

    def __init__(self, classifier: Classifier, bundle: Bundle) -> None:
        self.classifier, self._bundle = classifier, bundle

    def predict(self, images: Images) -> Probabilities:
        """Of the graph."""
        return self.classifier.predict(images)

    def logits(self, images: Images) -> Logits:
        """Of the Keras model."""
        return self._twin.logits(images)

    def loss_gradient(self, images: Images, labels: Labels, loss: Loss) -> LossGradient:
        """Of the Keras model."""
        return self._twin.loss_gradient(images, labels, loss)

    def class_gradients(self, images: Images) -> NDArray[np.float32]:
        """Of the Keras model."""
        return self._twin.class_gradients(images)

    @cached_property
    def _twin(self) -> DifferentiableClassifier:
        return keras_expert_of(self._bundle)


def expert_of(bundle: Bundle, *, threads: int | None = None) -> Classifier:
    """The expert of a bundle. Raises: InvalidBundle: it has none. InvalidInput: what computes it is not installed."""
    check_expert(bundle)
    if not bundle.holds(ONNX_EXPERT):
        return keras_expert_of(bundle, threads=threads)
    from models.engines.onnx import OnnxClassifier

    graph = bundle.read(ONNX_EXPERT)
    return _Graph(OnnxClassifier(graph, labels=bundle.labels, input_shape=bundle.input_shape, threads=threads), bundle)


def keras_expert_of(bundle: Bundle, *, threads: int | None = None) -> DifferentiableClassifier:
    """The expert as a Keras model, for its gradients. Raises: InvalidInput: there is none, or TensorFlow is not installed."""
    if not bundle.holds(EXPERT):
        raise InvalidInput(
            f"expected {EXPERT} in bundle {bundle.name}, without which the expert of badexpert has no gradients; set it to monitor"
        )
    from models.engines.keras import KerasClassifier

    return KerasClassifier.from_bundle(bundle, file=EXPERT, threads=threads)


def check_expert(bundle: Bundle) -> None:
    """Whether a bundle holds an expert that can be computed here, without loading it. Raises: InvalidBundle; InvalidInput."""
    if bundle.holds(ONNX_EXPERT):
        return
    if not bundle.holds(EXPERT):
        raise InvalidBundle(
            f"expected the expert of badexpert in {bundle.directory}, {ONNX_EXPERT} or {EXPERT}, listed in its card; run hauberk "
            "calibrate again"
        )
    if not (find_spec("tensorflow") and find_spec("keras")):
        raise InvalidInput(
            f"the expert of bundle {bundle.name} is computed by TensorFlow, which is not installed: {INSTALL_TENSORFLOW}"
        )
