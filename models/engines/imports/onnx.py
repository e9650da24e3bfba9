"""ONNX models: read with the weights beside them, checked, and compared with what ONNX Runtime makes of them unchanged."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.engines.imports.foreign import Imported, RawOutputs, reason_of
from models.engines.onnx_checks import check_model, image_input
from models.engines.onnx_file import BYTES_AT_MOST, read_model
from models.errors import InvalidInput

if TYPE_CHECKING:
    from onnx import ModelProto

_ERRORS_ONLY = 3
# Under these names Ultralytics, Optimum and others keep the names of the classes.
_NAMES = ("names", "labels", "class_names", "classes", "id2label")
_NAMES_CHARACTERS = 1 << 22


def opened(path: Path, threads: int | None, image_shape: tuple[int, int, int] | None) -> Imported:
    """See `models.engines.imports.imported`."""
    size = path.stat().st_size
    if size > BYTES_AT_MOST:  # before 2 GiB are read
        raise InvalidInput(
            f"expected an ONNX model of less than 2 GiB, got {path.name} with {size / (1 << 30):.1f} GiB; save it with its weights in a "
            "file beside it (save_as_external_data), or as float16"
        )
    model = read_model(path)
    check_model(model, path.name)
    image_input(model, path.name)
    return Imported(
        what="an ONNX model",
        model=model,
        predict_source=runtime(model, path.name, threads),
        parameters=parameters(model),
        labels=labels_of(model),
    )


def parameters(model: ModelProto) -> int:
    """The numbers in a graph's floating-point weights."""
    from onnx import TensorProto

    kinds = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
    return sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer if tensor.data_type in kinds)


def labels_of(model: ModelProto) -> tuple[str, ...] | None:
    """The names of the classes that a model's metadata gives, as a list or by number, in JSON or as Python writes it."""
    said = {one.key: one.value for one in model.metadata_props}
    for key in _NAMES:
        if key in said and len(said[key]) <= _NAMES_CHARACTERS and (found := _names(said[key])):
            return found
    return None


def _names(text: str) -> tuple[str, ...] | None:
    try:
        held = json.loads(text)
    except ValueError:
        try:
            held = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    if isinstance(held, Mapping):
        numbered = {str(key): name for key, name in held.items()}
        held = [numbered.get(str(place)) for place in range(len(numbered))]
    if not isinstance(held, list | tuple) or not held or not all(isinstance(name, str) for name in held):
        return None
    return tuple(held) if len(set(held)) == len(held) else None


def runtime(model: ModelProto, name: str, threads: int | None) -> RawOutputs:
    """ONNX Runtime's own forward pass of a graph as it is; opened at the first call."""
    sessions: list[Any] = []

    def predict(inputs: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        if not sessions:
            sessions.append(_session(model, name, threads))
        [session] = sessions
        return tuple(session.run(None, {session.get_inputs()[0].name: inputs}))

    return predict


def _session(model: ModelProto, name: str, threads: int | None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as failure:  # a dozen kinds, none of them public
        raise InvalidInput(f"expected a graph that ONNX Runtime computes, but {name} is none: {reason_of(failure)}") from failure
