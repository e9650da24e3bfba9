"""The spans of one request as OTLP's bytes: `Span` of opentelemetry/proto/trace/v1/trace.proto, in protocol buffers.

    POST /predict                                     from the request's head to the end of the answer
    ├── queue                                         until the worker let its images in
    ├── purify · abstain · predict · abstain · obscure   the worker's time, as it was spent

The SDK makes an object of each span, which is then read field by field in Python: 180 us for a request of seven spans, of the lock that
the event loop and the worker need too. Here a span is joined from parts that are the same for all of its name, and tests compare the
result with the SDK's.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from opentelemetry.trace import SpanContext, SpanKind, StatusCode, TraceFlags

from defences.defended_classifier import Interval
from service.edge.exchange import CLIENT_LEFT

_METHODS = frozenset(("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"))
_random = random.Random()  # noqa: S311  # unique, not secret

# Tags: a field's number and how it is written (0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes).
_TRACE_ID, _SPAN_ID, _PARENT = b"\x0a\x10", b"\x12\x08", b"\x22\x08"
_STARTED, _ENDED = b"\x39", b"\x41"
_NAME, _KIND, _ATTRIBUTE, _STATUS, _FLAGS = 0x2A, 0x30, 0x4A, 0x7A, b"\x85\x01"
_SPAN_OF_SCOPE = 0x12
_HAS_IS_REMOTE, _IS_REMOTE = 0x100, 0x200
_INTERNAL, _SERVER = SpanKind.INTERNAL.value + 1, SpanKind.SERVER.value + 1  # as OTLP numbers them


@dataclass(frozen=True, slots=True)
class TracedRequest:
    """What the spans of a request are made of.

    Attributes:
        parent: the caller's span. started, now: seconds of one clock; now_ns: the time of `now` since 1970.
        request_id, images, abstained, intervals: as the exchange has them.
        context: says to the SDK's processor that it is to be sent.
    """

    method: str
    route: str
    status: int
    parent: SpanContext | None
    started: float
    now: float
    now_ns: int
    request_id: bytes
    images: int
    abstained: int
    intervals: Sequence[Interval]

    context: ClassVar[SpanContext] = SpanContext(1, 1, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))

    def encoded(self) -> bytes:
        """Its spans, each as a field of `ScopeSpans`."""
        stages = list(own_intervals(self.intervals))
        ids = _random.randbytes(16 + 8 + 8 * len(stages))
        trace_id = ids[:16] if self.parent is None else self.parent.trace_id.to_bytes(16, "big")
        own_id = ids[16:24]
        spans = [
            self._span(trace_id, ids[24 + 8 * n : 32 + 8 * n], _stage(stage), started, ended, _PARENT + own_id)
            for n, (stage, started, ended) in enumerate(stages)
        ]
        above = b"" if self.parent is None else _PARENT + self.parent.span_id.to_bytes(8, "big")
        flags = _HAS_IS_REMOTE | (_IS_REMOTE if self.parent is not None and self.parent.is_remote else 0)
        about = b"".join(
            (
                _request(self.method, self.route, self.status, flags),
                _attribute(b"hauberk.request_id", _field(0x0A, self.request_id)),
                _attribute(b"hauberk.images", _number(0x18, self.images)),
                _attribute(b"hauberk.abstained", _number(0x18, self.abstained)),
            )
        )
        spans.append(self._span(trace_id, own_id, about, self.started, self.now, above))
        return b"".join(spans)

    def _span(self, trace_id: bytes, span_id: bytes, about: bytes, started: float, ended: float, above: bytes) -> bytes:
        span = b"".join(
            (
                _TRACE_ID,
                trace_id,
                _SPAN_ID,
                span_id,
                above,
                _STARTED,
                (self.now_ns + int((started - self.now) * 1e9)).to_bytes(8, "little"),
                _ENDED,
                (self.now_ns + int((ended - self.now) * 1e9)).to_bytes(8, "little"),
                about,
            )
        )
        return _field(_SPAN_OF_SCOPE, span)


@lru_cache(maxsize=1 << 10)
def _request(method: str, route: str, status: int, flags: int) -> bytes:
    """Name, kind, status and the attributes that requests share; a method that is the client's own word is not told."""
    method = method if method in _METHODS else "_OTHER"
    name = f"{'HTTP' if method == '_OTHER' else method} {route}"
    code = StatusCode.ERROR if status >= 500 else StatusCode.UNSET
    if status == CLIENT_LEFT:
        outcome = _attribute(b"error.type", _field(0x0A, b"client_left"))
    else:
        outcome = _attribute(b"http.response.status_code", _number(0x18, status))
    return b"".join(
        (
            _described(name, _SERVER, code, flags),
            _attribute(b"http.request.method", _field(0x0A, method.encode())),
            _attribute(b"http.route", _field(0x0A, route.encode())),
            outcome,
        )
    )


@lru_cache(maxsize=64)
def _stage(name: str) -> bytes:
    return _described(name, _INTERNAL, StatusCode.UNSET, _HAS_IS_REMOTE)


def _described(name: str, kind: int, code: StatusCode, flags: int) -> bytes:
    status = _number(0x18, code.value) if code.value else b""
    return _field(_NAME, name.encode()) + _number(_KIND, kind) + _field(_STATUS, status) + _FLAGS + flags.to_bytes(4, "little")


def _attribute(key: bytes, value: bytes) -> bytes:
    """A `KeyValue`; the value with the tag of its type in `AnyValue`: 0x0A text, 0x18 whole number."""
    return _field(_ATTRIBUTE, _field(0x0A, key) + _field(0x12, value))


def _field(tag: int, value: bytes) -> bytes:
    return b"%c%b%b" % (tag, _varint(len(value)), value)


def _number(tag: int, value: int) -> bytes:
    return b"%c%b" % (tag, _varint(value))


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the highest bit says that more follow."""
    if value < 0x80:
        return b"%c" % value
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def export_request(resource: bytes, scope: str, spans: bytes) -> bytes:
    """`ExportTraceServiceRequest`: spans of one resource, encoded, and one scope."""
    of_scope = _field(0x0A, _field(0x0A, scope.encode())) + spans
    return _field(0x0A, _field(0x0A, resource) + _field(0x12, of_scope))


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
