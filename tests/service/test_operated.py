"""A server as it is operated: behind nginx, configured as docs/settings.md says, and with a worker that hangs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.harness.readiness import free_port, wait_until
from models.bundle import Bundle
from tests.service.conftest import ROOT, Server

BUDGET = 6
# Python runs this in every process of the server; in the worker's it waits for the batcher, whose steps then stand while the file exists.
HANG = """
import os, sys, threading, time
def hold():
    while not hasattr(sys.modules.get("service.batching"), "Batcher"):
        time.sleep(0.05)
    from service.batching import Batcher
    advance = Batcher._advance
    def held(*arguments):
        while os.path.exists({path!r}):
            time.sleep(0.05)
        advance(*arguments)
    Batcher._advance = held
threading.Thread(target=hold, daemon=True).start()
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("operated")


@pytest.fixture(scope="module")
def operated(launch: Callable[..., AbstractContextManager[Server]], directory: Path, backdoored: Bundle) -> Iterator[Server]:
    (directory / "sitecustomize.py").write_text(HANG.format(path=str(directory / "hang")))
    settings = {
        "PYTHONPATH": f"{directory}:{ROOT}",
        "HAUBERK_BUNDLE": str(backdoored.directory),
        "HAUBERK_TRUSTED_PROXIES": "127.0.0.1",
        "HAUBERK_IMAGES_PER_MINUTE": str(BUDGET),
        "HAUBERK_DEADLINE_S": "3",
    }
    with launch(directory / "server", **settings) as server:
        yield server


@pytest.fixture(scope="module")
def proxied(operated: Server, directory: Path) -> Iterator[str]:
    """nginx in front, with the document's configuration but for its ports and its certificate."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx is None:
        pytest.skip("nginx is not installed")
    [example] = re.findall(r"```nginx\n(.*?)```", (ROOT / "docs" / "settings.md").read_text(), re.DOTALL)
    port = free_port()
    assert "127.0.0.1:3000" in example
    assert "listen 443 ssl;" in example
    example = example.replace("127.0.0.1:3000", f"127.0.0.1:{operated.port}").replace(
        "listen 443 ssl;", f"listen 127.0.0.1:{port};"
    )
    place = directory / "nginx"
    place.mkdir()
    paths = "".join(f"{kind}_temp_path {place}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (place / "nginx.conf").write_text(
        f"daemon off;\nmaster_process off;\npid {place}/pid;\nerror_log {place}/errors;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{paths}{example}}}\n"
    )
    command = [nginx, "-p", str(place), "-e", str(place / "errors"), "-c", str(place / "nginx.conf")]
    process = subprocess.Popen(command)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: _answers(url), process, place / "errors", within_s=30)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def ask(url: str, image: Any, address: str = "127.0.0.1", **headers: str) -> httpx.Response:
    transport = httpx.HTTPTransport(local_address=address)
    with httpx.Client(transport=transport, timeout=30) as client:
        return client.post(f"{url}/predict", json={"images": [image.tolist()]}, headers=headers)


def test_behind_nginx_each_client_has_a_budget_of_its_own_whatever_it_claims(operated: Server, proxied: str, digits: Any) -> None:
    greedy = [ask(proxied, digits[0][0], "127.0.0.3", **{"X-Forwarded-For": f"10.0.0.{i}"}) for i in range(BUDGET + 2)]
    assert [answer.status_code for answer in greedy] == [200] * BUDGET + [429] * 2
    answer = ask(proxied, digits[0][0], "127.0.0.4", **{"X-Request-ID": "through-nginx"})
    assert answer.status_code == 200
    assert answer.headers["x-request-id"] == "through-nginx"
    assert answer.json()["predictions"] == greedy[0].json()["predictions"]


def test_behind_nginx_there_are_no_metrics_and_a_long_body_is_refused(proxied: str) -> None:
    assert httpx.get(f"{proxied}/metrics").status_code == 404
    long = httpx.post(f"{proxied}/predict", content=b" " * 3_000_000, headers={"content-type": "application/json"}, timeout=30)
    assert long.status_code == 413


def test_a_worker_that_hangs_makes_a_server_not_ready_and_one_that_goes_on_ready_again(
    operated: Server, directory: Path, digits: Any
) -> None:
    hang = directory / "hang"

    def ready() -> int:
        return httpx.get(f"{operated.url}/readyz").status_code

    hang.touch()
    try:
        assert ask(operated.url, digits[0][1], "127.0.0.5").status_code == 504
        until(lambda: ready() == 503)
        assert httpx.get(f"{operated.url}/readyz").json()["code"] == "stalled"
        refused = ask(operated.url, digits[0][2], "127.0.0.6")
        assert (refused.status_code, refused.json()["code"]) == (503, "stalled")
        assert httpx.get(f"{operated.url}/livez").status_code == 200
    finally:
        hang.unlink()
    until(lambda: ready() == 200)
    assert ask(operated.url, digits[0][1], "127.0.0.7").status_code == 200
    lines = [json.loads(line) for line in operated.log.read_text().splitlines()]
    [told] = [line for line in lines if line["event"].startswith("the worker has taken no step")]
    assert "in held" in told["stack"]
    assert any(line["event"] == "the worker goes on" for line in lines)


def until(event: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not event():
        assert time.monotonic() < give_up
        time.sleep(0.1)
