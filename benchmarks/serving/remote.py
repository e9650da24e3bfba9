"""python -m benchmarks remote: the gateway in front of MLServer, beside MLServer alone, and what becomes of requests when it is killed.

MLServer runs from an environment of its own, which MLSERVER_PYTHON names (`benchmarks/harness/mlserver.py`); without it the section is
left as it is on the page.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import requests as wire
from benchmarks.harness.cells import NAMES, LoadCell, Loader
from benchmarks.harness.closed_loop import Load, Outcome
from benchmarks.harness.mlserver import PYTHON, MlServer, inference, mlserver, python, remote_bundle
from benchmarks.harness.peers import table
from benchmarks.harness.servers import GATEWAY, Contender, Server, serving
from models.bundle import Bundle, read_bundle, standard_bundle_directory
from models.datasets import MNIST, load_dataset

CELL_S, _ROUNDS = 30.0, 4
_IMAGES = 500
_CLIENTS = (1, 16)
DIRECT, OFF, ON, IN_PROCESS = (
    "MLServer, asked directly",
    "Hauberk, defences off",
    "Hauberk, every defence on",
    "the same, model in process",
)
_SECRET = {"HAUBERK_SECRET": "a secret of the benchmark", "HAUBERK_ACCESS_LOG": "off"}
_RUN_S, _KILLED_AT_S, _STARTED_AT_S = 40.0, 8.0, 14.0

Cells = Mapping[tuple[str, int], LoadCell]


@dataclass(frozen=True)
class Outage:
    """A run in which MLServer was killed and started again; times in seconds from its beginning.

    Attributes:
        samples: as in `Outcome`.
        killed_s, back_s: when it was killed, and when it answered again.
    """

    samples: NDArray[np.float64]
    killed_s: float
    back_s: float

    @property
    def statuses(self) -> str:
        """How many requests ended with which status."""
        found, counts = np.unique(self.samples[:, 2].astype(int), return_counts=True)
        return ", ".join(
            f"{count:,} x {NAMES.get(status, status)}" for status, count in zip(found.tolist(), counts.tolist(), strict=True)
        )

    @property
    def slowest_s(self) -> float:
        """The longest that a request took which began after the kill, and was not answered with 200."""
        began, ended, status, _ = self.samples.T
        failed = status != 200
        return float((ended - began)[failed].max()) if failed.any() else 0.0

    @property
    def recovered_s(self) -> float:
        """From MLServer's first answer to the first 200 after it."""
        _, ended, status, _ = self.samples.T
        answered = ended[(status == 200) & (ended > self.back_s)]
        return float(answered.min() - self.back_s) if answered.size else float("nan")


def section(cell_s: float = CELL_S) -> str | None:
    """The page's section; None, with a line that says so, without MLServer."""
    interpreter = python()
    if interpreter is None:
        print(
            f"remote: not measured, since {PYTHON} names no Python with MLServer; see benchmarks/harness/mlserver.py",
            file=sys.stderr,
        )
        return None
    with TemporaryDirectory() as name, ExitStack() as stack:
        directory, bundle = Path(name), read_bundle(standard_bundle_directory())
        loader = Loader(directory, cell_s, _ROUNDS)
        images = load_dataset(MNIST, split="test").images[:_IMAGES]
        requests = [wire.as_json(image) for image in wire.to_bytes(images)[..., 0]]
        direct = [inference(image) for image in images]
        contender, port = mlserver(interpreter, directory / "mlserver", bundle)
        with serving(contender, directory / "mlserver-home", direct[0], port=port):
            remote = remote_bundle(bundle, port, directory / "remote", images)
        server = stack.enter_context(_Restarted(contender, directory / "mlserver-home", direct[0], port))
        gateways = [stack.enter_context(serving(each, directory / each.name, requests[0])) for each in _gateways(bundle, remote)]
        files = [loader.prepare(direct), *[loader.prepare(requests)] * len(gateways)]
        cells: dict[tuple[str, int], LoadCell] = {}
        for clients in _CLIENTS:
            pairs = list(zip([server.running, *gateways], files, strict=True))
            for (asked, _), cell in zip(pairs, loader.alternate_requests(pairs, clients=clients), strict=True):
                cells[DIRECT if asked is server.running else asked.contender.name, clients] = cell
        outage = _outage(server, gateways[1], loader, files[1])
    return text(cells, outage, cell_s)


