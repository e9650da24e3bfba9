"""A model server to test against: the Open Inference Protocol in JSON and in bytes, TensorFlow Serving's REST interface, and faults.

It is written from the protocols' texts and shares no code with the client. It can die, with every connection it has, and come back at the
same port. What is wrong with it is a `fault`, which may be changed at any time.
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[Any]
_TYPES = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8", "UINT8": "u1", "INT64": "<i8"}
_SERVING_TYPES = {"FP16": "DT_HALF", "FP32": "DT_FLOAT", "FP64": "DT_DOUBLE", "UINT8": "DT_UINT8", "INT64": "DT_INT64"}
_NAMES = {dtype: name for name, dtype in _TYPES.items()} | {"f4": "FP32"}

FAULTS = (
    "fewer_rows",
    "fewer_columns",
    "nan",
    "text",
    "ragged",
    "no_distribution",
    "no_json",
    "no_http",
    "no_output",
    "other_name",
    "other_request",
    "huge",
    "huge_declared",
    "endless_head",
    "cut",
    "compressed",
    "redirect",
    "status_500",
)
"""Each is a bad answer to every inference; the server goes on."""


@dataclass
class Model:
    """What is served.

    Attributes:
        scores: of rows [n, ...] as they came, in the model's own shape and type.
        name, version, platform: version None is not told.
        row: the shape of one row. datatype: of the input. columns: -1 where metadata do not say.
        other_outputs: served before the scores, by name.
        batch: the first dimension in the metadata. inputs: declared, in place of the one.
    """

    scores: Callable[[NDArray[Any]], Scores]
    row: tuple[int, ...]
    name: str = "animals"
    version: str | None = "1"
    platform: str = "test"
    input: str = "pixels"
    output: str = "scores"
    datatype: str = "FP32"
    columns: int = -1
    batch: int = -1
    other_outputs: tuple[str, ...] = ()
    inputs: list[dict[str, Any]] | None = None


@dataclass
class Asked:
    """One inference that came: its rows, whether they came as bytes, and the headers in lower case."""

    rows: NDArray[Any]
    binary: bool
    headers: dict[str, str]


@dataclass
class ModelServer:
    """Serves a model on a port of this machine.

    Attributes:
        fault: see `FAULTS`; also "slow" (as long as `delay_s`), "silent" (no answer at all), "drip" (a byte now and then),
            "status_NNN", and "lost" (the connection ends without an answer).
        takes_bytes, gives_bytes: the binary tensor extension, each way.
        body_at_most: bytes of a request; 413 beyond it. token: asked for, when set.
        format: of TensorFlow Serving's answers, "columns" or "rows".
        asked: every inference. connections: how many there have been.
    """

    model: Model
    takes_bytes: bool = True
    gives_bytes: bool = True
    fault: str | None = None
    delay_s: float = 0.5
    body_at_most: int = 1 << 30
    token: str | None = None
    format: str = "columns"
    max_batch_size: int | None = None
    certificate: ssl.SSLContext | None = None
    port: int = 0
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    _server: _Server | None = None

    def start(self) -> ModelServer:
        """Listen, at the same port as before."""
        self._server = _Server(self)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def die(self) -> None:
        """End, and every connection with it, as a process that is killed does."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server.cut()
            self._server = None

    @property
    def is_dead(self) -> bool:
        return self._server is None

    def address(self, scheme: str = "v2", *, version: str | None = None) -> str:
        """Where it is served."""
        return f"{scheme}://127.0.0.1:{self.port}/{self.model.name}" + ("" if version is None else f"/versions/{version}")


