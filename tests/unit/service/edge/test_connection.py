"""A connection while the queue is full: what is turned away before there is a request. uvicorn's own machinery, no socket."""

from __future__ import annotations

import asyncio
import json

import pytest

from benchmarks.harness import open_loop
from service.edge.connection import KEEP_ALIVE_S, MetricsConnection
from tests.unit.service.edge.wire import BODY, HEAD, REQUEST, At, Bench


def test_a_prediction_is_turned_away_counted_and_logged_and_the_next_one_served(at: At) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.send(REQUEST)
        head, _, body = bench.wire.written.partition(b"\r\n\r\n")
        document = json.loads(body)
        assert (document["status"], document["code"], document["request_id"]) == (503, "queue_full", "mine")
        lines = head.lower().split(b"\r\n")
        assert b"x-request-id: mine" in lines
        assert b"content-type: application/problem+json" in lines
        assert any(line.startswith(b"retry-after: ") for line in lines)
        assert bench.watcher.in_flight == 0
        bench.full = False
        await bench.send(REQUEST)

    bench = at(scenario)
    assert bench.wire.statuses == [503, 200]
    assert bench.wire.written.endswith(BODY)
    assert bench.watcher.codes == ["queue_full"]
    assert bench.watcher.ends == [("/predict", 503), ("/predict", 200)]
    assert [(line["request_id"], line["status"]) for line in bench.watcher.lines] == [("mine", 503), ("mine", 200)]


def test_an_idle_connection_outlives_the_patience_of_load_balancers(at: At) -> None:
    left: list[float] = []

    async def scenario(bench: Bench) -> None:
        bench.full = False
        await bench.send(REQUEST)
        closing = bench.connection.timeout_keep_alive_task
        assert closing is not None
        left.append(closing.when() - asyncio.get_running_loop().time())

    assert at(scenario).wire.statuses == [200]
    assert KEEP_ALIVE_S - 1 < left[0] <= KEEP_ALIVE_S
    assert KEEP_ALIVE_S > open_loop.IDLE_S


def test_it_is_answered_once_all_of_its_body_has_come(at: At) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.send(REQUEST[:-5])
        assert (bench.wire.written, bench.watcher.in_flight) == (b"", 1)
        bench.full = False  # what was said of it holds
        await bench.send(REQUEST[-5:] + REQUEST)

    assert at(scenario).wire.statuses == [503, 200]


def test_the_open_inference_protocol_gets_its_own_kind_of_error(at: At) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.send(REQUEST.replace(b"/predict", b"/v2/models/m/infer"))

    bench = at(scenario)
    assert bench.wire.statuses == [503]
    assert list(json.loads(bench.wire.written.partition(b"\r\n\r\n")[2])) == ["error"]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n", 200),
        (b"GET /predict HTTP/1.1\r\nhost: x\r\n\r\n", 405),
        (b"POST /nowhere HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n", 404),
        (REQUEST.replace(b"application/json", b"text/html"), 415),
        (HEAD + b"content-length: 101\r\n\r\n" + b"x" * 101, 413),
        # These go the long way, where the endpoint refuses: here there is one that does not.
        (HEAD + b"connection: close\r\ncontent-length: 0\r\n\r\n", 200),
        (HEAD + b"expect: 100-continue\r\ncontent-length: 0\r\n\r\n", 200),
    ],
)
def test_what_the_edge_has_to_say_comes_first(at: At, request_: bytes, status: int) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.send(request_)

    bench = at(scenario)
    assert [each for each in bench.wire.statuses if each != 100] == [status]
    assert "queue_full" not in bench.watcher.codes
    assert bench.watcher.in_flight == 0


def test_answers_come_in_the_order_of_their_requests(at: At) -> None:
    async def scenario(bench: Bench) -> None:
        bench.full = False
        await bench.send(REQUEST.replace(b"/predict", b"/slow"))
        bench.full = True
        await bench.send(REQUEST)
        assert bench.wire.written == b""
        bench.released.set()
        await bench.send(b"")

    assert at(scenario).wire.statuses == [200, 200]


def test_who_leaves_before_his_body_was_there_is_counted_as_gone(at: At) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.send(REQUEST[:-5])

    bench = at(scenario)
    assert (bench.wire.written, bench.watcher.ends, bench.watcher.in_flight) == (b"", [("/predict", 499)], 0)


def test_a_body_without_end_is_cut(at: At) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.send(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        for _ in range(3):
            await bench.send(b"32\r\n" + b"x" * 50 + b"\r\n")
        assert bench.wire.closed

    assert at(scenario).wire.written == b""


def test_nothing_waits_for_the_queue_on_the_port_for_metrics(at: At) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.send(REQUEST)

    assert at(scenario, MetricsConnection).wire.statuses == [200]
