"""Trace spans, as OpenTelemetry has them, one tree a request, sent by OTLP over HTTP to a collector.

    POST /predict                                     from the request's head to the end of the answer
    ├── queue                                         until the worker let its images in
    ├── purify · abstain · predict · abstain · obscure   the worker's time, as it was spent

Made afterwards from times that are measured anyway: a request that is not traced costs one look at an attribute. Stages are the
batch's: a request waits for all that rides with it. `abstain` comes twice, before the forward call and from the images' end of it to
the last probe's; what the worker did for others meanwhile is left out.

The spans are built here and handed to the SDK's processor, which gathers and sends them in a thread of its own and drops what it
cannot hold; no tracer is made, so that OTEL_SDK_DISABLED can keep BentoML's five spans a request away.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from defences.defended_classifier import Interval
from models.errors import InvalidInput
from service.edge.exchange import CLIENT_LEFT, Exchange

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

_EXPORTER = "opentelemetry.exporter.otlp.proto.http"
# W3C Trace Context, level 2: a later version may say more behind a dash, version ff is none.
_TRACEPARENT = re.compile(rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_METHODS = frozenset(("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"))
_random = random.Random()  # noqa: S311  # unique, not secret
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


class Tracer:
    """Makes the spans of requests.

    Args:
        processor: is given every span when its request has ended.
        resource: what all spans are about.
    """

    def __init__(self, processor: SpanProcessor, resource: Resource) -> None:
        self._processor, self._resource = processor, resource
        self._scope = InstrumentationScope("hauberk")

    def ended(self, exchange: Exchange, route: str, status: int) -> None:
        """A request ends, now; a client that passed a trace on decides whether it is traced, every other request is."""
        parent = parent_of(exchange.scope["headers"])
        if parent is not None and not parent.trace_flags.sampled:
            return
        now, now_ns = time.perf_counter(), time.time_ns()
        method = exchange.scope["method"] if exchange.scope["method"] in _METHODS else "_OTHER"
        request = self._span(
            f"{'HTTP' if method == '_OTHER' else method} {route}",
            parent,
            exchange.started - now,
            0.0,
            now_ns,
            kind=SpanKind.SERVER,
            attributes=_attributes(exchange, method, route, status),
            status=Status(StatusCode.ERROR if status >= 500 else StatusCode.UNSET),
        )
        for stage, started, ended in own_intervals(exchange.intervals):
            self._processor.on_end(self._span(stage, request.context, started - now, ended - now, now_ns))
        self._processor.on_end(request)

    def close(self) -> None:
        """Send the spans gathered so far; blocks, as long as the exporter's timeout at most."""
        self._processor.shutdown()

    def _span(
        self, name: str, parent: SpanContext | None, started: float, ended: float, now_ns: int, **options: Any
    ) -> ReadableSpan:
        """A span between two times in seconds from now; a child of the parent's trace, or the root of a new one."""
        trace_id = _random.getrandbits(128) if parent is None else parent.trace_id
        return ReadableSpan(
            name,
            context=SpanContext(trace_id or 1, _random.getrandbits(64) or 1, is_remote=False, trace_flags=_SAMPLED),
            parent=parent,
            resource=self._resource,
            start_time=now_ns + int(started * 1e9),
            end_time=now_ns + int(ended * 1e9),
            instrumentation_scope=self._scope,
            **options,
        )


def _attributes(exchange: Exchange, method: str, route: str, status: int) -> dict[str, str | int]:
    attributes: dict[str, str | int] = {
        "http.request.method": method,
        "http.route": route,
        "hauberk.request_id": exchange.request_id,
        "hauberk.images": exchange.images,
        "hauberk.abstained": exchange.abstained,
    }
    if status == CLIENT_LEFT:
        return attributes | {"error.type": "client_left"}
    return attributes | {"http.response.status_code": status}


def parent_of(headers: Iterable[tuple[bytes, bytes]]) -> SpanContext | None:
    """The caller's span, by the one well-formed `traceparent` among the headers; None without."""
    given = [value for name, value in headers if name == b"traceparent"]
    found = _TRACEPARENT.fullmatch(given[0]) if len(given) == 1 else None
    if found is None or (found[1] == b"00" and found[5]):
        return None
    flags = TraceFlags(int(found[4], 16) & TraceFlags.SAMPLED)
    return SpanContext(int(found[2], 16), int(found[3], 16), is_remote=True, trace_flags=flags)


def own_intervals(intervals: Sequence[Interval]) -> Iterator[Interval]:
    """A request's own stages, in order, of all that the worker did while it had its images.

    Images are purified and predicted once, as soon as they are let in, and obscured when they are decided: what else there is of
    these is of others. Intervals of one stage that are neighbours now are one; empty ones are dropped.
    """
    firsts = {stage: next((i for i in intervals if i.stage == stage), None) for stage in ("purify", "predict")}
    last = next((i for i in reversed(intervals) if i.stage == "obscure"), None)
    open_: Interval | None = None
    for interval in intervals:
        if interval is not firsts.get(interval.stage, interval) or (interval.stage == "obscure" and interval is not last):
            continue
        if interval.ended <= interval.started:
            continue
        if open_ is not None and open_.stage == interval.stage:
            open_ = open_._replace(ended=interval.ended)
            continue
        if open_ is not None:
            yield open_
        open_ = interval
    if open_ is not None:
        yield open_


def check() -> None:
    """Raises: InvalidInput when what sends spans is not installed."""
    try:
        found = find_spec(_EXPORTER)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise InvalidInput(f"HAUBERK_TRACING needs {_EXPORTER}, which is not installed: pip install 'hauberk[tracing]'")


def start(*, software: str, model: str, model_version: str) -> Tracer:
    """A tracer that sends to where the OTEL_EXPORTER_OTLP_... variables say. Raises: InvalidInput."""
    check()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    about = {"service.version": software, "hauberk.model": model, "hauberk.model_version": model_version}
    if not os.environ.get("OTEL_SERVICE_NAME"):
        about["service.name"] = "hauberk"
    return Tracer(BatchSpanProcessor(OTLPSpanExporter()), Resource.create(about))
