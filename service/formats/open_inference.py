"""The Open Inference Protocol v2: from the bytes of an inference request to images, and from decisions to its answer.

A tensor is JSON, or lies behind the JSON (the binary tensor extension): then a header says where the JSON ends and a parameter how
long the tensor is. One input, `images`: FP16, FP32 or FP64 in [0, 1], or whole numbers of any size from 0 to 255; three outputs, see
`OUTPUTS`. The JSON is surveyed first (`json_survey.py`): `data` is read in a compiled pass, and the rest, once it is known to be small,
by orjson, so that the work is linear in the bytes of any body.

    400 malformed_json                       the JSON part is none
    400 malformed_inference                  another document, other names, sizes that do not add up
    422 wrong_datatype, wrong_shape          BOOL, BYTES, unknown ones, 256 for a UINT8; another shape
    422 wrong_type, out_of_range             in JSON, something that is no number; outside [0, 1], or outside 0 to 255
    422 no_images, too_many_images           none, or more than a request may hold
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import orjson
from numpy.typing import NDArray

from defences.defended_classifier import Decisions
from models.classifier import Images
from service.errors import Headers, MalformedInference, OutOfRange, WrongDatatype, WrongShape, WrongType
from service.formats.answers import JSON
from service.formats.arrays import LEVELS, Tensors
from service.formats.certificates import Certificate
from service.formats.json_numbers import MORE, NO_ARRAY, NOT_WHOLE, OTHER_LENGTH, OUT_OF_RANGE, ArrayFault, numbers_at
from service.formats.json_survey import Outline, Span, outline, path_of

BINARY = b"application/octet-stream"
HEADER_LENGTH = b"inference-header-content-length"
INPUT = "images"
OUTPUTS = {"probabilities": "FP32", "label": "INT64", "abstained": "BOOL"}
"""Where the defences abstained: zeros, -1, true."""

DATATYPES: dict[Any, np.dtype[Any]] = {
    **{f"FP{8 * size}": np.dtype(f"<f{size}") for size in (4, 2, 8)},
    **{f"UINT{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
    **{f"INT{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
}
"""Those that are taken; a model takes FP32, and what loses nothing becomes it."""

_NO_NUMBERS = ("BOOL", "BYTES", "BF16")  # the protocol has them, or its clients do
_WHITE = np.float32(255)
_ID_AT_MOST = 256
_DATA, _SHAPE = path_of("inputs", 0, "data"), path_of("inputs", 0, "shape")
_NESTED = re.compile(rb"\[[ \t\n\r]*+\[")
# In JSON: what a request holds beside its data, and the dimensions of its shape.
_VALUES_AT_MOST, _DIMENSIONS_AT_MOST = 1024, 16


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
    surveyed = _surveyed(np.frombuffer(body[:tensor_at] + b"\0", np.uint8))
    data = surveyed.find(_DATA)
    document = _without(surveyed, data)
    if type(document) is not dict:
        raise MalformedInference("Expected an object with a list of inputs.")
    identity = document.get("id")
    if identity is not None and not (type(identity) is str and len(identity) <= _ID_AT_MOST):
        raise MalformedInference("Expected the id to be a string of 256 characters at most.")
    outputs = _outputs(document)
    inputs = document.get("inputs")
    if type(inputs) is not list or len(inputs) != 1 or type(inputs[0]) is not dict or inputs[0].get("name") != INPUT:
        raise MalformedInference('Expected exactly one input, named "images".')
    datatype, shape = _datatype(inputs[0]), _shape(inputs[0])
    numbers = tensors.numbers_in(shape)
    size = _parameters(inputs[0]).get("binary_data_size")
    if size is None:
        if len(body) != tensor_at:
            raise MalformedInference("There are bytes behind the JSON, and no input has binary_data_size.")
        if data is None:
            raise MalformedInference("Expected data or binary_data_size, got neither.")
        return Inference(_from_json(surveyed, data, datatype, shape).reshape(-1, *tensors.input_shape), identity, outputs)
    if data is not None:
        raise MalformedInference("Expected data or binary_data_size, got both.")
    dtype = DATATYPES[datatype]
    if type(size) is not int or size != numbers * dtype.itemsize or size != len(body) - tensor_at:
        raise MalformedInference("Expected binary_data_size to be what the shape takes, and so many bytes behind the JSON.")
    return Inference(tensors.images(np.frombuffer(body, dtype, numbers, tensor_at).reshape(shape)), identity, outputs)


def _surveyed(text: NDArray[np.uint8]) -> Outline:
    """Raises: MalformedJson, MalformedInference, WrongShape."""
    surveyed = outline(text)
    if surveyed is None:
        raise MalformedInference("Expected a request of fewer keys.")
    shape = surveyed.find(_SHAPE)
    if shape is not None and shape.values > _DIMENSIONS_AT_MOST:
        raise WrongShape
    return surveyed


def _without(surveyed: Outline, data: Span | None) -> Any:
    """The document, with null for data. Raises: MalformedInference."""
    text = surveyed.text[:-1]
    if surveyed.values - (0 if data is None else data.values) > _VALUES_AT_MOST:
        raise MalformedInference("Expected a request that holds less beside the data of its input.")
    if data is None:
        return orjson.loads(text.data)
    return orjson.loads(b"%bnull%b" % (text[: data.start].tobytes(), text[data.end :].tobytes()))


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


def _datatype(tensor: dict[str, Any]) -> str:
    datatype = tensor.get("datatype")
    if type(datatype) is str and datatype in DATATYPES:
        return datatype
    got = datatype if datatype in _NO_NUMBERS else "another"
    raise WrongDatatype(detail=f"Expected one of {', '.join(DATATYPES)}, got {got}.")


def _shape(tensor: dict[str, Any]) -> tuple[int, ...]:
    shape = tensor.get("shape")
    if type(shape) is not list or not all(type(size) is int for size in shape):
        raise MalformedInference("Expected the shape to be a list of whole numbers.")
    return tuple(shape)


def _from_json(surveyed: Outline, data: Span, datatype: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The numbers, flat or nested, as float32 in [0, 1]. Raises: Unprocessable."""
    if not surveyed.begins_with(b"[", data.start):
        raise WrongType
    dims = shape if _NESTED.match(surveyed.text.data, data.start) else (math.prod(shape),)
    whole = DATATYPES[datatype].kind != "f"
    numbers = numbers_at(surveyed, data.start, dims, whole=whole)
    if numbers.count != dims[0]:
        got = "more" if numbers.count == MORE else numbers.count
        raise WrongShape(detail=f"Expected {dims[0]} entries in data, as the shape says, got {got}.")
    if numbers.faults:
        _refuse(numbers.faults[0], dims, datatype)
    return numbers.values / _WHITE if whole else numbers.values


