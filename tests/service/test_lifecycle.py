"""How a server starts, refuses to start, and ends."""

from __future__ import annotations

import concurrent.futures
import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

BODY = json.dumps({"images": np.zeros((1, 28, 28)).tolist()}).encode()


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
    assert "reverse_sigmoid" not in banner
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


def test_what_was_accepted_is_answered_when_the_server_is_told_to_end(new_server: Any) -> None:
    server = new_server()
    ends: list[int | str] = []

    def client(_: int) -> None:
        with httpx.Client(headers={"content-type": "application/json"}, timeout=30) as connection:
            while True:
                try:
                    ends.append(connection.post(f"{server.url}/predict", content=BODY).status_code)
                except httpx.ConnectError:
                    return
                except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as cut:
                    ends.append(type(cut).__name__)
                    return
                if ends[-1] == 503:
                    return

    with concurrent.futures.ThreadPoolExecutor(8) as clients:
        running = [clients.submit(client, i) for i in range(8)]
        time.sleep(1.0)
        server.stop()
        concurrent.futures.wait(running, 30)
    assert ends.count(200) > 50
    # An idle connection may be closed under a request that was just sent: such a one was not accepted, and is safe to send again.
    assert {end for end in ends if end != 200} <= {503, "RemoteProtocolError", "ReadError", "WriteError"}
    assert '"event":"stopped"' in server.log.read_text()
