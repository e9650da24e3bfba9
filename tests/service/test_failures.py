"""What goes wrong inside: a full queue, a passed deadline, a stage that raises, clients who leave. Real servers, real models."""

from __future__ import annotations

import concurrent.futures
import io
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
from PIL import Image

from models.bundle import Bundle
from tests.service.conftest import Server, end, start, wait_until_ready

INFER = "/v2/models/flawed/infer"
IMAGES = 16
SHORT_S, FLOOD_AT_MOST = 3, 150
ANSWERED, ABSTAINED = (f'hauberk_predictions_total{{outcome="{outcome}"}}' for outcome in ("answered", "abstained"))
BATCHES, FAILURES = "hauberk_batch_size_count", 'hauberk_stage_failures_total{stage="predict"}'


class Request(NamedTuple):
    """A body for a path."""

    path: str
    media_type: str
    body: bytes


def every_way(images: Any) -> list[Request]:
    """The same images [n, h, w] on every route; on /predict/image the first of them."""
    npy, png = io.BytesIO(), io.BytesIO()
    np.save(npy, images)
    Image.fromarray((images[0] * 255).round().astype(np.uint8)).save(png, "PNG")
    tensor = {"name": "images", "datatype": "FP32", "shape": list(images.shape), "data": images.ravel().tolist()}
    return [
        Request("/predict", "application/json", json.dumps({"images": images.tolist()}).encode()),
        Request("/predict/npy", "application/x-npy", npy.getvalue()),
        Request(INFER, "application/json", json.dumps({"inputs": [tensor]}).encode()),
        Request("/predict/image", "image/png", png.getvalue()),
    ]


def send(server: Server, request: Request, request_id: str) -> httpx.Response:
    response: httpx.Response = server.send_to(
        request.path, request.body, content_type=request.media_type, x_request_id=request_id
    )
    assert response.headers["x-request-id"] == request_id
    return response


def send_together(server: Server, requests: list[Request]) -> list[httpx.Response]:
    """All at once, each over a connection of its own; their ids are their numbers."""
    with concurrent.futures.ThreadPoolExecutor(len(requests)) as clients:
        return list(clients.map(send, [server] * len(requests), requests, map(str, range(len(requests)))))


def check_refusal(response: httpx.Response, code: str, detail: str) -> None:
    """The one short error of the route, under the request's id."""
    assert len(response.content) < 500
    if INFER in str(response.url):
        assert list(response.json()) == ["error"]
        assert detail in response.json()["error"]
    else:
        document = response.json()
        assert response.headers["content-type"] == "application/problem+json"
        assert (document["code"], document["request_id"]) == (code, response.headers["x-request-id"])


def images_in(response: httpx.Response) -> int:
    answer = response.json()
    return len(answer["predictions"]) if "predictions" in answer else answer["outputs"][1]["shape"][0]


def all_abstained(response: httpx.Response) -> bool:
    answer = response.json()
    if "predictions" in answer:
        return all(prediction["abstained"] and prediction["probabilities"] is None for prediction in answer["predictions"])
    probabilities, label, abstained = (output["data"] for output in answer["outputs"])
    return all(abstained) and set(label) == {-1} and not any(probabilities)


def wait(event: Callable[[], bool]) -> None:
    """Until it is so, which must be soon."""
    give_up = time.monotonic() + 20
    while not event():
        assert time.monotonic() < give_up
        time.sleep(0.01)


@pytest.fixture
def marked(digits: Any) -> Any:
    """Digits with the square that makes the classifier answer NaN; the purifier leaves most of it, overlays all."""
    marked = digits[0][:4].copy()
    marked[:, 24:28, 0:4] = 1
    return marked


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory, flawed: Bundle) -> Iterator[Server]:
    """A server of the slow classifier with a flaw, patient and with a short queue."""
    yield from serve(tmp_path_factory.mktemp("slow"), flawed, HAUBERK_QUEUE_IMAGES=str(10 * IMAGES), HAUBERK_DEADLINE_S="30")


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory, flawed: Bundle) -> Iterator[Server]:
    """The same with a long queue and a short deadline."""
    settings = {"HAUBERK_QUEUE_IMAGES": str(FLOOD_AT_MOST * IMAGES), "HAUBERK_DEADLINE_S": str(SHORT_S)}
    yield from serve(tmp_path_factory.mktemp("impatient"), flawed, **settings)


