"""A collector of OpenTelemetry spans, in this process: takes OTLP over HTTP and keeps what comes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Collector:
    """What was sent to `url`: spans as dicts, and the attributes of what they are about."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.spans: list[dict[str, Any]] = []
        self.resource: dict[str, Any] = {}

    def take(self, body: bytes) -> None:
        """Keep the spans of a request to /v1/traces."""
        request = ExportTraceServiceRequest()
        request.ParseFromString(body)
        for group in request.resource_spans:
            self.resource = _plain(group.resource.attributes)
            for scope in group.scope_spans:
                self.spans += [_span(span) | {"scope": scope.scope.name} for span in scope.spans]

    def of_trace(self, trace_id: str) -> list[dict[str, Any]]:
        """The spans of a trace, by their beginnings."""
        return sorted((span for span in self.spans if span["trace_id"] == trace_id), key=lambda span: span["started"])


def _span(span: Any) -> dict[str, Any]:
    return {
        "name": span.name,
        "trace_id": span.trace_id.hex(),
        "id": span.span_id.hex(),
        "parent": span.parent_span_id.hex(),
        "started": span.start_time_unix_nano,
        "ended": span.end_time_unix_nano,
        "attributes": _plain(span.attributes),
    }


def _plain(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on loopback, while it is entered."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.path == "/v1/traces":
                collector.take(body)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Not into the tests' output."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector = Collector(f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield collector
        server.shutdown()
