"""The spans of a request, made after the fact, as the collector reads them."""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from defences.defended_classifier import Interval
from models.errors import InvalidInput
from service.observing import tracing
from service.observing.spans import own_intervals
from service.observing.tracing import RequestExporter, Tracer, parent_of

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{SPAN}-01".encode()
RESOURCE = Resource({"service.name": "hauberk", "hauberk.model": "mnist"}, schema_url="")
STAGES = ("queue", "purify", "predict", "abstain", "obscure")


def exchange(*headers: tuple[bytes, bytes], method: str = "POST", intervals: tuple[Interval, ...] = (), images: int = 2) -> Any:
    """A request that began a second ago."""
    return SimpleNamespace(
        scope={"method": method, "headers": list(headers)},
        started=time.perf_counter() - 1,
        id=b"r-1",
        images=images,
        abstained=1,
        intervals=intervals,
    )


def sent(given: Any, *, route: str = "/predict", status: int = 200) -> ExportTraceServiceRequest:
    """What the collector gets."""
    bodies: list[bytes] = []

    def send(body: bytes) -> bool:
        bodies.append(body)
        return True

    exporter = RequestExporter(send, RESOURCE, lambda: None)
    Tracer(SimpleSpanProcessor(exporter)).ended(given, route, status)
    read = ExportTraceServiceRequest()
    for body in bodies:
        read.ParseFromString(body)
    return read


def spans(given: Any, *, route: str = "/predict", status: int = 200) -> list[Any]:
    groups = sent(given, route=route, status=status).resource_spans
    return list(groups[0].scope_spans[0].spans) if groups else []


def attributes(span: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


def stages() -> tuple[Interval, ...]:
    now = time.perf_counter()
    return tuple(Interval(s, now - 0.9 + 0.1 * i, now - 0.8 + 0.1 * i) for i, s in enumerate(STAGES))


def test_a_request_is_the_root_and_each_of_its_stages_a_child_within_it() -> None:
    *children, request = spans(exchange(intervals=stages()))
    assert [child.name for child in children] == list(STAGES)
    assert (request.name, request.kind, request.parent_span_id) == ("POST /predict", SpanKind.SERVER.value + 1, b"")
    assert {child.trace_id for child in children} == {request.trace_id}
    assert {child.parent_span_id for child in children} == {request.span_id}
    assert len({span.span_id for span in (request, *children)}) == 6
    assert request.start_time_unix_nano <= children[0].start_time_unix_nano
    assert children[-1].end_time_unix_nano <= request.end_time_unix_nano
    assert all(abs(child.end_time_unix_nano - child.start_time_unix_nano - 100_000_000) < 1000 for child in children)
    assert abs(time.time_ns() - request.end_time_unix_nano) < 60_000_000_000
    assert attributes(request) == {
        "http.request.method": "POST",
        "http.route": "/predict",
        "http.response.status_code": 200,
        "hauberk.request_id": "r-1",
        "hauberk.images": 2,
        "hauberk.abstained": 1,
    }


@pytest.mark.parametrize("parent", [(), ((b"traceparent", TRACEPARENT),)])
@pytest.mark.parametrize(("status", "images"), [(200, 0), (422, 127), (500, 128), (504, 1 << 40)])
def test_the_bytes_say_what_the_sdks_own_encoder_says_of_the_same_spans(
    parent: tuple[tuple[bytes, bytes], ...], status: int, images: int
) -> None:
    found = sent(exchange(*parent, intervals=stages(), images=images), status=status)
    expected = encode_spans([as_of_the_sdk(span, found) for span in found.resource_spans[0].scope_spans[0].spans])
    for request in (found, expected):
        for span in request.resource_spans[0].scope_spans[0].spans:
            span.attributes.sort(key=lambda attribute: attribute.key)
    assert found == expected


def as_of_the_sdk(span: Any, request: ExportTraceServiceRequest) -> ReadableSpan:
    """The span that the SDK would have encoded, by what this one says of itself."""
    flags, trace_id = TraceFlags(TraceFlags.SAMPLED), int.from_bytes(span.trace_id, "big")
    remote = bool(span.flags & 0x200)
    above = int.from_bytes(span.parent_span_id, "big")
    return ReadableSpan(
        span.name,
        context=SpanContext(trace_id, int.from_bytes(span.span_id, "big"), is_remote=False, trace_flags=flags),
        parent=SpanContext(trace_id, above, is_remote=remote, trace_flags=flags) if above else None,
        resource=RESOURCE,
        attributes=attributes(span),
        kind=SpanKind(span.kind - 1),
        status=Status(StatusCode(span.status.code)),
        start_time=span.start_time_unix_nano,
        end_time=span.end_time_unix_nano,
        instrumentation_scope=InstrumentationScope("hauberk"),
    )


def test_a_failure_of_ours_is_an_error_and_a_client_that_left_has_no_status() -> None:
    (failed,) = spans(exchange(), status=500)
    (refused,) = spans(exchange(), status=422)
    (left,) = spans(exchange(), status=499)
    assert [span.status.code for span in (failed, refused)] == [StatusCode.ERROR.value, StatusCode.UNSET.value]
    assert attributes(left)["error.type"] == "client_left"
    assert "http.response.status_code" not in attributes(left)


def test_a_method_that_is_the_clients_own_word_is_not_told() -> None:
    (span,) = spans(exchange(method="SECRET"), status=405)
    assert (span.name, attributes(span)["http.request.method"]) == ("HTTP /predict", "_OTHER")


def test_the_callers_trace_goes_on_and_it_may_say_that_it_is_none() -> None:
    (request,) = spans(exchange((b"traceparent", TRACEPARENT)))
    assert (request.trace_id.hex(), request.parent_span_id.hex(), request.flags) == (TRACE, SPAN, 0x300)
    assert spans(exchange((b"traceparent", TRACEPARENT[:-2] + b"00"))) == []


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01",
        b"00-0af7651916cd43dd8448eb211c80319c-" + b"0" * 16 + b"-01",
        TRACEPARENT.upper(),
        TRACEPARENT[:-1],
        TRACEPARENT + b"-more",
        TRACEPARENT + b"\n",
        b"ff" + TRACEPARENT[2:],
        b" " + TRACEPARENT,
    ],
)
def test_a_traceparent_that_is_not_well_formed_begins_a_new_trace(value: bytes) -> None:
    assert parent_of([(b"traceparent", value)]) is None
    (request,) = spans(exchange((b"traceparent", value)))
    assert request.parent_span_id == b""
    assert request.trace_id.hex() != TRACE