def _refuse(fault: ArrayFault, dims: tuple[int, ...], datatype: str) -> NoReturn:
    if fault.what == OTHER_LENGTH:
        expected = dims[len(fault.place)]
        raise WrongShape(detail=f"Expected arrays of {expected} entries in data, as the shape says, got one of {fault.got}.")
    if fault.what == NO_ARRAY and chr(fault.got) in "-0123456789":
        raise WrongShape
    if fault.what == NOT_WHOLE or (fault.what == OUT_OF_RANGE and datatype == "UINT8"):
        raise WrongDatatype(detail=f"Expected whole numbers from 0 to 255 in data, as {datatype} and its scale say.")
    if fault.what == OUT_OF_RANGE:
        raise OutOfRange(detail=LEVELS if DATATYPES[datatype].kind != "f" else "")
    raise WrongType


def answer(
    inference: Inference, decisions: Decisions, model: str, model_version: str, certificate: Certificate | None = None
) -> tuple[bytes, bytes, Headers]:
    """The answer: its media type, its bytes, and further headers.

    Args:
        certificate: what is said, once for the request, if every answer in it is proven.
    """
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
    if certificate is not None and not abstained.all() and (certificate.holds_for(decisions) | abstained).all():
        document["parameters"] = {"certified_patch": certificate.text}
    text = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if not parts:
        return JSON, text, ()
    return BINARY, b"".join([text, *parts]), ((HEADER_LENGTH, str(len(text)).encode()),)
