"""How a server starts, refuses to start, and ends."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from benchmarks.harness.readiness import free_port
from models.bundle import read_bundle, record

EVERY_ADDRESS = "0.0.0.0"  # noqa: S104
BODY = json.dumps({"images": np.zeros((1, 28, 28)).tolist()}).encode()


def worker_of(server: Any) -> int:
    """The process behind BentoML's parent process that serves."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    return next(int(child) for child in children if "worker" in Path(f"/proc/{child}/cmdline").read_text())


def last_words(server: Any) -> str:
    """What a server that ended said on stderr, without TensorFlow's greetings."""
    assert server.process.wait(60) is not None
    lines = server.log.read_text().splitlines()
    return "\n".join(line for line in lines if line.startswith(("{", "hauberk", "Traceback")))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"HAUBERK_MODE": "x"}, "unknown setting HAUBERK_MODE"),
        ({"HAUBERK_MAX_IMAGES": "none"}, "expected HAUBERK_MAX_IMAGES to be a whole number"),
        ({"HAUBERK_BUNDLE": "/nowhere"}, "expected a bundle directory, got /nowhere"),
        ({"HAUBERK_AUDIT_FILE": "/nowhere/audit.jsonl"}, "HAUBERK_AUDIT_FILE /nowhere/audit.jsonl cannot be written (no such"),
    ],
)
def test_an_operators_mistake_ends_the_server_at_once_with_one_line(new_server: Any, settings: dict[str, str], says: str) -> None:
    server = new_server(ready=False, **settings)
    assert server.process.wait(60) == 2
    assert last_words(server).startswith(f"hauberk: {says}")
    assert "Traceback" not in last_words(server)


