"""Keras models as ONNX graphs: what TensorFlow traced, converted by tf2onnx, which Keras's own export uses too.

Traced is the whole function of a `KerasClassifier`, its input range and its head included, so that a conversion is compared as it serves.
"""

from __future__ import annotations

import gc
import logging
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from models.engines.onnx_graph import composed
from models.errors import INSTALL_TENSORFLOW, InvalidInput
from models.preparation import Preparation

if TYPE_CHECKING:
    from onnx import ModelProto

    from models.engines.keras import KerasClassifier

OPSET = 18
"""The newest operator set that tf2onnx writes."""


def exported(classifier: KerasClassifier) -> ModelProto:
    """The graph of a bundle's model.onnx for a Keras classifier. Raises: InvalidInput: an operation that ONNX lacks."""
    model = graph_of(classifier.forward)
    return composed(
        model, preparation=Preparation(), outputs="probabilities", input_shape=classifier.input_shape, name="the converted model"
    )


def graph_of(function: Any) -> ModelProto:
    """A `tf.function` with an input signature as an ONNX model. Raises: InvalidInput: an operation that ONNX lacks."""
    try:
        import tf2onnx
    except ImportError as failure:
        raise InvalidInput(f"converting a Keras model needs tf2onnx, which is not installed: {INSTALL_TENSORFLOW}") from failure
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)  # it says at length what it raises too
    try:
        with _collecting():
            model: ModelProto = tf2onnx.convert.from_function(function, input_signature=function.input_signature, opset=OPSET)[0]
    except Exception as failure:  # what tf2onnx and TensorFlow raise for a graph that they cannot convert is of any kind
        reason = textwrap.shorten(str(failure).strip().split("\n")[0], 300, placeholder=" ...") or type(failure).__name__
        raise InvalidInput(f"the model has no ONNX graph: {reason}") from failure
    return model


@contextmanager
def _collecting() -> Iterator[None]:
    """Have garbage collected as it arises.

    tf2onnx copies the graph, weights and all, for each of its passes, and its copies refer to themselves. Python looks at old objects
    only when a quarter of all are new, and TensorFlow alone has a million: dozens of copies of a network would be kept.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.collect()
