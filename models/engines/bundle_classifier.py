"""From a bundle to its classifier: the one place that chooses the engine."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING

from models.bundle import Bundle, Engine
from models.classifier import Classifier
from models.errors import INSTALL_TENSORFLOW, InvalidInput

if TYPE_CHECKING:
    from models.engines.keras import KerasClassifier


def classifier_of(bundle: Bundle, *, threads: int | None = None) -> Classifier:
    """The classifier of a bundle, in the engine that the bundle names.

    Raises: InvalidInput: the engine is not installed; the model server does not answer, or serves another model.
    """
    return _OPENED[bundle.engine](bundle, threads)


def check_engine(bundle: Bundle) -> None:
    """Whether what computes a bundle's classifier is installed, without loading it. Raises: InvalidInput."""
    if bundle.engine == "keras" and not (find_spec("tensorflow") and find_spec("keras")):
        raise InvalidInput(f"bundle {bundle.name} is computed by TensorFlow, which is not installed: {INSTALL_TENSORFLOW}")


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
    from models.engines.remote.opening import open_remote
    from models.engines.remote.options import RemoteOptions

    return open_remote(bundle, RemoteOptions.for_commands(), address=os.environ.get("HAUBERK_REMOTE") or None)


_OPENED: dict[Engine, Callable[[Bundle, int | None], Classifier]] = {"onnx": _onnx, "keras": _keras, "remote": _remote}
