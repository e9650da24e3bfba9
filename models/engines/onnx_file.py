"""ONNX files that people hand in: read with bounds, weights beside the file included, and nothing outside its directory.

A model is a protocol buffer, which holds 2 GiB at most. Larger weights lie in files of their own ("external data"), whose names the model
gives: a name that leads out of the model's directory, or through a link, could read any file of this machine into the bundle.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from models.errors import InvalidInput
from models.files import read_file

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, TensorProto

BYTES_AT_MOST = (1 << 31) - 1
"""Of a model with its weights: what a protocol buffer can hold."""


def read_model(path: Path) -> ModelProto:
    """The model in a file, with its weights. Raises: InvalidInput: no file, no ONNX model, too large, weights from elsewhere."""
    try:
        content = read_file(path, at_most=BYTES_AT_MOST)
    except OSError as failure:
        reason = (failure.strerror or str(failure)).lower()
        raise InvalidInput(f"expected an ONNX model of less than 2 GiB, got {path}, which cannot be read: {reason}") from failure
    model = parsed(content, path.name)
    _take_in_weights(model, path)
    return model


def parsed(content: bytes, name: str) -> ModelProto:
    """A model from its bytes; `name` is what messages call it. Raises: InvalidInput."""
    import onnx

    try:
        model = onnx.load_model_from_string(content)
    except Exception as failure:  # protobuf's own kinds, which differ between its implementations
        raise InvalidInput(f"expected an ONNX model, but {name} cannot be read as one; export it again") from failure
    if not model.graph.node or not model.opset_import:  # almost any bytes are some protocol buffer
        raise InvalidInput(f"expected an ONNX model, but {name} holds no graph; export it again")
    return model


def tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """Every tensor that a graph holds, also in the branches and bodies of its nodes."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in (attribute.g, *attribute.graphs):
                yield from tensors(inner)


def _take_in_weights(model: ModelProto, path: Path) -> None:
    from onnx import TensorProto

    room = BYTES_AT_MOST - model.ByteSize()
    opened: dict[str, bytes] = {}
    for tensor in tensors(model.graph):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if location not in opened:
            opened[location] = _weights(path, location, room)
            room -= len(opened[location])
        tensor.raw_data = _part(opened[location], entries, path.name, tensor.name)
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]


def _weights(path: Path, location: str, room: int) -> bytes:
    parts = PurePosixPath(location).parts
    beside = path.parent / location
    outside = not parts or PurePosixPath(location).is_absolute() or ".." in parts or "\\" in location
    if outside or not beside.resolve().is_relative_to(path.parent.resolve()):
        raise InvalidInput(
            f"expected {path.name} to keep its weights in its own directory, got {location!r}; save it again with the weights beside it"
        )
    try:
        return read_file(beside, at_most=room)
    except OSError as failure:
        reason = (failure.strerror or str(failure)).lower()
        raise InvalidInput(
            f"expected the weights of {path.name} in {location!r}, which cannot be read: {reason}; copy the model with its weights"
        ) from failure


def _part(content: bytes, entries: dict[str, Any], name: str, tensor: str) -> bytes:
    try:
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", len(content) - offset))
    except ValueError:
        offset = length = -1
    if offset < 0 or length < 0 or offset + length > len(content):
        raise InvalidInput(f"the weights {tensor!r} of {name} lie outside their file; export the model again")
    return content[offset : offset + length]