def test_a_later_version_may_say_more_and_two_headers_say_nothing() -> None:
    parent = parent_of([(b"host", b"x"), (b"traceparent", b"01" + TRACEPARENT[2:] + b"-more")])
    assert parent is not None
    assert parent.trace_id == int(TRACE, 16)
    assert parent_of([(b"traceparent", TRACEPARENT)] * 2) is None


def test_what_the_worker_did_for_others_is_left_out_and_neighbours_are_one() -> None:
    walk = ["queue", "purify", "abstain", "abstain", "predict", "abstain", "abstain"]
    walk += ["obscure", "purify", "abstain", "abstain", "predict", "abstain", "obscure"]  # others: decided, and come
    intervals = [Interval(stage, i, i + 1) for i, stage in enumerate(walk)]
    intervals.insert(5, Interval("predict", 5, 5))
    assert list(own_intervals(intervals)) == [
        Interval("queue", 0, 1),
        Interval("purify", 1, 2),
        Interval("abstain", 2, 4),
        Interval("predict", 4, 5),
        Interval("abstain", 5, 13),
        Interval("obscure", 13, 14),
    ]
    assert list(own_intervals([])) == []


def test_without_what_sends_spans_tracing_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, tracing._EXPORTER, None)
    with pytest.raises(InvalidInput, match=r"pip install 'hauberk\[tracing\]'"):
        tracing.check()


def test_what_sends_bytes_is_there_and_a_version_without_it_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    send, close = tracing.sender()
    assert callable(send)
    close()
    monkeypatch.setattr("opentelemetry.exporter.otlp.proto.http.trace_exporter.OTLPSpanExporter", SimpleNamespace)
    with pytest.raises(InvalidInput, match=r"install a version that pyproject\.toml names"):
        tracing.sender()


def test_the_exporter_says_whether_the_collector_has_them_and_ends_what_sends() -> None:
    ended: list[bool] = []
    for has, said in ((True, SpanExportResult.SUCCESS), (False, SpanExportResult.FAILURE)):
        exporter = RequestExporter(lambda _, has=has: has, RESOURCE, lambda: ended.append(True))  # type: ignore[misc]
        assert exporter.export([]) is said
        exporter.shutdown()
    assert ended == [True, True]
