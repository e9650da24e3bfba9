"""The paths for predictions, through the middleware and a real batcher, with a fake data path."""

from __future__ import annotations

import asyncio
import io
import json
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from PIL import Image

from defences.errors import StageFailure
from models.bundle import Bundle
from service.batching import Batcher
from tests.unit.service.conftest import Stepwise
from tests.unit.service.served import IMAGE, Ask, run, serving

OFF = {"audit_log.py", "audit_events.py", "audit_file.py", "audit_and_spans.py", "tracing.py", "mitre_atlas.py"}


def test_a_prediction_has_the_members_of_the_contract_and_no_other(bundle: Bundle, waves: Any) -> None:
    async def scenario(ask: Ask) -> Any:
        return await ask("/predict", orjson.dumps({"images": [IMAGE, [[1, 1, 1], [1, 1, 1]]]}))

    status, headers, body = run(serving(bundle), scenario, waves)
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

    made = serving(bundle)
    assert [status for status, _, _ in run(made, scenario)] == [200, 400]
    assert {"middleware.py", "exchange.py", "site.py", "predict.py", "serving.py", "batching.py"} <= ran
    assert not ran & OFF


def test_a_bad_request_leaves_its_neighbours_unharmed(bundle: Bundle, waves: Any) -> None:
    async def scenario(ask: Ask) -> Any:
        good, bad = orjson.dumps({"images": [IMAGE]}), b'{"images": [[[NaN]]]}'
        return await asyncio.gather(*(ask("/predict", body) for body in [good, bad] * 8))

    answers = run(serving(bundle), scenario, waves)
    assert [status for status, _, _ in answers] == [200, 400] * 8


def test_a_stage_that_raises_is_a_500_and_the_log_says_why_under_the_request_id(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(images: Any) -> Any:
        yield from ()
        raise StageFailure("purify") from ValueError("no memory")

    async def scenario(ask: Ask) -> Any:
        return await ask("/predict", orjson.dumps({"images": [IMAGE]}))

    status, headers, body = run(serving(bundle), scenario, broken)
    assert (status, json.loads(body)["code"]) == (500, "internal_error")
    assert b"memory" not in body
    (record,) = caplog.records
    assert "no memory" in caplog.text
    assert record.fields == {"request_id": headers[b"x-request-id"].decode()}  # type: ignore[attr-defined]


def test_a_passed_deadline_is_a_504_and_a_full_queue_a_503(bundle: Bundle, waves: Any) -> None:
    made = serving(bundle)
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


def test_what_the_worker_did_shows_in_the_metrics(bundle: Bundle, waves: Any) -> None:
    async def scenario(ask: Ask) -> Any:
        await ask("/predict", orjson.dumps({"images": [IMAGE, [[1, 1, 1], [1, 1, 1]]]}))
        await ask("/predict", b"[]")
        return (await ask("/metrics"))[2].decode()

    text = run(serving(bundle), scenario, waves)
    for line in (
        'hauberk_predictions_total{outcome="answered"} 1.0',
        'hauberk_predictions_total{outcome="abstained"} 1.0',
        'hauberk_abstentions_total{defence="strip",mode="enforce"} 1.0',
        'hauberk_rejected_inputs_total{reason="wrong_document"} 1.0',
        "hauberk_batch_size_sum 2.0",
    ):
        assert line in text


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

    npy, image, *inferred, ready = run(serving(bundle), scenario, waves)
    for _, _, body in (npy, image):
        assert json.loads(body)["predictions"] == [{"label": "ant", "probabilities": [0.2] * 3, "abstained": False}]
    for _, _, body in inferred:
        assert [output["data"] for output in json.loads(body)["outputs"]] == [[0.2] * 3, [0], [False]]
    assert ready[0] == 200
    waiting = run(serving(bundle), scenario)
    assert [status for status, _, _ in waiting] == [503] * 5
    assert [list(json.loads(body)) for _, _, body in waiting[2:]] == [["error"]] * 3
