"""The bundled classifier, served the way the README says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from benchmarks.harness.readiness import answers_200, free_port, wait_until

_READY_S = 180.0


@pytest.fixture(scope="session")
def bundled_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of `hauberk serve` with nothing set but a port."""
    port = free_port()
    home = tmp_path_factory.mktemp("documents")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HAUBERK_")}
    command = [sys.executable, "-c", "from hauberk.main import main; main()", "serve", "--port", str(port)]
    with (home / "output").open("wb") as output:
        process = subprocess.Popen(
            command, env=environment | {"BENTOML_HOME": str(home / "bentoml")}, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        wait_until(lambda: answers_200(port), process, home / "output", within_s=_READY_S)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