class _Restarted:
    """MLServer, which can be killed and started again at the same port."""

    def __init__(self, contender: MlServer, home: Path, request: bytes, port: int) -> None:
        self._contender, self._home, self._request, self._port = contender, home, request, port
        self._stack = ExitStack()

    def __enter__(self) -> _Restarted:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self) -> None:
        self.running: Server = self._stack.enter_context(serving(self._contender, self._home, self._request, port=self._port))

    def kill(self) -> None:
        """SIGKILL, as when memory is short."""
        for process in (*self.running.process.children(recursive=True), self.running.process):
            process.kill()
        self.running.process.wait()


def _gateways(bundle: Bundle, remote: Bundle) -> list[Contender]:
    there = _SECRET | {"HAUBERK_BUNDLE": str(remote.directory)}
    modes = ",".join(f"{defence['name']}=off" for defence in remote.settings["defences"])
    here = _SECRET | {"HAUBERK_BUNDLE": str(bundle.directory)}
    return [
        Contender(OFF, GATEWAY, there | {"HAUBERK_MODES": modes}),
        Contender(ON, GATEWAY, there),
        Contender(IN_PROCESS, GATEWAY, here),
    ]


def _outage(server: _Restarted, gateway: Server, loader: Loader, requests: Path) -> Outage:
    """Load the gateway, and kill MLServer and start it again meanwhile."""
    found: list[Outcome] = []
    load = Load(gateway.port, _CLIENTS[-1], _RUN_S, warm_up_s=1.0, pause_s=0.01)
    thread = threading.Thread(target=lambda: found.append(loader.run(load, requests)))
    thread.start()
    began = time.perf_counter()
    time.sleep(_KILLED_AT_S)
    server.kill()
    killed = time.perf_counter()
    time.sleep(_STARTED_AT_S - _KILLED_AT_S)
    server.start()
    back = time.perf_counter()
    thread.join()
    (outcome,) = found
    # The generator's clock starts with its window, a process's start after ours: the first failure is the kill.
    failures = outcome.samples[outcome.samples[:, 2] != 200]
    shift = (failures[:, 1].min() if len(failures) else killed - began) - (killed - began)
    return Outage(outcome.samples, killed - began + shift, back - began + shift)


def text(cells: Cells, outage: Outage, cell_s: float) -> str:
    """The section, from cells by server and clients, and the run with the outage."""
    rows = []
    for (name, clients), cell in cells.items():
        direct = cells[DIRECT, clients]
        added = ["", ""] if name == DIRECT else [f"{cell.percentile_ms(q) - direct.percentile_ms(q):+.1f}" for q in (50, 99)]
        numbers = [f"{cell.percentile_ms(50):.1f}", f"{cell.percentile_ms(99):.1f}", *added, f"{cell.rate / direct.rate:.2f}x"]
        rows.append([name, clients, f"{cell.rate:,.0f}", *numbers, cell.failures])
    header = (
        "server",
        "clients",
        "requests/s",
        "p50 ms",
        "p99 ms",
        "added p50",
        "added p99",
        "requests/s to MLServer's",
        "not 200",
    )
    return "\n".join(
        [
            "## In front of MLServer",
            "",
            f"`{PYTHON}=... python -m benchmarks remote`: one image of MNIST a request, the ONNX graph of `mnist-standard` in MLServer "
            "(ONNX Runtime, one thread, no parallel workers), JSON throughout, since MLServer's REST interface has no binary tensors; "
            f"{cell_s:g} s a cell in alternating rounds, everything on this machine. A defended image takes several rows of a forward "
            "pass, an undefended one takes one: MLServer reads each row from JSON.",
            "",
            table(header, rows),
            f"MLServer killed (SIGKILL) {outage.killed_s:.1f} s into {_RUN_S:g} s of {_CLIENTS[-1]} clients, started again "
            f"{_STARTED_AT_S - _KILLED_AT_S:g} s later, every defence on, a deadline of 10 s: {outage.statuses}. The slowest request "
            f"that was not answered with 200 took {outage.slowest_s:.2f} s; the first answer came {outage.recovered_s:.1f} s after "
            "MLServer answered again. Nobody restarted the gateway.",
            "",
        ]
    )
