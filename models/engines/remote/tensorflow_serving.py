"""TensorFlow Serving's REST interface: metadata of the serving signature, readiness, prediction in the columnar format.

    GET  /v1/models/NAME[/versions/N]/metadata     signature_def.serving_default: names, types and shapes
    POST /v1/models/NAME[/versions/N]:predict      {"inputs": {name: rows}} -> {"outputs": rows, or {name: rows}}

A server that answers with the row format, {"predictions": [...]}, is read as well. An answer names neither model nor version: which
version answers is read from the metadata, at the start and with each look at the probes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from models.engines.remote.calls import Calls
from models.engines.remote.tensors import (
    DATATYPES,
    Described,
    TensorSpec,
    answer_at_most,
    check_version,
    numbers,
    parsed,
    rows_of,
    spec,
)
from models.errors import RemoteBadAnswer

SIGNATURE = "serving_default"
_METADATA_AT_MOST = 4 << 20
_TYPES = {"DT_HALF": "FP16", "DT_FLOAT": "FP32", "DT_DOUBLE": "FP64", "DT_UINT8": "UINT8"}
_VERSION_AT_MOST = 128


class TensorflowServingModel:
    """A model behind TensorFlow Serving.

    Args:
        calls: to its server.

    Attributes:
        binary: never; the interface has no such extension.
        version: that the metadata have to name, once it is known.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls, self._address = calls, calls.address
        self.binary = False
        self.version: str | None = None

    def describe(self, *, until: float) -> Described:
        """The metadata of the model's serving signature. Raises: RemoteFailure."""
        address = self._address
        reply = self._calls.get(f"{address.path}/metadata", until=until, at_most=_METADATA_AT_MOST)
        document = parsed(reply.body, address)
        try:
            signature = document["metadata"]["signature_def"]["signature_def"][SIGNATURE]
            version = str(document["model_spec"]["version"])[:_VERSION_AT_MOST]
            inputs, outputs = (self._specs(signature[key], key[:-1]) for key in ("inputs", "outputs"))
        except (KeyError, TypeError, AttributeError) as failure:
            raise RemoteBadAnswer(
                f"expected metadata of a signature {SIGNATURE!r} from {address}, got something else"
            ) from failure
        if self.version is None:
            self.version = version
        check_version(version, self.version, address)
        return Described(address.model, version, "tensorflow_serving", inputs, outputs)

    def _specs(self, given: dict[str, Any], of: str) -> tuple[TensorSpec, ...]:
        found = []
        for name, one in given.items():
            shape = one["tensor_shape"]
            sizes = None if shape.get("unknown_rank") else [_whole(size["size"]) for size in shape.get("dim", ())]
            found.append(spec(name, _TYPES.get(one["dtype"], one["dtype"]), sizes, of, self._address))
        return tuple(found)

    def infer(
        self, rows: NDArray[Any], taken: TensorSpec, given: TensorSpec, *, columns: int, until: float
    ) -> NDArray[np.float64]:
        """Class scores [n, k] for prepared rows; `columns` bounds k. Raises: RemoteFailure."""
        tensor = np.ascontiguousarray(rows, DATATYPES[taken.datatype])
        tensor = tensor.astype(np.float32) if taken.datatype == "FP16" else tensor
        document = {"signature_name": SIGNATURE, "inputs": {taken.name: tensor}}
        body = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
        reply = self._calls.post(
            f"{self._address.path}:predict",
            {"content-type": "application/json"},
            [body],
            until=until,
            at_most=answer_at_most(len(rows), columns),
        )
        return rows_of(self._answer(parsed(reply.body, self._address), given.name), len(rows), self._address)

    def _answer(self, document: dict[str, Any], name: str) -> NDArray[Any]:
        """One output's rows, whichever of the interface's forms they have. Raises: RemoteBadAnswer."""
        found = document.get("outputs", document.get("predictions"))
        if isinstance(found, dict):
            found = found.get(name)
        if isinstance(found, list) and found and isinstance(found[0], dict):
            found = [row.get(name) if isinstance(row, dict) else None for row in found]
        if not isinstance(found, list):
            raise RemoteBadAnswer(f"expected an output {name!r} from {self._address}, got something else")
        return numbers(found, self._address)


def _whole(size: Any) -> int:
    """A dimension, which protobuf's JSON writes as text. Raises: TypeError."""
    try:
        return int(size)
    except ValueError:
        raise TypeError(f"expected a whole number, got {size!r}") from None
