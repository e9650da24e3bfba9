"""The paths, through the edge and a real batcher, with a fake data path."""

from __future__ import annotations

import asyncio
import io
import json
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from PIL import Image
from prometheus_client import CollectorRegistry

from defences.errors import StageFailure
from models.bundle import Bundle
from service.batching import Batcher
from service.edge.exchange import Bounds
from service.edge.middleware import Edge
from service.edge.site import Site, Slot
from service.observing.metrics import Metrics
from service.routes.predict import Endpoints, is_loopback
from tests.unit.service.conftest import Stepwise

Ask = Callable[..., Coroutine[Any, Any, tuple[int, dict[bytes, bytes], bytes]]]
OFF = {"audit_log.py", "audit_events.py", "audit_file.py", "audit_and_spans.py", "tracing.py", "mitre_atlas.py"}
IMAGE = [[0.1, 0.1, 0.1], [0.1, 0.1, 0.1]]


def endpoints(bundle: Bundle, *, listens_on_loopback: bool = True) -> Endpoints:
    build = ("1.0", bundle.name, bundle.version)
    metrics = Metrics(CollectorRegistry(), labels=bundle.labels, build=build)
    return Endpoints(bundle, metrics, "1.0", images_at_most=4, listens_on_loopback=listens_on_loopback)


def run(made: Endpoints, scenario: Callable[[Ask], Awaitable[Any]], waves: Any = None) -> Any:
    """Serve these endpoints and run a scenario against them; without `waves` the classifier is still loading."""
    slot = Slot()
    slot.install(Site(routes=made.routes(10_000), observer=made.metrics, bounds=Bounds(body_timeout_s=1.0)))
    edge = Edge(None, slot=slot)  # type: ignore[arg-type]

    async def ask(
        path: str, body: bytes | None = None, server: str = "127.0.0.1", headers: Any = ()
    ) -> tuple[int, dict[bytes, bytes], bytes]:
        sent: list[Any] = []
        parts = [{"type": "http.request", "body": body or b""}]

        async def receive() -> Any:
            return parts.pop() if parts else await asyncio.sleep(60)

        async def send(message: Any) -> None:
            sent.append(message)

        scope: dict[str, Any] = {
            "type": "http",
            "path": path,
            "method": "GET" if body is None else "POST",
            "headers": headers,
            "server": (server, 3000),
        }
        await edge(scope, receive, send)
        return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]

    async def main() -> Any:
        if waves is not None:
            made.batcher = Batcher(Stepwise(waves), made.metrics)
        try:
            return await asyncio.wait_for(scenario(ask), 10)
        finally:
            if made.batcher is not None:
                await made.batcher.stop()

    return asyncio.run(main())


def test_a_prediction_has_the_members_of_the_contract_and_no_other(bundle: Bundle, waves: Any) -> None:
    async def scenario(ask: Ask) -> Any:
        return await ask("/predict", orjson.dumps({"images": [IMAGE, [[1, 1, 1], [1, 1, 1]]]}))

    status, headers, body = run(endpoints(bundle), scenario, waves)
    answer = json.loads(body)
    assert (status, headers[b"content-type"]) == (200, b"application/json")
    assert answer == {
        "model": "insects",
        "model_version": "0123456789ab",
        "request_id": headers[b"x-request-id"].decode(),
        "predictions": [
            {"label": "ant", "probabilities": [0.1, 0.1, 0.1], "abstained": False},
            {"label": None, "probabilities": None, "abstained": True},
        ],
    }


def test_an_audit_log_and_spans_that_are_off_are_no_code_that_runs(bundle: Bundle, waves: Any) -> None:
    ran: set[str] = set()

    def note(frame: Any, _: str, __: Any) -> None:
        ran.add(Path(frame.f_code.co_filename).name)

    async def scenario(ask: Ask) -> Any:
        threading.setprofile(note)  # before the batcher's thread is
        sys.setprofile(note)
        try:
            made.batcher = Batcher(Stepwise(waves), made.metrics)
            return [await ask("/predict", body) for body in (orjson.dumps({"images": [IMAGE]}), b"no JSON")]
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    made = endpoints(bundle)
    assert [status for status, _, _ in run(made, scenario)] == [200, 400]
    assert {"middleware.py", "exchange.py", "site.py", "predict.py", "batching.py"} <= ran
    assert not ran & OFF


