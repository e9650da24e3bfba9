"""The Open Inference Protocol v2 over HTTP, as KServe, Triton, MLServer and TorchServe speak it: metadata, readiness, inference.

A tensor is JSON, or lies behind the JSON (the binary tensor extension): then a header says where the JSON ends, and a parameter of each
tensor how long it is. What is sent and what comes back are told apart by themselves: a server may take the one and answer with the other.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from models.engines.remote.address import RemoteAddress
from models.engines.remote.calls import Calls
from models.engines.remote.connection import ServerReply
from models.engines.remote.tensors import (
    DATATYPES,
    Described,
    TensorSpec,
    answer_at_most,
    check_name,
    check_version,
    listed,
    numbers,
    parsed,
    rows_of,
    specs,
)
from models.errors import RemoteBadAnswer, RemoteFailure

_METADATA_AT_MOST = 1 << 20
_HEADER_LENGTH = b"inference-header-content-length"
_VERSION_AT_MOST = 128


class OpenInferenceModel:
    """A model behind the Open Inference Protocol.

    Args:
        calls: to its server.

    Attributes:
        binary: whether tensors are sent behind the JSON, see `RemoteClassifier`.
        version: that every answer has to name, once it is known; none before, and with servers that name none.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls, self._address = calls, calls.address
        self.binary = False
        self.version: str | None = None

    def describe(self, *, until: float) -> Described:
        """The model's metadata. Raises: RemoteFailure."""
        address = self._address
        document = parsed(self._calls.get(address.path, until=until, at_most=_METADATA_AT_MOST).body, address)
        check_name(document.get("name"), address.model, "the model", address)
        platform = document.get("platform")
        return Described(
            model=address.model,
            version=address.version or "",
            platform=platform[:_VERSION_AT_MOST] if isinstance(platform, str) else "",
            inputs=specs(document.get("inputs"), "input", address),
            outputs=specs(document.get("outputs"), "output", address),
            rows_at_most=self._rows_at_most(until),
        )

    def _rows_at_most(self, until: float) -> int | None:
        """What Triton's model configuration, an extension of the protocol, says of the largest batch; none where there is none."""
        try:
            reply = self._calls.get(f"{self._address.path}/config", until=until, at_most=_METADATA_AT_MOST, again=False)
            most = parsed(reply.body, self._address).get("max_batch_size")
        except RemoteFailure:
            return None
        return most if isinstance(most, int) and most > 0 else None

    def infer(
        self, rows: NDArray[Any], taken: TensorSpec, given: TensorSpec, *, columns: int, until: float
    ) -> NDArray[np.float64]:
        """Class scores [n, k] for prepared rows; `columns` bounds k. Raises: RemoteFailure."""
        tensor = np.ascontiguousarray(rows, DATATYPES[taken.datatype])
        identity = secrets.token_hex(8)
        headers, body = self._request(tensor, taken, given, identity)
        at_most = answer_at_most(len(rows), columns)
        path = f"{self._address.path}/infer"
        reply = self._calls.post(path, headers, body, until=until, at_most=at_most)
        return self._answer(reply, given, len(rows), identity)

    def _request(
        self, tensor: NDArray[Any], taken: TensorSpec, given: TensorSpec, identity: str
    ) -> tuple[Mapping[str, str], list[bytes | memoryview]]:
        sent: dict[str, Any] = {"name": taken.name, "shape": tensor.shape, "datatype": taken.datatype}
        wanted: dict[str, Any] = {"name": given.name}
        document: dict[str, Any] = {"id": identity, "inputs": [sent], "outputs": [wanted]}
        if not self.binary:
            sent["data"] = tensor.astype(np.float32).ravel() if taken.datatype == "FP16" else tensor.ravel()
            return {"content-type": "application/json"}, [orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)]
        sent["parameters"], wanted["parameters"] = {"binary_data_size": tensor.nbytes}, {"binary_data": True}
        head = orjson.dumps(document)
        headers = {"content-type": "application/octet-stream", _HEADER_LENGTH.decode(): str(len(head))}
        return headers, [head, tensor.data.cast("B")]

    def _answer(self, reply: ServerReply, given: TensorSpec, rows: int, identity: str) -> NDArray[np.float64]:
        address = self._address
        document, tail = _parts(reply, address)
        check_name(document.get("model_name"), address.model, "the model", address)
        if document.get("id") is not None:
            check_name(document["id"], identity, "the request", address)
        self._check_version(document.get("model_version"))
        outputs = listed(document.get("outputs"), "output", address)
        found = _output(outputs, given.name, tail, address)
        return rows_of(found, rows, address)

    def _check_version(self, said: Any) -> None:
        """Raises: RemoteIsAnother: the answer is of another version than before."""
        version = said[:_VERSION_AT_MOST] if isinstance(said, str) else ""
        if self.version is None:
            self.version = version
        check_version(version, self.version, self._address)


def _parts(reply: ServerReply, address: RemoteAddress) -> tuple[dict[str, Any], memoryview]:
    """An answer's JSON, and what lies behind it."""
    body, length = memoryview(reply.body), reply.headers.get(_HEADER_LENGTH)
    if length is None:
        return parsed(body, address), body[len(body) :]
    if not (length.isdigit() and len(length) < 19 and int(length) <= len(body)):
        raise RemoteBadAnswer(f"expected Inference-Header-Content-Length within the answer from {address}, got another number")
    return parsed(body[: int(length)], address), body[int(length) :]


def _output(outputs: list[dict[str, Any]], name: str, tail: memoryview, address: RemoteAddress) -> NDArray[Any]:
    """The output of this name, in its shape; binary ones lie in the tail in their order. Raises: RemoteBadAnswer."""
    found: NDArray[Any] | None = None
    at = 0
    for output in outputs:
        parameters = output.get("parameters")
        size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
        if size is not None and not (type(size) is int and 0 <= size <= len(tail) - at):
            raise RemoteBadAnswer(f"expected binary_data_size within the answer from {address}, got another number")
        if output.get("name") == name:
            found = _tensor(output, tail[at : at + size] if size is not None else None, address)
        at += size or 0
    if at != len(tail):
        raise RemoteBadAnswer(f"expected as many bytes as the outputs take from {address}, got {len(tail)} and not {at}")
    if found is None:
        raise RemoteBadAnswer(f"expected an output {name!r} from {address}, got others")
    return found


def _tensor(output: dict[str, Any], binary: memoryview | None, address: RemoteAddress) -> NDArray[Any]:
    shape, dtype = output.get("shape"), DATATYPES.get(str(output.get("datatype")))
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise RemoteBadAnswer(f"expected the shape of the output from {address}, got something else")
    if dtype is None or dtype.kind != "f":
        raise RemoteBadAnswer(f"expected class scores of FP16, FP32 or FP64 from {address}, got another datatype")
    if binary is None:
        array = numbers(output.get("data"), address)
    elif len(binary) == math.prod(shape) * dtype.itemsize:
        array = np.frombuffer(binary, dtype)
    else:
        raise RemoteBadAnswer(f"expected as many bytes as the output's shape takes from {address}, got {len(binary)}")
    if array.size != math.prod(shape):
        raise RemoteBadAnswer(f"expected as many numbers as the output's shape takes from {address}, got {array.size}")
    return array.reshape(shape)
