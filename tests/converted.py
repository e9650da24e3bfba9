"""Models of Keras as the graphs that are served, and small graphs made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from models.engines.keras import KerasClassifier
from models.engines.onnx import OnnxClassifier

if TYPE_CHECKING:
    from onnx import ModelProto


def converted(classifier: KerasClassifier, *, batch_size: int | None = None) -> OnnxClassifier:
    """The classifier as calibration converts it."""
    from models.engines.keras_export import exported

    model = exported(classifier).SerializeToString()
    return OnnxClassifier(model, labels=classifier.labels, input_shape=classifier.input_shape, threads=1, batch_size=batch_size)


def graph(nodes: list[Any], weights: dict[str, Any], *, images: list[int], output: str, classes: int) -> ModelProto:
    """A model of these nodes from "images" [n, *images] to `output` [n, classes]."""
    from onnx import TensorProto, helper, numpy_helper

    made = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", *images])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", classes])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
