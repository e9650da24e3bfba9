"""Tensors as a model server declares and sends them, checked: nothing a server says is believed before its size and kind are known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from models.engines.remote.address import RemoteAddress
from models.errors import InvalidInput, RemoteBadAnswer, RemoteIsAnother
from models.printable import printable

DATATYPES: dict[str, np.dtype[Any]] = {
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "UINT8": np.dtype("u1"),
}
"""Those of images and of class scores that are sent and received."""

_SLACK, _BYTES_PER_SCORE = 1 << 16, 32
_NAME_AT_MOST, _DIMENSIONS_AT_MOST = 256, 8


@dataclass(frozen=True)
class TensorSpec:
    """An input or an output: its name, its datatype by the Open Inference Protocol, its shape with -1 for any size, rows first."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{printable(self.name)} ({printable(self.datatype)} {list(self.shape)})"


@dataclass(frozen=True)
class Described:
    """What a server says of a model.

    Attributes:
        platform, version: "" where the server does not say.
        rows_at_most: of one call; none where the server does not say.
    """

    model: str
    version: str
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    rows_at_most: int | None = None

    def input(self, address: RemoteAddress) -> TensorSpec:
        """The one input. Raises: InvalidInput: none, several, a datatype that images are not sent in, a fixed number of rows."""
        if not self.inputs:
            raise InvalidInput(
                f"expected {address} to declare its input, but its metadata have none; declare name, datatype and shape where the "
                "model is configured (model-settings.json, config.pbtxt)"
            )
        if len(self.inputs) > 1:
            raise InvalidInput(f"expected a model with one input at {address}, got {len(self.inputs)}: {_listed(self.inputs)}")
        (only,) = self.inputs
        if only.datatype not in DATATYPES:
            raise InvalidInput(f"expected an input of {', '.join(DATATYPES)} at {address}, got {only}")
        if not only.shape or only.shape[0] != -1:
            raise InvalidInput(
                f"expected an input whose first dimension is any number of rows (-1) at {address}, got {only}; serve the model with a "
                "dynamic batch"
            )
        return only

    def output(self, address: RemoteAddress, name: str | None) -> TensorSpec:
        """The output of this name, or the only one. Raises: InvalidInput: no such one, or several."""
        if name is None and len(self.outputs) == 1:
            return self.outputs[0]
        found = [output for output in self.outputs if output.name == name]
        if len(found) == 1:
            return found[0]
        if not self.outputs:
            raise InvalidInput(
                f"expected {address} to declare its output, but its metadata have none; declare it as the input is"
            )
        wanted = "one output" if name is None else f"an output {name!r}"
        raise InvalidInput(
            f"expected {wanted} at {address}, got {_listed(self.outputs)}; say which one with hauberk calibrate --output"
        )


def row_shape(spec: TensorSpec, prepared: tuple[int, int, int], address: RemoteAddress) -> tuple[int, ...]:
    """The shape of one row at the model's input, for a prepared image of this shape; flat, or without channels, where it declares so.

    Raises: InvalidInput: images of this shape are not what it takes.
    """
    own, numbers = spec.shape[1:], math.prod(prepared)
    without_channels = tuple(size for size in prepared if size != 1) if len(own) == 2 else ()
    for shape in (prepared, without_channels, (numbers,)):
        if len(own) == len(shape) and all(size in (-1, wanted) for size, wanted in zip(own, shape, strict=True)):
            return shape
    raise InvalidInput(f"expected images of the shape that {address} takes, {spec}, got {list(prepared)}")


def specs(given: Any, of: str, address: RemoteAddress) -> tuple[TensorSpec, ...]:
    """Inputs or outputs from parsed metadata of the Open Inference Protocol. Raises: RemoteBadAnswer."""
    found = []
    for one in listed(given, of, address):
        name, datatype, shape = (one.get(key) for key in ("name", "datatype", "shape"))
        found.append(spec(name, datatype, shape, of, address))
    return tuple(found)