def serve(directory: Path, bundle: Bundle, **settings: Any) -> Iterator[Server]:
    settings |= {"HAUBERK_MAX_IMAGES": str(IMAGES), "HAUBERK_BATCH_IMAGES": str(IMAGES), "HAUBERK_THREADS": "1"}
    server = start(directory, HAUBERK_BUNDLE=str(bundle.directory), **settings)
    try:
        wait_until_ready(server)
        yield server
    finally:
        end(server)


def moved(server: Server, before: dict[str, float]) -> dict[str, float]:
    """How far these metrics moved."""
    return {name: server.metric(name) - value for name, value in before.items()}


def metrics(server: Server) -> dict[str, float]:
    return {name: server.metric(name) for name in (ANSWERED, ABSTAINED, FAILURES, BATCHES)}


def test_a_full_queue_turns_requests_away_at_once_and_loses_none_it_took(slow: Server, triggered: Any) -> None:
    before = metrics(slow)
    flood = (every_way(triggered[:IMAGES])[:3] * 16)[:40]
    responses = send_together(slow, flood)
    answered = [response for response in responses if response.status_code == 200]
    refused = [response for response in responses if response.status_code == 503]
    assert len(answered) + len(refused) == 40
    assert len(answered) >= 10
    assert len(refused) > 10
    assert all(map(all_abstained, answered))
    for response in refused:
        check_refusal(response, "queue_full", "as much work as it takes")
        assert int(response.headers["retry-after"]) >= 1
    assert moved(slow, before) == {ANSWERED: 0, ABSTAINED: len(answered) * IMAGES, FAILURES: 0, BATCHES: len(answered)}


def test_who_fills_the_queue_is_turned_away_and_another_address_is_not(slow: Server, triggered: Any, digits: Any) -> None:
    bodies = [every_way(triggered[IMAGES * i : IMAGES * (i + 1)])[1] for i in range(40)]
    with concurrent.futures.ThreadPoolExecutor(len(bodies)) as pool:
        flood = [pool.submit(send, slow, body, f"hostile-{i}") for i, body in enumerate(bodies)]
        other = httpx.HTTPTransport(local_address="127.0.0.2")
        with httpx.Client(base_url=slow.url, transport=other, timeout=30) as honest:
            wait(lambda: any(each.done() and each.result().status_code == 503 for each in flood))
            statuses = [honest.post("/predict", json={"images": [digits[0][i].tolist()]}).status_code for i in range(5)]
        assert statuses == [200] * 5
    ends = [each.result() for each in flood]
    assert {response.status_code for response in ends} == {200, 503}


def test_a_passed_deadline_is_504_and_work_that_nobody_waits_for_is_not_done(impatient: Server, triggered: Any) -> None:
    ways = every_way(triggered[:IMAGES])[:3]
    alone_s = min(send(impatient, way, "alone").elapsed.total_seconds() for way in ways)
    # Three times what is done within the deadline, on a fast machine and on a slow one.
    count = min(FLOOD_AT_MOST, max(40, int(3 * SHORT_S / alone_s)))
    # Short bodies, so that all are there before the first deadline passes; one of each way is the last.
    flood = [min(ways, key=lambda way: len(way.body))] * (count - len(ways)) + ways
    before = metrics(impatient)
    responses = send_together(impatient, flood)
    answered = [response for response in responses if response.status_code == 200]
    late = [response for response in responses if response.status_code == 504]
    assert len(answered) + len(late) == count
    assert len(late) > 5
    assert all(map(all_abstained, answered))
    for response in late:
        check_refusal(response, "deadline_exceeded", "within the deadline")
        assert response.elapsed.total_seconds() < 9
    assert all_abstained(send(impatient, flood[0], "afterwards"))
    # A batch may run while the deadline of its request passes, and one is that of afterwards; what waits then never begins.
    for_nobody = moved(impatient, before)[BATCHES] - len(answered) - 1
    assert for_nobody < len(late) / 2


