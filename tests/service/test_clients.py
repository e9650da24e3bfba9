"""Keys and budgets over HTTP: 401, 403, 429, and who is asked for neither."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

IMAGES = np.zeros((5, 28, 28)).tolist()


def wait_for(true: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.2)


def problem(response: httpx.Response, status: int, code: str) -> None:
    document = response.json()
    assert (response.status_code, document["code"]) == (status, code)
    assert document["request_id"] == response.headers["x-request-id"]


@pytest.fixture(scope="module")
def clients_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("clients") / "clients.toml"
    lines = []
    for name, rest in (
        ("ward", "images_per_minute = 20"),
        ("clumsy", "images_per_minute = 3"),
        ("lab", ""),
        ("gone", "enabled = false"),
    ):
        lines.append(f'[clients.{name}]\nkey_sha256 = "{hashlib.sha256(f"key-of-{name}".encode()).hexdigest()}"\n{rest}\n')
    file.write_text("".join(lines))
    return file


CLIENT = """
import json, sys
import bentoml
url, images = json.loads(sys.stdin.read())
with bentoml.SyncHTTPClient(url, token="key-of-lab") as client:
    print(json.dumps(client.predict(images=images)["predictions"]))
"""


def test_where_keys_are_asked_for_only_who_has_one_is_answered(new_server: Callable[..., Any], clients_file: Path) -> None:
    server = new_server(HAUBERK_CLIENTS_FILE=str(clients_file))
    response = server.ask(IMAGES)
    problem(response, 401, "unauthorised")
    assert response.headers["www-authenticate"] == "Bearer"
    problem(server.ask(IMAGES, authorization="Bearer key-of-nobody"), 401, "unauthorised")
    problem(server.ask(IMAGES, authorization="Bearer key-of-gone"), 403, "forbidden")
    answer = server.ask(IMAGES, authorization="Bearer key-of-lab")
    assert answer.status_code == 200
    for path, content_type in (("/predict/npy", "application/x-npy"), ("/predict/image", "image/png")):
        problem(server.send_to(path, b"", content_type=content_type), 401, "unauthorised")
    refusal = server.send_to("/v2/models/backdoored/infer", b"{}")
    assert (refusal.status_code, list(refusal.json())) == (401, ["error"])
    for path in ("/livez", "/readyz", "/", "/docs.json", "/schema.json", "/metrics", "/v2", "/v2/health/ready"):
        assert httpx.get(server.url + path).status_code == 200
    ran = subprocess.run(
        [sys.executable, "-c", CLIENT],
        input=json.dumps([server.url, IMAGES]),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert json.loads(ran.stdout) == answer.json()["predictions"]

    for _ in range(4):
        assert server.ask(IMAGES, authorization="Bearer key-of-ward").status_code == 200
    response = server.ask(IMAGES, authorization="Bearer key-of-ward")
    problem(response, 429, "budget_spent")
    assert 1 <= int(response.headers["retry-after"]) <= 60
    assert server.ask(IMAGES, authorization="Bearer key-of-lab").status_code == 200

    refused = [
        server.send_to(path, b"{}", content_type=content_type, authorization="Bearer key-of-clumsy").status_code
        for path, content_type in (
            ("/predict", "application/json"),
            ("/predict/npy", "application/x-npy"),
            ("/predict/image", "image/png"),
            ("/v2/models/backdoored/infer", "application/json"),
        )
    ]
    assert refused == [422, 400, 400, 429]  # a body that was read and refused is paid for
    text = httpx.get(f"{server.url}/metrics").text
    assert "key-of" not in text
    assert "ward" not in text
    assert "key-of" not in server.log.read_text()
    assert '"client":"lab"' in server.log.read_text()

    before = clients_file.read_text()
    clients_file.write_text("[clients")
    wait_for(lambda: "the clients stay as they were: " in server.log.read_text())
    assert server.ask(IMAGES, authorization="Bearer key-of-lab").status_code == 200
    clients_file.write_text(before.replace("[clients.lab]", "[clients.lab]\nenabled = false"))
    wait_for(lambda: server.ask(IMAGES, authorization="Bearer key-of-lab").status_code == 403)  # without a restart
    assert "clients read again" in server.log.read_text()


def test_without_keys_a_budget_is_per_address_and_refused_images_are_paid_for(new_server: Callable[..., Any]) -> None:
    server = new_server(HAUBERK_IMAGES_PER_MINUTE="11", HAUBERK_RELEASE_S="0.5")
    assert server.ask([[[9.0]]]).status_code == 422
    assert server.ask(IMAGES).status_code == server.ask(IMAGES).status_code == 200
    problem(server.ask(IMAGES), 429, "budget_spent")
    problem(server.send(b"{"), 429, "budget_spent")
    assert httpx.get(f"{server.url}/readyz").status_code == 200
    server.stop()
    lines = [json.loads(line) for line in server.log.read_text().splitlines() if '"event":"request"' in line]
    answered = [line["duration_s"] for line in lines if line["status"] == 200 and line["images"]]
    assert len(answered) == 2
    assert min(answered) >= 0.49  # by its schedule, however little there was to decide


def test_a_file_of_clients_that_cannot_be_ends_the_start_with_one_line(new_server: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "clients.toml"
    file.write_text("[clients.ward]\nkey = 1\n")
    server = new_server(ready=False, HAUBERK_CLIENTS_FILE=str(file))
    assert server.process.wait(60) == 2
    assert "hauberk: expected enabled, images_per_minute, key_sha256 in [clients.ward]" in server.log.read_text()