def spec(name: Any, datatype: Any, shape: Any, of: str, address: RemoteAddress) -> TensorSpec:
    """Raises: RemoteBadAnswer: values that are no name, no datatype, no shape."""
    sizes = shape if isinstance(shape, list) else ()
    whole = all(type(size) is int and -1 <= size < 1 << 31 for size in sizes)
    if not (whole and 0 < len(sizes) <= _DIMENSIONS_AT_MOST and _is_name(name) and _is_name(datatype)):
        raise RemoteBadAnswer(f"expected metadata with name, datatype and shape of each {of} from {address}, got something else")
    return TensorSpec(name, datatype, tuple(sizes))


def listed(given: Any, of: str, address: RemoteAddress) -> list[dict[str, Any]]:
    """A list of objects. Raises: RemoteBadAnswer."""
    if given is None:
        return []
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise RemoteBadAnswer(f"expected a list of {of}s from {address}, got something else")
    return given


def parsed(body: bytes | memoryview, address: RemoteAddress) -> dict[str, Any]:
    """An answer's JSON object. Raises: RemoteBadAnswer: none; NaN and Infinity are no JSON."""
    try:
        document = orjson.loads(body)
    except ValueError as failure:
        raise RemoteBadAnswer(f"expected JSON from {address}, got something else") from failure
    if not isinstance(document, dict):
        raise RemoteBadAnswer(f"expected a JSON object from {address}, got something else")
    return document


def numbers(given: Any, address: RemoteAddress) -> NDArray[Any]:
    """Numbers in lists, nested or flat, as an array. Raises: RemoteBadAnswer: ragged, or with something among them that is none."""
    try:
        array = np.array(given) if isinstance(given, list) else np.empty(0, object)
    except (ValueError, OverflowError) as failure:
        raise RemoteBadAnswer(f"expected as many numbers in each row from {address}, got a ragged list") from failure
    if array.dtype.kind not in "fiu":
        raise RemoteBadAnswer(f"expected numbers from {address}, got something else")
    return array


def answer_at_most(rows: int, columns: int) -> int:
    """Bytes of an answer with so many rows of so many scores, in JSON."""
    return _SLACK + _BYTES_PER_SCORE * rows * columns


def rows_of(array: NDArray[Any], rows: int, address: RemoteAddress) -> NDArray[np.float64]:
    """Class scores [rows, k], finite. Raises: RemoteBadAnswer: another shape, NaN, infinity."""
    if array.ndim == 1 and len(array) == rows:
        array = array[:, None]
    if array.ndim > 2 and array.size == rows * array.shape[1]:  # [n, k, 1, 1] of a convolutional head
        array = array.reshape(rows, -1) if len(array) == rows else array
    if array.ndim != 2 or len(array) != rows or not array.shape[1]:
        raise RemoteBadAnswer(
            f"expected class scores for {rows} images from {address}, got an array of shape {list(array.shape)}"
        )
    scores = array.astype(np.float64)
    if not np.isfinite(scores).all():
        raise RemoteBadAnswer(f"expected finite class scores from {address}, got NaN or infinity")
    return scores


def check_name(said: Any, wanted: str, what: str, address: RemoteAddress) -> None:
    """Raises: RemoteBadAnswer: the answer is of another model or request than was asked."""
    if said != wanted:
        raise RemoteBadAnswer(
            f"expected an answer of {what} {wanted!r} from {address}, got one of {printable(str(said)[:100])!r}"
        )


def check_version(said: str, wanted: str, address: RemoteAddress) -> None:
    """Raises: RemoteIsAnother: the answer is of another version than those before."""
    if said != wanted:
        raise RemoteIsAnother(
            f"expected version {wanted!r} of the model from {address}, got {printable(said)!r}; pin the version in the address, or "
            "run hauberk calibrate against the other one"
        )


def _is_name(given: Any) -> bool:
    return isinstance(given, str) and 0 < len(given) <= _NAME_AT_MOST


def _listed(found: tuple[TensorSpec, ...]) -> str:
    return ", ".join(map(str, found))