def test_clients_who_leave_take_their_work_with_them(slow: Server, triggered: Any, digits: Any) -> None:
    before = metrics(slow)
    request = every_way(triggered[:IMAGES])[1]
    head = f"POST {request.path} HTTP/1.1\r\nHost: x\r\nContent-Type: {request.media_type}\r\n".encode()
    connections = [socket.create_connection(("127.0.0.1", slow.port)) for _ in range(10)]
    for connection in connections:
        connection.sendall(b"%sContent-Length: %d\r\n\r\n%s" % (head, len(request.body), request.body))
    wait(lambda: slow.metric("hauberk_queue_depth") >= 8 * IMAGES)
    for connection in connections:
        connection.close()
    assert send(slow, every_way(digits[0][:1])[0], "good").status_code == 200
    wait(lambda: slow.metric("hauberk_requests_in_flight") == 1)  # the scrape itself
    assert slow.metric("hauberk_queue_depth") == 0
    assert moved(slow, before)[BATCHES] < 8


def test_a_stage_that_raises_is_500_on_every_route_and_nothing_of_why_gets_out(slow: Server, marked: Any) -> None:
    before = metrics(slow)
    for i, request in enumerate(every_way(marked)):
        response = send(slow, request, f"marked-{i}")
        assert response.status_code == 500
        check_refusal(response, "internal_error", "failed inside the server")
        assert "probabilities" not in response.text
    assert moved(slow, before) == {ANSWERED: 0, ABSTAINED: 0, FAILURES: 4, BATCHES: 4}


def test_only_the_request_that_raises_fails_and_its_batch_mates_get_the_answers_they_get_alone(
    slow: Server, digits: Any, triggered: Any, marked: Any
) -> None:
    images = [digits[0][i : i + 1] for i in range(8)] + [triggered[:1], triggered[1:2]]
    good = [every_way(image)[i % 2] for i, image in enumerate(images)]
    alone = [send(slow, request, "alone").json()["predictions"][0] for request in good]
    blocker, bad = every_way(triggered[:IMAGES])[1], every_way(marked[:1])[0]
    with concurrent.futures.ThreadPoolExecutor(8) as clients:
        for _ in range(5):  # until the bad one and a good one met in a batch
            before = metrics(slow)
            blocked = [clients.submit(send, slow, blocker, "blocker") for _ in range(8)]
            wait(lambda: slow.metric("hauberk_queue_depth") >= 5 * IMAGES)  # so that all eleven gather behind them
            responses = send_together(slow, [*good[:5], bad, *good[5:]])
            assert all(all_abstained(each.result()) for each in blocked)
            check_alone(responses, alone)
            if moved(slow, before)[FAILURES] == 2:  # together with others, and alone
                break
    assert moved(slow, before)[FAILURES] == 2
    told = [json.loads(line) for line in slow.log.read_text().splitlines() if '"request_id":"5"' in line and '"error"' in line]
    assert told
    assert "StageFailure" in json.dumps(told[-1])


def check_alone(responses: list[httpx.Response], alone: list[dict[str, Any]]) -> None:
    """The sixth is refused, the others are answered as if each were alone."""
    refused = responses.pop(5)
    assert refused.status_code == 500
    check_refusal(refused, "internal_error", "")
    for response, wanted in zip(responses, alone, strict=True):
        assert response.status_code == 200
        (got,) = response.json()["predictions"]
        assert (got["label"], got["abstained"]) == (wanted["label"], wanted["abstained"])
        if not wanted["abstained"]:
            assert got["probabilities"] == pytest.approx(wanted["probabilities"], abs=1e-4)
    assert [response.json()["predictions"][0]["abstained"] for response in responses[-2:]] == [True, True]