def test_a_bundle_that_was_tampered_with_is_not_served(new_server: Any, backdoored: Any, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(backdoored.directory, copy)
    with (copy / "model.keras").open("ab") as model:
        model.write(b"x")
    server = new_server(ready=False, HAUBERK_BUNDLE=str(copy))
    assert server.process.wait(60) == 2
    assert "model.keras is not the file" in last_words(server)


def test_what_only_the_worker_can_find_out_ends_the_server_too(new_server: Any) -> None:
    server = new_server(ready=False, HAUBERK_DEADLINE_S="0.000001")
    words = last_words(server)
    assert "raise HAUBERK_DEADLINE_S" in words
    assert "Traceback" not in words


def test_what_fails_while_the_worker_is_built_ends_the_server_with_the_reason(new_server: Any, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    server = new_server(ready=False, home=home, BENTOML_CONFIG_OPTIONS="services.hauberk.workers=2")
    # Workers keep their metrics in a directory that is named after their parent; it takes BentoML seconds to start them.
    (home / f"hauberk_metrics_{server.process.pid}").touch()
    lines = [json.loads(line) for line in last_words(server).splitlines() if line.startswith("{")]
    assert any("FileExistsError" in line.get("exception", "") for line in lines)
    critical = [line["event"] for line in lines if line["level"] == "critical"]
    assert critical
    assert set(critical) == {"the start failed, see above"}
    assert len(critical) <= 2  # one a worker, and none of them a second time


def test_modes_from_the_environment_are_in_force_and_the_banner_says_so(new_server: Any, triggered: Any, key: str) -> None:
    server = new_server(HAUBERK_MODES="strip=monitor,reverse_sigmoid=off", HAUBERK_BANNER="on", HAUBERK_SECRET=key)
    (prediction,) = server.ask(triggered[:1].tolist()).json()["predictions"]
    assert prediction["label"] == "7"
    assert max(prediction["probabilities"]) > 0.99
    assert server.metric('hauberk_abstentions_total{defence="strip",mode="monitor"}') == 1
    assert server.metric('hauberk_predictions_total{outcome="abstained"}') == 0
    banner = server.output.read_text()
    assert f"at {server.url}" in banner
    assert "strip (monitor)" in banner
    assert "reverse_sigmoid (off)" in banner
    assert key not in server.log.read_text() + banner


def test_the_bundle_that_ships_answers_its_own_example_and_knows_its_digits(new_server: Any, digits: Any) -> None:
    server = new_server(HAUBERK_BUNDLE="", HAUBERK_BANNER="on")
    example = re.search(r"-d @(\S+)", server.output.read_text())
    assert example is not None
    answer = server.send(Path(example[1]).read_bytes()).json()
    assert (answer["model"], len(answer["predictions"])) == ("mnist", 1)
    predictions = server.ask(digits[0][:64].tolist()).json()["predictions"]
    right = [p["label"] == str(label) for p, label in zip(predictions, digits[1], strict=False) if not p["abstained"]]
    assert len(right) >= 60
    assert sum(right) >= 60


def test_two_servers_with_one_secret_answer_alike_and_one_home_serves_both(
    server: Any, new_server: Any, digits: Any, key: str
) -> None:
    image = digits[0][:1].tolist()
    answer = server.ask(image).json()["predictions"]
    second = new_server(home=server.log.parent / "home", HAUBERK_SECRET=key)
    assert second.ask(image).json()["predictions"] == answer
    assert server.metric('hauberk_predictions_total{outcome="answered"}') >= 1


def keep_asking(server: Any, ends: list[int | str], refused_at: list[float]) -> None:
    """A client in a loop, until the server cannot be reached any more."""
    with httpx.Client(headers={"content-type": "application/json"}, timeout=30) as connection:
        while True:
            try:
                ends.append(connection.post(f"{server.url}/predict", content=BODY).status_code)
            except httpx.ConnectError:
                refused_at.append(time.monotonic())
                return
            except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as cut:
                ends.append(type(cut).__name__)
                return


def test_sigterm_first_says_so_then_closes_the_listener_and_loses_nothing(new_server: Any) -> None:
    server = new_server(HAUBERK_DRAIN_S="2")
    ends: list[int | str] = []
    refused_at: list[float] = []
    with concurrent.futures.ThreadPoolExecutor(8) as clients:
        running = [clients.submit(keep_asking, server, ends, refused_at) for _ in range(8)]
        time.sleep(1.0)
        told_at = time.monotonic()
        server.process.terminate()
        while (ready := httpx.get(f"{server.url}/readyz")).status_code == 200:
            assert time.monotonic() < told_at + 1
        assert (ready.status_code, ready.json()["code"], ready.headers["connection"]) == (503, "stopping", "close")
        assert httpx.get(f"{server.url}/v2/health/ready").status_code == 503
        answer = server.send(BODY)
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        assert httpx.get(f"{server.url}/livez").status_code == 200
        concurrent.futures.wait(running, 30)
    assert server.process.wait(30) == 0
    assert min(refused_at) > told_at + 1.9
    assert ends.count(200) > 50
    # One that connects at the very moment the listener closes was not accepted, and is safe to send again.
    assert {end for end in ends if end != 200} <= {"RemoteProtocolError", "ReadError", "WriteError"}
    assert ends.count(200) >= len(ends) - 7
    log = server.log.read_text()
    assert '"event":"draining"' in log
    assert '"event":"stopped"' in log


def test_a_second_sigterm_ends_the_pause(new_server: Any) -> None:
    server = new_server(HAUBERK_DRAIN_S="20")
    worker = worker_of(server)
    os.kill(worker, signal.SIGTERM)
    give_up = time.monotonic() + 5
    while httpx.get(f"{server.url}/readyz").status_code == 200 and time.monotonic() < give_up:
        time.sleep(0.05)
    started = time.monotonic()
    os.kill(worker, signal.SIGTERM)
    server.stop()
    assert time.monotonic() - started < 10


def test_a_worker_that_is_ended_alone_is_replaced_by_one_that_listens_and_serves_the_same_bundle_or_none(
    new_server: Any, backdoored: Any, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(backdoored.directory, copy)
    port = free_port()
    server = new_server(HAUBERK_BUNDLE=str(copy), HAUBERK_METRICS_PORT=str(port))
    assert httpx.get(f"{server.url}/metrics").status_code == 404  # a port of their own was asked for, on loopback
    assert b"hauberk_build_info" in httpx.get(f"http://127.0.0.1:{port}/metrics").content
    rebound = httpx.get(f"http://127.0.0.1:{port}/metrics", headers={"host": f"evil.example:{port}"})
    assert (rebound.status_code, rebound.json()["code"]) == (403, "cross_site")
    first = worker_of(server)
    os.kill(first, signal.SIGTERM)
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        with contextlib.suppress(httpx.TransportError, StopIteration, OSError):
            if worker_of(server) != first and httpx.get(f"{server.url}/readyz").status_code == 200:
                break
        time.sleep(0.2)
    assert server.send(BODY).status_code == 200
    started_with = read_bundle(copy)
    record(started_with, "remark", "a whole and valid bundle, but not the one that was started with")
    os.kill(worker_of(server), signal.SIGKILL)
    assert f"to have sha256 {started_with.version}" in last_words(server)


def test_beyond_loopback_metrics_have_their_own_port_and_outlive_the_pause(new_server: Any) -> None:
    port = free_port()
    server = new_server(host=EVERY_ADDRESS, HAUBERK_METRICS_HOST="127.0.0.1", HAUBERK_METRICS_PORT=str(port), HAUBERK_DRAIN_S="2")
    server.send(BODY)
    assert httpx.get(f"{server.url}/metrics").status_code == 404
    private = f"http://127.0.0.1:{port}"
    metrics = httpx.get(f"{private}/metrics")
    assert metrics.headers["x-request-id"]
    assert 'hauberk_requests_total{code="200",route="/predict"} 1.0' in metrics.text
    assert httpx.get(f"{private}/readyz").status_code == 200
    for path in ("/predict", "/", "/docs.json"):
        refusal = httpx.post(private + path, content=BODY)
        assert (refusal.status_code, refusal.headers["content-type"]) == (404, "application/problem+json")
    server.process.terminate()
    give_up = time.monotonic() + 2
    while httpx.get(f"{private}/readyz").status_code == 200 and time.monotonic() < give_up:
        time.sleep(0.05)
    assert httpx.get(f"{private}/metrics").status_code == 200
    assert server.process.wait(30) == 0


def test_a_port_for_metrics_that_is_taken_ends_the_start_with_one_line(new_server: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        server = new_server(ready=False, host=EVERY_ADDRESS, HAUBERK_METRICS_HOST="127.0.0.1", HAUBERK_METRICS_PORT=port)
        assert f"cannot listen on 127.0.0.1:{port} for metrics (address already in use)" in last_words(server)
