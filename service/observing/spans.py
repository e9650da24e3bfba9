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
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from opentelemetry.trace import SpanContext, SpanKind, StatusCode, TraceFlags

from defences.defended_classifier import Interval
from service.edge.exchange import CLIENT_LEFT

_METHODS = frozenset(("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"))
_ONCE = frozenset(("purify", "predict"))
_random = random.Random()  # noqa: S311  # unique, not secret

# Tags: a field's number and how it is written (0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes).
_TRACE_ID, _SPAN_ID, _PARENT = b"\x0a\x10", b"\x12\x08", b"\x22\x08"
_STARTED, _ENDED = b"\x39", b"\x41"
_NAME, _KIND, _ATTRIBUTE, _STATUS, _FLAGS = 0x2A, 0x30, 0x4A, 0x7A, b"\x85\x01"
_SPAN_OF_SCOPE = 0x12
# Ids and times, each after its tag: of a stage; and of a request, where the caller's span comes between them.
_CHILD, _ROOT, _TIMES = struct.Struct("<2s16s2s8s2s8scQcQ"), struct.Struct("<2s16s2s8s"), struct.Struct("<cQcQ")
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
        spans: list[bytes] = []
        now, now_ns = self.now, self.now_ns
        for at, (stage, started, ended) in enumerate(stages, start=3):
            tag, about = _stage(stage)
            times = now_ns + int((started - now) * 1e9), _ENDED, now_ns + int((ended - now) * 1e9)
            span_id = ids[8 * at : 8 * at + 8]
            spans += tag, _CHILD.pack(_TRACE_ID, trace_id, _SPAN_ID, span_id, _PARENT, own_id, _STARTED, *times), about
        above = b"" if self.parent is None else _PARENT + self.parent.span_id.to_bytes(8, "big")
        flags = _HAS_IS_REMOTE | (_IS_REMOTE if self.parent is not None and self.parent.is_remote else 0)
        about = _request(self.method, self.route, self.status, flags)
        named, counted = _request_id(len(self.request_id)), _counts(self.images, self.abstained)
        own = _ROOT.pack(_TRACE_ID, trace_id, _SPAN_ID, own_id)
        own_times = _TIMES.pack(_STARTED, now_ns + int((self.started - now) * 1e9), _ENDED, now_ns)
        spans.append(_field(_SPAN_OF_SCOPE, b"".join((own, above, own_times, about, named, self.request_id, counted))))
        return b"".join(spans)


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
def _stage(name: str) -> tuple[bytes, bytes]:
    """What comes before the ids and times of a stage's span, and what comes after them."""
    about = _described(name, _INTERNAL, StatusCode.UNSET, _HAS_IS_REMOTE)
    return b"%c%b" % (_SPAN_OF_SCOPE, _varint(_CHILD.size + len(about))), about


@lru_cache(maxsize=256)
def _request_id(length: int) -> bytes:
    """The attribute of a request id of so many bytes, without them."""
    return _attribute(b"hauberk.request_id", _field(0x0A, bytes(length)))[: -length or None]


@lru_cache(maxsize=1 << 10)
def _counts(images: int, abstained: int) -> bytes:
    counted = ((b"hauberk.images", images), (b"hauberk.abstained", abstained))
    return b"".join(_attribute(name, _number(0x18, count)) for name, count in counted)


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


def own_intervals(intervals: Sequence[Interval]) -> Iterator[tuple[str, float, float]]:
    """A request's own stages, in order, of all that the worker did while it had its images.

    Images are purified and predicted once, as soon as they are let in, and obscured when they are decided: what else there is of
    these is of others. Intervals of one stage that are neighbours now are one; empty ones are dropped.
    """
    last = len(intervals) - 1
    while last >= 0 and intervals[last].stage != "obscure":
        last -= 1
    left = set(_ONCE)
    open_stage, opened, closes = "", 0.0, 0.0
    for i, (stage, started, ended) in enumerate(intervals):
        if stage in _ONCE:
            if stage not in left:
                continue
            left.discard(stage)
        if ended <= started or (stage == "obscure" and i != last):
            continue
        if stage != open_stage:
            if open_stage:
                yield open_stage, opened, closes
            open_stage, opened = stage, started
        closes = ended
    if open_stage:
        yield open_stage, opened, closes