def test_a_bad_request_leaves_its_neighbours_unharmed(bundle: Bundle, waves: Any) -> None:
    async def scenario(ask: Ask) -> Any:
        good, bad = orjson.dumps({"images": [IMAGE]}), b'{"images": [[[NaN]]]}'
        return await asyncio.gather(*(ask("/predict", body) for body in [good, bad] * 8))

    answers = run(endpoints(bundle), scenario, waves)
    assert [status for status, _, _ in answers] == [200, 400] * 8


def test_a_stage_that_raises_is_a_500_and_the_log_says_why_under_the_request_id(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(images: Any) -> Any:
        yield from ()
        raise StageFailure("purify") from ValueError("no memory")

    async def scenario(ask: Ask) -> Any:
        return await ask("/predict", orjson.dumps({"images": [IMAGE]}))

    status, headers, body = run(endpoints(bundle), scenario, broken)
    assert (status, json.loads(body)["code"]) == (500, "internal_error")
    assert b"memory" not in body
    (record,) = caplog.records
    assert "no memory" in caplog.text
    assert record.fields == {"request_id": headers[b"x-request-id"].decode()}  # type: ignore[attr-defined]


def test_a_passed_deadline_is_a_504_and_a_full_queue_a_503(bundle: Bundle, waves: Any) -> None:
    made = endpoints(bundle)
    open_gate = threading.Event()

    def slow(images: Any) -> Any:
        open_gate.wait(10)
        yield from waves(images)

    async def scenario(ask: Ask) -> Any:
        made.batcher = Batcher(Stepwise(slow), made.metrics, queue_images=2, deadline_s=0.1)
        body = orjson.dumps({"images": [IMAGE]})
        first = asyncio.create_task(ask("/predict", body))
        await asyncio.sleep(0.03)  # the worker has it
        answers = await asyncio.gather(first, *(ask("/predict", body) for _ in range(3)))
        open_gate.set()
        return [(status, json.loads(body)["code"]) for status, _, body in answers]

    assert run(made, scenario) == [(504, "deadline_exceeded")] * 3 + [(503, "queue_full")]


def test_while_the_classifier_loads_the_process_is_alive_and_not_ready(bundle: Bundle) -> None:
    async def scenario(ask: Ask) -> Any:
        return [(await ask(path, body))[0] for path, body in (("/livez", None), ("/readyz", None), ("/predict", b"{}"))]

    assert run(endpoints(bundle), scenario) == [200, 503, 503]


def test_once_it_is_warm_the_process_is_ready(bundle: Bundle, waves: Any) -> None:
    async def scenario(ask: Ask) -> Any:
        return await ask("/readyz")

    assert run(endpoints(bundle), scenario, waves)[0] == 200


def test_a_stopping_process_says_so(bundle: Bundle, waves: Any) -> None:
    made = endpoints(bundle)
    made.stopping = True

    async def scenario(ask: Ask) -> Any:
        return [await ask("/readyz"), await ask("/predict", b"{}")]

    for status, headers, body in run(made, scenario, waves):
        assert (status, json.loads(body)["code"], headers[b"connection"]) == (503, "stopping", b"close")


def test_a_large_body_is_read_beside_the_event_loop_and_answered_alike(bundle: Bundle, waves: Any) -> None:
    made = endpoints(bundle)

    async def scenario(ask: Ask) -> Any:
        small = await made.read(made.admission.images, orjson.dumps({"images": [IMAGE]}))
        large = await made.read(made.admission.images, orjson.dumps({"images": [IMAGE]}) + b" " * 300_000)
        return small, large

    small, large = run(made, scenario, waves)
    assert (small == large).all()


@pytest.mark.parametrize(
    ("listens_on_loopback", "server", "status"), [(True, "127.0.0.1", 200), (True, "10.0.0.7", 404), (False, "127.0.0.1", 404)]
)
def test_metrics_are_for_this_machine_only(bundle: Bundle, listens_on_loopback: bool, server: str, status: int) -> None:
    async def scenario(ask: Ask) -> Any:
        return await ask("/metrics", server=server)

    got, headers, body = run(endpoints(bundle, listens_on_loopback=listens_on_loopback), scenario)
    assert got == status
    assert (b"hauberk_build_info" in body) == (status == 200)
    if status == 200:
        assert headers[b"content-type"].startswith(b"text/plain; version=0.0.4")


def test_what_the_worker_did_shows_in_the_metrics(bundle: Bundle, waves: Any) -> None:
    async def scenario(ask: Ask) -> Any:
        await ask("/predict", orjson.dumps({"images": [IMAGE, [[1, 1, 1], [1, 1, 1]]]}))
        await ask("/predict", b"[]")
        return (await ask("/metrics"))[2].decode()

    text = run(endpoints(bundle), scenario, waves)
    for line in (
        'hauberk_predictions_total{outcome="answered"} 1.0',
        'hauberk_predictions_total{outcome="abstained"} 1.0',
        'hauberk_abstentions_total{defence="strip",mode="enforce"} 1.0',
        'hauberk_rejected_inputs_total{reason="wrong_document"} 1.0',
        "hauberk_batch_size_sum 2.0",
    ):
        assert line in text


def test_the_index_and_the_documentation_name_the_model(bundle: Bundle) -> None:
    async def scenario(ask: Ask) -> Any:
        return [json.loads((await ask(path))[2]) for path in ("/", "/docs.json")]

    index, docs = run(endpoints(bundle), scenario)
    assert index["model"] == "insects"
    assert "insects" in docs["info"]["title"]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1"])
def test_loopback_addresses_are_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "localhost", "192.168.0.1", "::", "10.0.0.1", "example.org"])
def test_anything_else_is_not(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(("work", "beside"), [(0, False), (1 << 20, True)])
def test_what_takes_long_to_decode_is_read_beside_the_event_loop(bundle: Bundle, work: int, beside: bool) -> None:
    made = endpoints(bundle)
    threads: list[threading.Thread] = []

    def read(body: bytes) -> Any:
        threads.append(threading.current_thread())

    async def scenario(ask: Ask) -> Any:
        await made.read(read, b"", work)

    run(made, scenario)
    assert (threads[0] is not threading.main_thread()) == beside


def test_every_format_says_the_same_and_waits_for_the_classifier(bundle: Bundle, waves: Any) -> None:
    array = io.BytesIO()
    np.save(array, np.full((1, 2, 3), 51, np.uint8))
    picture = io.BytesIO()
    Image.new("L", (3, 2), 51).save(picture, "PNG")
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 2, 3]}
    flat = orjson.dumps({"inputs": [{**tensor, "data": [51] * 6}]})
    text = orjson.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": 6}}]})
    behind = [(b"inference-header-content-length", str(len(text)).encode())]

    async def scenario(ask: Ask) -> Any:
        return [
            await ask("/predict/npy", array.getvalue()),
            await ask("/predict/image", picture.getvalue()),
            await ask("/v2/models/insects/infer", flat),
            await ask("/v2/models/insects/versions/0123456789ab/infer", text + b"3" * 6, headers=behind),
            await ask("/v2/health/ready"),
        ]

    npy, image, *inferred, ready = run(endpoints(bundle), scenario, waves)
    for _, _, body in (npy, image):
        assert json.loads(body)["predictions"] == [{"label": "ant", "probabilities": [0.2] * 3, "abstained": False}]
    for _, _, body in inferred:
        assert [output["data"] for output in json.loads(body)["outputs"]] == [[0.2] * 3, [0], [False]]
    assert ready[0] == 200
    waiting = run(endpoints(bundle), scenario)
    assert [status for status, _, _ in waiting] == [503] * 5
    assert [list(json.loads(body)) for _, _, body in waiting[2:]] == [["error"]] * 3
