"""From a bundle to its classifier: the one place that chooses the engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from models.bundle import Bundle, Engine
from models.classifier import Classifier
from models.errors import InvalidInput

if TYPE_CHECKING:
    from models.engines.keras import KerasClassifier


def classifier_of(bundle: Bundle, *, threads: int | None = None) -> Classifier:
    """The classifier of a bundle, in the engine that the bundle names. Raises: InvalidInput: the engine is not installed."""
    return _OPENED[bundle.engine](bundle, threads)


def keras_classifier_of(bundle: Bundle, *, threads: int | None = None) -> KerasClassifier:
    """The Keras model of a bundle, for its gradients and layers. Raises: InvalidInput: it has none, or TensorFlow is not installed."""
    from models.engines.keras import KerasClassifier

    return KerasClassifier.from_bundle(bundle, threads=threads)


def _onnx(bundle: Bundle, threads: int | None) -> Classifier:
    from models.engines.onnx import OnnxClassifier

    return OnnxClassifier.from_bundle(bundle, threads=threads)


def _keras(bundle: Bundle, threads: int | None) -> Classifier:
    return keras_classifier_of(bundle, threads=threads)


def _remote(bundle: Bundle, threads: int | None) -> Classifier:
    raise InvalidInput(f"the classifier of bundle {bundle.name} is on a server, which this version cannot ask")


_OPENED: dict[Engine, Callable[[Bundle, int | None], Classifier]] = {"onnx": _onnx, "keras": _keras, "remote": _remote}
