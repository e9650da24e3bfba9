"""The Open Inference Protocol v2: from the bytes of an inference request to images, and from decisions to its answer.

A tensor is JSON, or lies behind the JSON (the binary tensor extension): then a header says where the JSON ends and a parameter how
long the tensor is. One input, `images`, FP32 in [0, 1] or UINT8; three outputs, see `OUTPUTS`.

    400 malformed_json                       the JSON part is none
    400 malformed_inference                  another document, other names, sizes that do not add up
    422 wrong_datatype, wrong_shape          other numbers than FP32 or UINT8, 256 for one; another shape
    422 wrong_type, out_of_range             in JSON, something that is no number; outside [0, 1]
    422 no_images, too_many_images           none, or more than a request may hold
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from defences.defended_classifier import Decisions
from models.classifier import Images
from service.errors import Headers, MalformedInference, OutOfRange, WrongDatatype, WrongShape, WrongType
from service.formats.answers import JSON
from service.formats.arrays import Tensors
from service.formats.json_images import document_in

BINARY = b"application/octet-stream"
HEADER_LENGTH = b"inference-header-content-length"
INPUT = "images"
OUTPUTS = {"probabilities": "FP32", "label": "INT64", "abstained": "BOOL"}
"""Where the defences abstained: zeros, -1, true."""

_DATATYPES: dict[Any, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "UINT8": np.dtype("u1")}
_WHITE = 255
_NUMBERS = frozenset((int, float))
_ID_AT_MOST = 256


@dataclass(frozen=True)
class Inference:
    """A request: its images, its own id if it has one, and the outputs it wants, each with whether it is to be binary."""

    images: Images
    id: str | None
    outputs: tuple[tuple[str, bool], ...]


def read(body: bytes, header_length: bytes | None, tensors: Tensors) -> Inference:
    """An inference request.

    Args:
        header_length: the header Inference-Header-Content-Length; None when there is none, and all of the body is JSON.

    Raises: MalformedJson, MalformedInference, Unprocessable.
    """
    tensor_at = len(body) if header_length is None else _length(header_length, len(body))
    document = document_in(body[:tensor_at])
    if type(document) is not dict:
        raise MalformedInference("Expected an object with a list of inputs.")
    identity = document.get("id")
    if identity is not None and not (type(identity) is str and len(identity) <= _ID_AT_MOST):
        raise MalformedInference("Expected the id to be a string of 256 characters at most.")
    outputs = _outputs(document)
    inputs = document.get("inputs")
    if type(inputs) is not list or len(inputs) != 1 or type(inputs[0]) is not dict or inputs[0].get("name") != INPUT:
        raise MalformedInference('Expected exactly one input, named "images".')
    return Inference(_images(inputs[0], body, tensor_at, tensors), identity, outputs)


def _length(header: bytes, at_most: int) -> int:
    if not (header.isdigit() and len(header) < 19 and int(header) <= at_most):
        raise MalformedInference("Expected Inference-Header-Content-Length to be a number of bytes within the body.")
    return int(header)


def _parameters(holder: dict[str, Any]) -> dict[str, Any]:
    parameters = holder.get("parameters")
    if parameters is None:
        return {}
    if type(parameters) is not dict:
        raise MalformedInference("Expected parameters to be an object.")
    return parameters


def _switch(holder: dict[str, Any], name: str, default: bool) -> bool:
    value = _parameters(holder).get(name, default)
    if type(value) is not bool:
        raise MalformedInference("Expected binary_data and binary_data_output to be true or false.")
    return value


def _outputs(document: dict[str, Any]) -> tuple[tuple[str, bool], ...]:
    binary = _switch(document, "binary_data_output", False)
    wanted = document.get("outputs")
    if wanted is None or wanted == []:
        return tuple((name, binary) for name in OUTPUTS)
    if type(wanted) is not list or not all(type(output) is dict for output in wanted):
        raise MalformedInference("Expected outputs to be a list of objects.")
    names = [output.get("name") for output in wanted]
    if not all(type(name) is str and name in OUTPUTS for name in names) or len(set(names)) != len(names):
        raise MalformedInference("The outputs are probabilities, label and abstained, each once at most.")
    if any("classification" in _parameters(output) for output in wanted):
        raise MalformedInference("The classification extension is not served; ask for the outputs themselves.")
    return tuple((output["name"], _switch(output, "binary_data", binary)) for output in wanted)


def _images(tensor: dict[str, Any], body: bytes, tensor_at: int, tensors: Tensors) -> Images:
    datatype, shape = tensor.get("datatype"), tensor.get("shape")
    if type(datatype) is not str or datatype not in _DATATYPES:
        raise WrongDatatype
    if type(shape) is not list or not all(type(size) is int for size in shape):
        raise MalformedInference("Expected the shape to be a list of whole numbers.")
    numbers = tensors.numbers_in(tuple(shape))
    size = _parameters(tensor).get("binary_data_size")
    if size is None:
        if len(body) != tensor_at:
            raise MalformedInference("There are bytes behind the JSON, and no input has binary_data_size.")
        return tensors.images(_from_json(tensor, datatype, shape).reshape(shape))
    if "data" in tensor:
        raise MalformedInference("Expected data or binary_data_size, got both.")
    dtype = _DATATYPES[datatype]
    if type(size) is not int or size != numbers * dtype.itemsize or size != len(body) - tensor_at:
        raise MalformedInference("Expected binary_data_size to be what the shape takes, and so many bytes behind the JSON.")
    return tensors.images(np.frombuffer(body, dtype, numbers, tensor_at).reshape(shape))


def _from_json(tensor: dict[str, Any], datatype: str, shape: list[int]) -> NDArray[Any]:
    if "data" not in tensor:
        raise MalformedInference("Expected data or binary_data_size, got neither.")
    data = tensor["data"]
    if type(data) is not list:
        raise WrongType
    values = _unnested(data, shape) if data and type(data[0]) is list else data
    if len(values) != int(np.prod(shape)):
        raise WrongShape
    if not _NUMBERS.issuperset(map(type, values)):
        raise WrongType
    if datatype == "UINT8" and not (set(map(type, values)) == {int} and min(values) >= 0 and max(values) <= _WHITE):
        raise WrongDatatype
    if datatype == "FP32" and not (min(values) >= 0 and max(values) <= 1):
        raise OutOfRange  # before it is a float32, which 1e39 is not
    return np.array(values, _DATATYPES[datatype])


def _unnested(data: list[Any], shape: list[int]) -> list[Any]:
    level: list[Any] = [data]
    for size in shape:
        if not all(type(entry) is list and len(entry) == size for entry in level):
            raise WrongShape
        level = list(chain.from_iterable(level))
    return level


def answer(inference: Inference, decisions: Decisions, model: str, model_version: str) -> tuple[bytes, bytes, Headers]:
    """The answer: its media type, its bytes, and further headers."""
    abstained = decisions.abstained
    values: dict[str, NDArray[Any]] = {
        "probabilities": np.where(abstained[:, None], 0, decisions.probabilities).astype("<f4"),
        "label": np.where(abstained, -1, decisions.labels).astype("<i8"),
        "abstained": abstained.astype(bool),
    }
    outputs, parts = [], []
    for name, binary in inference.outputs:
        output: dict[str, Any] = {"name": name, "datatype": OUTPUTS[name], "shape": list(values[name].shape)}
        if binary:
            parts.append(values[name].tobytes())
            output["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            output["data"] = values[name].ravel()
        outputs.append(output)
    document: dict[str, Any] = {"model_name": model, "model_version": model_version, "outputs": outputs}
    if inference.id is not None:
        document["id"] = inference.id
    text = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if not parts:
        return JSON, text, ()
    return BINARY, b"".join([text, *parts]), ((HEADER_LENGTH, str(len(text)).encode()),)
