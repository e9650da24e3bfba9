"""Everything but predictions: health, metrics, documentation, BentoML's client, logs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import httpx
import numpy as np
import pytest


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/docs.json", "/schema.json", "/"])
def test_every_path_answers_with_a_request_id_and_head_is_get_without_a_body(server: Any, path: str) -> None:
    response = httpx.get(server.url + path, headers={"x-request-id": "abc"})
    assert (response.status_code, response.headers["x-request-id"]) == (200, "abc")
    head = httpx.head(server.url + path)
    assert (head.status_code, head.content) == (200, b"")
    assert httpx.post(server.url + path).status_code == 405


def test_metrics_and_the_console_are_not_for_pages_of_other_sites_nor_for_other_machines(server: Any) -> None:
    here, evil = f"127.0.0.1:{server.port}", f"evil.example:{server.port}"
    for headers in ({}, {"host": f"localhost:{server.port}"}, {"origin": server.url, "sec-fetch-site": "same-origin"}):
        assert "hauberk_build_info" in httpx.get(f"{server.url}/metrics", headers=headers).text
    foreign: tuple[dict[str, str], ...] = (
        {"host": evil},
        {"host": evil, "origin": f"http://{evil}"},
        {"origin": f"http://{evil}"},
        {"sec-fetch-site": "cross-site"},
    )
    for headers in (*foreign, {"x-forwarded-for": "127.0.0.1"}, {"via": "1.1 proxy"}, {"forwarded": "for=127.0.0.1"}):
        refusal = httpx.get(f"{server.url}/metrics", headers=headers)
        assert (refusal.status_code, refusal.json()["code"]) == (404, "not_found"), headers
    for line in (b"GET /metrics HTTP/1.0\r\nHost: " + here.encode(), b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1"):
        assert server.send_raw(line + b"\r\n\r\n").status == 404
    for path in ("/", "/console/main.js", "/console/example.json"):
        assert httpx.get(server.url + path).status_code == 200
        assert httpx.get(server.url + path, headers={"host": evil}).json()["code"] == "cross_site"
    for headers in foreign[1:]:
        for path in ("/predict", "/predict/npy", "/predict/image"):
            assert httpx.post(server.url + path, headers=headers).json()["code"] == "cross_site"
        assert httpx.post(f"{server.url}/v2/models/backdoored/infer", headers=headers).status_code == 403


CLIENT = """
import json, sys
import bentoml
url, images = json.loads(sys.stdin.read())
with bentoml.SyncHTTPClient(url) as client:
    assert client.is_ready()
    answers = [client.predict(images=images), client.predict(images=[[[[pixel] for pixel in row] for row in image] for image in images])]
    try:
        client.predict(images=[[[0.5]]])
    except bentoml.exceptions.BentoMLException as refusal:
        print(json.dumps([*answers, str(refusal)]))
"""


def test_bentomls_own_client_works_unchanged_and_shows_our_refusals(server: Any, digits: Any) -> None:
    images = digits[0][:3].tolist()
    request = json.dumps([server.url, images])
    ran = subprocess.run([sys.executable, "-c", CLIENT], input=request, capture_output=True, text=True, check=True, timeout=60)
    flat, deep, refusal = json.loads(ran.stdout)
    assert flat["predictions"] == deep["predictions"] == server.ask(images).json()["predictions"]
    assert "wrong_shape" in refusal


def test_the_schema_is_bentomls_and_names_the_route(server: Any) -> None:
    schema = httpx.get(f"{server.url}/schema.json").json()
    assert schema["name"] == "hauberk"
    assert [route["route"] for route in schema["routes"]] == ["/predict"]


def test_the_documentation_has_the_real_shapes(server: Any) -> None:
    docs = httpx.get(f"{server.url}/docs.json").json()
    flat, _ = docs["components"]["schemas"]["Images"]["properties"]["images"]["oneOf"]
    assert (flat["maxItems"], flat["items"]["minItems"], flat["items"]["items"]["maxItems"]) == (64, 28, 28)


def test_predictions_move_the_metrics_of_every_stage(server: Any, digits: Any) -> None:
    names = [
        'hauberk_requests_total{code="200",route="/predict"}',
        'hauberk_request_duration_seconds_count{route="/predict"}',
        "hauberk_batch_size_count",
        "hauberk_strip_entropy_bits_count",
        "hauberk_strip_overlays_sum",
        "hauberk_purification_distance_count",
        *(f'hauberk_stage_duration_seconds_count{{stage="{s}"}}' for s in ("purify", "predict", "abstain", "obscure", "queue")),
    ]
    server.ask(digits[0][:1].tolist())
    before = [server.metric(name) for name in names]
    server.ask(digits[0][:8].tolist())
    moved = np.subtract([server.metric(name) for name in names], before)
    assert (moved > 0).all()
    assert moved[names.index("hauberk_strip_entropy_bits_count")] == 8


def test_refusals_move_their_metrics_and_no_path_becomes_a_label(server: Any) -> None:
    name = 'hauberk_rejected_inputs_total{reason="malformed_json"}'
    before = server.metric(name)
    server.send(b"{")
    for i in range(20):
        httpx.get(f"{server.url}/scan/{i}")
    assert server.metric(name) == before + 1
    assert server.metric('hauberk_requests_total{code="404",route="other"}') >= 20
    assert "scan" not in httpx.get(f"{server.url}/metrics").text


def test_the_log_is_json_with_one_line_per_request_and_without_pixels_or_paths(server: Any, digits: Any) -> None:
    server.ask(digits[0][:2].tolist(), **{"X-Request-ID": "logged-1"})
    httpx.get(f"{server.url}/secret-path", headers={"X-Request-ID": "logged-2"})
    time.sleep(0.5)
    text = server.log.read_text()
    lines = {line["request_id"]: line for line in map(json.loads, filter(lambda line: '"logged-' in line, text.splitlines()))}
    assert {**lines["logged-1"], "time": None, "duration_s": None} == {
        "time": None,
        "level": "info",
        "event": "request",
        "request_id": "logged-1",
        "method": "POST",
        "route": "/predict",
        "status": 200,
        "duration_s": None,
        "images": 2,
        "abstained": 0,
    }
    assert lines["logged-2"]["route"] == "other"
    assert "secret-path" not in text
    assert "/readyz" not in text
    assert text.index('"event":"starting: ') < text.index('"event":"ready"')
