"""The spans of a request, made after the fact."""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import SpanKind, StatusCode

from defences.defended_classifier import Interval
from models.errors import InvalidInput
from service.observing import tracing
from service.observing.tracing import Tracer, own_intervals, parent_of

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{SPAN}-01".encode()


class Kept(SpanProcessor):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


def exchange(*headers: tuple[bytes, bytes], method: str = "POST", intervals: tuple[Interval, ...] = ()) -> Any:
    """A request that began a second ago."""
    return SimpleNamespace(
        scope={"method": method, "headers": list(headers)},
        started=time.perf_counter() - 1,
        request_id="r-1",
        images=2,
        abstained=1,
        intervals=intervals,
    )


def spans(given: Any, *, route: str = "/predict", status: int = 200) -> list[Any]:
    processor = Kept()
    Tracer(processor, Resource({"service.name": "hauberk"})).ended(given, route, status)
    return processor.spans


def test_a_request_is_the_root_and_each_of_its_stages_a_child_within_it() -> None:
    now = time.perf_counter()
    stages = ("queue", "purify", "predict", "abstain", "obscure")
    given = exchange(intervals=tuple(Interval(s, now - 0.9 + 0.1 * i, now - 0.8 + 0.1 * i) for i, s in enumerate(stages)))
    *children, request = spans(given)
    assert [child.name for child in children] == list(stages)
    assert (request.name, request.kind, request.parent) == ("POST /predict", SpanKind.SERVER, None)
    assert {child.context.trace_id for child in children} == {request.context.trace_id}
    assert all(child.parent == request.context for child in children)
    assert len({span.context.span_id for span in (request, *children)}) == 6
    assert request.start_time <= children[0].start_time
    assert children[-1].end_time <= request.end_time
    assert all(abs(child.end_time - child.start_time - 100_000_000) < 1000 for child in children)
    assert abs(time.time_ns() - request.end_time) < 60_000_000_000
    assert dict(request.attributes) == {
        "http.request.method": "POST",
        "http.route": "/predict",
        "http.response.status_code": 200,
        "hauberk.request_id": "r-1",
        "hauberk.images": 2,
        "hauberk.abstained": 1,
    }


def test_a_failure_of_ours_is_an_error_and_a_client_that_left_has_no_status() -> None:
    (failed,) = spans(exchange(), status=500)
    (refused,) = spans(exchange(), status=422)
    (left,) = spans(exchange(), status=499)
    assert [span.status.status_code for span in (failed, refused)] == [StatusCode.ERROR, StatusCode.UNSET]
    assert left.attributes["error.type"] == "client_left"
    assert "http.response.status_code" not in left.attributes


def test_a_method_that_is_the_clients_own_word_is_not_told() -> None:
    (span,) = spans(exchange(method="SECRET"), status=405)
    assert (span.name, span.attributes["http.request.method"]) == ("HTTP /predict", "_OTHER")


def test_the_callers_trace_goes_on_and_it_may_say_that_it_is_none() -> None:
    (request,) = spans(exchange((b"traceparent", TRACEPARENT)))
    assert (request.context.trace_id, request.parent.span_id) == (int(TRACE, 16), int(SPAN, 16))
    assert request.parent.is_remote
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
    assert request.parent is None
    assert request.context.trace_id != int(TRACE, 16)


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
    monkeypatch.setattr(sys, "meta_path", [])
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter", None)
    with pytest.raises(InvalidInput, match=r"pip install 'hauberk\[tracing\]'"):
        tracing.check()
