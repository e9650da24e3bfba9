"""Trace spans, as OpenTelemetry has them, one tree a request, sent by OTLP over HTTP to a collector.

    ended (event loop): what was measured ──> [ the SDK's bounded queue ] ──> its thread: encode (spans.py), send

Made afterwards from times that are measured anyway: a request that is not traced costs one look at an attribute. Stages are the
batch's: a request waits for all that rides with it. `abstain` comes twice, before the forward call and from the images' end of it to
the last probe's; what the worker did for others meanwhile is left out.

The SDK's processor gathers and sends, and drops what it cannot hold; no tracer is made, so that OTEL_SDK_DISABLED can keep BentoML's
five spans a request away.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import SpanContext, TraceFlags

from models.errors import InvalidInput
from service.edge.exchange import Exchange
from service.observing.spans import TracedRequest, export_request

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

_DISTRIBUTION = "opentelemetry-exporter-otlp-proto-http"
_EXPORTER = "opentelemetry.exporter.otlp.proto.http"
_SCOPE = "hauberk"
# W3C Trace Context, level 2: a later version may say more behind a dash, version ff is none.
_TRACEPARENT = re.compile(rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class Tracer:
    """Takes requests that have ended.

    Args:
        processor: is given each, and hands them to its exporter, many together, in a thread of its own.
    """

    def __init__(self, processor: SpanProcessor) -> None:
        self._processor = processor

    def ended(self, exchange: Exchange, route: str, status: int) -> None:
        """A request ends, now; a client that passed a trace on decides whether it is traced, every other request is."""
        parent = parent_of(exchange.scope["headers"])
        if parent is not None and not parent.trace_flags.sampled:
            return
        request = TracedRequest(
            exchange.scope["method"],
            route,
            status,
            parent,
            exchange.started,
            time.perf_counter(),
            time.time_ns(),
            exchange.id,
            exchange.images,
            exchange.abstained,
            exchange.intervals,
        )
        self._processor.on_end(cast("ReadableSpan", request))  # it looks at the context, and keeps it for the exporter

    def close(self) -> None:
        """Send the spans gathered so far; blocks, as long as the exporter's timeout at most."""
        self._processor.shutdown()


def parent_of(headers: Iterable[tuple[bytes, bytes]]) -> SpanContext | None:
    """The caller's span, by the one well-formed `traceparent` among the headers; None without."""
    given = [value for name, value in headers if name == b"traceparent"]
    found = _TRACEPARENT.fullmatch(given[0]) if len(given) == 1 else None
    if found is None or (found[1] == b"00" and found[5]):
        return None
    flags = TraceFlags(int(found[4], 16) & TraceFlags.SAMPLED)
    return SpanContext(int(found[2], 16), int(found[3], 16), is_remote=True, trace_flags=flags)


class RequestExporter(SpanExporter):
    """Encodes requests and sends them.

    Args:
        send: sends a body of OTLP, and says whether the collector has it.
        resource: what all spans are about.
        close: is called at the end.
    """

    def __init__(self, send: Callable[[bytes], bool], resource: Resource, close: Callable[[], object]) -> None:
        self._send, self._close = send, close
        self._resource = _encoded(resource)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send these requests."""
        requests = cast("Sequence[TracedRequest]", spans)
        body = export_request(self._resource, _SCOPE, b"".join([request.encoded() for request in requests]))
        return SpanExportResult.SUCCESS if self._send(body) else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """Nothing more comes."""
        self._close()


def _encoded(resource: Resource) -> bytes:
    """The resource, as the SDK encodes it beside a span."""
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

    span = ReadableSpan("", context=TracedRequest.context, resource=resource)
    encoded: bytes = encode_spans([span]).resource_spans[0].resource.SerializeToString()
    return encoded


def check() -> None:
    """Raises: InvalidInput when what sends spans is not installed."""
    try:
        found = find_spec(_EXPORTER)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise InvalidInput(f"HAUBERK_TRACING needs {_EXPORTER}, which is not installed: pip install 'hauberk[tracing]'")


def sender() -> tuple[Callable[[bytes], bool], Callable[[], object]]:
    """Sends bodies to where the OTEL_EXPORTER_OTLP_... variables say, and what ends that. Raises: InvalidInput."""
    check()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    exporter: Any = OTLPSpanExporter()
    export: Any = getattr(getattr(exporter, "_client", None), "export", None)  # its own way for bytes, which is not public
    if not callable(export):
        raise InvalidInput(
            f"{_DISTRIBUTION} {version(_DISTRIBUTION)} does not send bytes as expected; install a version that pyproject.toml names"
        )
    return lambda body: bool(export(body).success), exporter.shutdown


def start(*, software: str, model: str, model_version: str) -> Tracer:
    """A tracer that sends to where the OTEL_EXPORTER_OTLP_... variables say. Raises: InvalidInput."""
    send, close = sender()
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    about = {"service.version": software, "hauberk.model": model, "hauberk.model_version": model_version}
    if not os.environ.get("OTEL_SERVICE_NAME"):
        about["service.name"] = "hauberk"
    return Tracer(BatchSpanProcessor(RequestExporter(send, Resource.create(about), close)))