@contextmanager
def served(model: Model, **options: Any) -> Iterator[ModelServer]:
    """A server, for a while."""
    server = ModelServer(model, **options).start()
    try:
        yield server
    finally:
        server.die()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, owner: ModelServer) -> None:
        self.owner = owner
        self.open: set[socket.socket] = set()
        self.ended = threading.Event()
        super().__init__(("127.0.0.1", owner.port), _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self.owner.connections += 1
        if self.owner.certificate is not None:
            connection.settimeout(5)
            connection = self.owner.certificate.wrap_socket(connection, server_side=True)
        self.open.add(connection)
        return connection, address

    def cut(self) -> None:
        self.ended.set()
        for connection in list(self.open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
            finally:
                connection.close()

    def shutdown_request(self, request: Any) -> None:
        self.open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that left is no error."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def owner(self) -> ModelServer:
        return self.server.owner

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        model, path = self.owner.model, self.path
        if not self._allowed():
            return
        if path == f"/v2/models/{model.name}/ready" or path == "/v2/health/ready":
            self._send(200, b"")
        elif path.startswith(f"/v2/models/{model.name}") and path.endswith("/config") and self.owner.max_batch_size:
            self._send_json({"name": model.name, "max_batch_size": self.owner.max_batch_size})
        elif path in self._paths("v2"):
            self._send_json(self._metadata())
        elif path in {f"{one}/metadata" for one in self._paths("v1")}:
            self._send_json(self._serving_metadata())
        else:
            self._send_json({"error": "no such model"}, 404)

    def do_POST(self) -> None:
        size = int(self.headers["content-length"])
        if size > self.owner.body_at_most:
            self.rfile.read(size)
            self._send(413, b"")
            return
        body = self.rfile.read(size)
        if not self._allowed():
            return
        if self.path in {f"{one}/infer" for one in self._paths("v2")}:
            self._infer(body)
        elif self.path in {f"{one}:predict" for one in self._paths("v1")}:
            self._predict(body)
        else:
            self._send_json({"error": "no such model"}, 404)

    def _allowed(self) -> bool:
        token = self.owner.token
        allowed = token is None or self.headers.get("authorization") == f"Bearer {token}"
        if not allowed:
            self._send(401, b"")
        return allowed

    def _paths(self, version: str) -> set[str]:
        model = self.owner.model
        path = f"/{version}/models/{model.name}"
        return {path} | ({f"{path}/versions/{model.version}"} if model.version else set())

    def _metadata(self) -> dict[str, Any]:
        model = self.owner.model
        own = [{"name": model.input, "datatype": model.datatype, "shape": [model.batch, *model.row]}]
        return {
            "name": model.name,
            "versions": [model.version] if model.version else [],
            "platform": model.platform,
            "inputs": own if model.inputs is None else model.inputs,
            "outputs": [
                {"name": name, "datatype": "FP32", "shape": [-1, model.columns]} for name in (*model.other_outputs, model.output)
            ],
        }

    def _serving_metadata(self) -> dict[str, Any]:
        model = self.owner.model

        def tensor(datatype: str, shape: tuple[int, ...]) -> dict[str, Any]:
            dims = [{"size": str(size), "name": ""} for size in shape]
            return {"dtype": _SERVING_TYPES[datatype], "tensor_shape": {"dim": dims, "unknown_rank": False}, "name": "x:0"}

        outputs = {name: tensor("FP32", (-1, model.columns)) for name in (*model.other_outputs, model.output)}
        signature = {"inputs": {model.input: tensor(model.datatype, (model.batch, *model.row))}, "outputs": outputs}
        return {
            "model_spec": {"name": model.name, "signature_name": "", "version": model.version},
            "metadata": {"signature_def": {"signature_def": {"serving_default": signature}}},
        }

    def _infer(self, body: bytes) -> None:
        length = self.headers.get("inference-header-content-length")
        document = json.loads(body[: int(length)] if length else body)
        (given,) = document["inputs"]
        dtype, shape = np.dtype(_TYPES[given["datatype"]]), given["shape"]
        if length:
            if not self.owner.takes_bytes:
                self._send_json({"error": "expected JSON"}, 400)
                return
            assert given["parameters"]["binary_data_size"] == len(body) - int(length)
            rows = np.frombuffer(body[int(length) :], dtype).reshape(shape)
        else:
            rows = np.array(given["data"], np.float64).astype(dtype).reshape(shape)
        self._answer(rows, bool(length), lambda scores: self._send_outputs(document, scores, bool(length)))

    def _predict(self, body: bytes) -> None:
        document = json.loads(body)
        model = self.owner.model
        assert document.get("signature_name", "serving_default") == "serving_default"
        given = document["inputs"][model.input] if "inputs" in document else document["instances"]
        rows = np.array(given, np.float64).astype(_TYPES[model.datatype])
        self._answer(rows, False, self._send_predictions)

    def _answer(self, rows: NDArray[Any], binary: bool, send: Callable[[Scores], None]) -> None:
        owner = self.owner
        owner.asked.append(Asked(rows, binary, {name.lower(): value for name, value in self.headers.items()}))
        fault = owner.fault
        if fault == "slow":
            self.server.ended.wait(owner.delay_s)
        if fault in ("silent", "drip"):
            until = time.monotonic() + 60
            while not self.server.ended.wait(0.05 if fault == "drip" else 1) and time.monotonic() < until:
                if fault == "drip":
                    self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return
        if fault == "lost":
            self.close_connection = True
            return
        if fault is not None and self._raw_fault(fault):
            return
        scores = np.asarray(owner.model.scores(rows))
        if fault == "fewer_rows":
            scores = scores[:-1]
        elif fault == "fewer_columns":
            scores = scores[:, :-1]
        elif fault == "nan":
            scores = np.full_like(scores, np.nan)
        elif fault == "no_distribution":
            scores = scores + 1
        send(scores)

    def _raw_fault(self, fault: str) -> bool:
        """Answer with no answer; False when the fault is another one."""
        if fault.startswith("status_"):
            self._send_json({"error": "secret internals"}, int(fault.removeprefix("status_")))
        elif fault == "no_json":
            self._send(200, b"<html>")
        elif fault == "no_http":
            self.wfile.write(b"220 mail.example.com ESMTP\r\n")
            self.close_connection = True
        elif fault == "redirect":
            self._send(307, b"", location=self.path)
        elif fault == "huge":
            self.wfile.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            for _ in range(4096):
                self.wfile.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
        elif fault == "huge_declared":
            self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n")
            self.close_connection = True
        elif fault == "endless_head":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            for _ in range(1 << 14):
                self.wfile.write(b"x-more: " + b"y" * 1000 + b"\r\n")
            self.close_connection = True
        elif fault == "cut":
            self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{")
            self.close_connection = True
        elif fault == "compressed":
            self._send(200, b"\x1f\x8b", content_encoding="gzip")
        else:
            return False
        return True

    def _send_outputs(self, document: dict[str, Any], scores: Scores, asked_in_bytes: bool) -> None:
        model, fault = self.owner.model, self.owner.fault
        wanted = [output["name"] for output in document.get("outputs", ())] or [model.output]
        in_bytes = asked_in_bytes and self.owner.gives_bytes
        outputs, tail = [], b""
        for name in (*model.other_outputs, model.output):
            if name not in wanted and self.owner.gives_bytes:
                continue
            found = scores if name == model.output else scores[:, :1]
            one: dict[str, Any] = {
                "name": "others" if fault == "no_output" else name,
                "datatype": "FP32",
                "shape": list(found.shape),
            }
            if in_bytes:
                data = found.astype("<f4").tobytes()
                one["parameters"] = {"binary_data_size": len(data)}
                tail += data
            else:
                one["data"] = [None if np.isnan(value) else float(value) for value in found.ravel().astype(np.float32)]
                if fault == "text":
                    one["data"] = ["0.5"] * found.size
                if fault == "ragged":
                    one["data"] = [[0.5], [0.5, 0.5]]
            outputs.append(one)
        answer: dict[str, Any] = {"model_name": "birds" if fault == "other_name" else model.name, "outputs": outputs}
        answer["id"] = "another" if fault == "other_request" else document.get("id")
        if model.version:
            answer["model_version"] = model.version
        if in_bytes and fault in ("text", "ragged"):
            tail += b"\0"
        head = json.dumps(answer).encode()
        if in_bytes:
            self._send(200, head + tail, inference_header_content_length=str(len(head)), content_type="application/octet-stream")
        else:
            self._send(200, head)

    def _send_predictions(self, scores: Scores) -> None:
        model, fault = self.owner.model, self.owner.fault
        values: Any = scores.astype(np.float32).tolist()
        if fault == "text":
            values = [["0.5"] * scores.shape[1]] * len(scores)
        if fault == "ragged":
            values = [[0.5], *values[1:], [0.5, 0.5]]
        several = bool(model.other_outputs) or fault == "no_output"
        name = "others" if fault == "no_output" else model.output
        if self.owner.format == "rows":
            self._send_json({"predictions": [{name: row} for row in values] if several else values})
        else:
            self._send_json({"outputs": {name: values} if several else values})

    def _send_json(self, document: Any, status: int = 200) -> None:
        self._send(status, json.dumps(document).encode())

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)
