"""The bundled classifier, served the way the README says."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import pytest

_READY_S = 60.0


@pytest.fixture(scope="session")
def bundled_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of `hauberk serve` with nothing set but a port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = tmp_path_factory.mktemp("documents")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HAUBERK_")}
    command = [sys.executable, "-c", "from hauberk.main import main; main()", "serve", "--port", str(port)]
    with (home / "output").open("wb") as output:
        process = subprocess.Popen(
            command, env=environment | {"BENTOML_HOME": str(home / "bentoml")}, stdout=output, stderr=subprocess.STDOUT
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(url, process, home / "output")
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def _wait(url: str, process: subprocess.Popen[bytes], output: object) -> None:
    give_up = time.monotonic() + _READY_S
    while time.monotonic() < give_up and process.poll() is None:
        try:
            if httpx.get(f"{url}/readyz", timeout=1).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"not ready, see {output}")
