"""Servers to measure, ours and the peers': each a process of its own, with its own BENTOML_HOME and port, on loopback."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.harness.readiness import free_port, wait_until
from models.bundle import standard_bundle_directory

ROOT = Path(__file__).parents[2]
GATEWAY = "service.gateway:Gateway"
HAUBERK = "hauberk serve"
_READY_S = 600.0
_LOOK_S = 0.02
_MIB = 1 << 20


@dataclass(frozen=True)
class Contender:
    """A server by its name in the tables.

    Args:
        target: what `bentoml serve` is given, or, without `bentoml`, what uvicorn is; or `HAUBERK`, for our own command.
        settings: environment variables.
        root: the checkout it is started from.
    """

    name: str
    target: str
    settings: Mapping[str, str] = field(default_factory=dict)
    bentoml: bool = True
    root: Path = ROOT

    def command(self, port: int) -> list[str]:
        """How it is started: with the defaults of its server."""
        address = ["--host", "127.0.0.1", "--port", str(port)]
        if self.target == HAUBERK:
            return [sys.executable, "-W", "ignore", "-c", "from hauberk.main import main; main()", "serve", *address]
        start = ["bentoml", "serve"] if self.bentoml else ["uvicorn", "--no-access-log", "--log-level", "warning"]
        return [sys.executable, "-W", "ignore", "-m", *start, self.target, *address]


@dataclass(frozen=True)
class Memory:
    """Resident MiB of the worker, and of all processes of a server."""

    worker: float
    everything: float


@dataclass(frozen=True)
class Server:
    """A server that has answered. `ready_s` is from its start to its first answer to a request for a classification."""

    contender: Contender
    process: psutil.Popen
    port: int
    ready_s: float
    log: Path

    def memory(self) -> Memory:
        """What it holds now; the worker is the largest process."""
        processes = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        resident = [process.memory_info().rss / _MIB for process in processes]
        return Memory(max(resident), sum(resident))

    def processor_s(self) -> float:
        """Seconds of a processor that all threads of its processes have taken so far: what others do does not change it much."""
        spent = [each.cpu_times() for each in (self.process, *self.process.children(recursive=True))]
        return float(sum(times.user + times.system for times in spent))

    def get(self, path: str) -> str:
        """The body of a GET."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request("GET", path)
            return connection.getresponse().read().decode()


@contextlib.contextmanager
def serving(contender: Contender, directory: Path, request: bytes, *, port: int | None = None) -> Iterator[Server]:
    """Start a server, wait until it has answered `request` with 200, and stop it in the end."""
    directory.mkdir(parents=True, exist_ok=True)
    port, log = port or free_port(), directory / "log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HAUBERK_", "BENTOML_"))}
    environment |= {"BENTOML_HOME": str(directory / "home"), "BENTOML_DO_NOT_TRACK": "True"}
    environment |= {"HAUBERK_BUNDLE": str(standard_bundle_directory()), "PYTHONPATH": str(contender.root), **contender.settings}
    with log.open("wb") as written:
        started = time.perf_counter()
        process = psutil.Popen(contender.command(port), cwd=contender.root, env=environment, stdout=written, stderr=written)
        try:
            wait_until(lambda: _answers(port, request), process, log, within_s=_READY_S, every_s=_LOOK_S)
            server = Server(contender, process, port, time.perf_counter() - started, log)
            print(f"{contender.name} answers after {server.ready_s:.1f} s", file=sys.stderr, flush=True)
            yield server
        finally:
            _stop(process)


def _answers(port: int, request: bytes) -> bool:
    try:
        return send(port, request)[0] == http.client.OK
    except OSError:
        return False


def send(port: int, request: bytes) -> tuple[int, bytes]:
    """Send prepared bytes over a connection of their own: status and body."""
    with socket.create_connection(("127.0.0.1", port), timeout=_READY_S) as connection:
        connection.sendall(request)
        response = http.client.HTTPResponse(connection)
        with contextlib.closing(response):
            try:
                response.begin()
            except http.client.HTTPException as failure:
                raise OSError from failure
            return response.status, response.read()


def _stop(process: psutil.Popen) -> None:
    processes = [*process.children(recursive=True), process] if process.is_running() else []
    with contextlib.suppress(psutil.NoSuchProcess):
        process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired, psutil.TimeoutExpired):
        process.wait(30)
    for left in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            left.kill()
