"""python -m benchmarks hostile_clients: what an honest client and a probe notice of a client that tries to starve them.

For each attack: the honest client alone, then beside the attack. The honest client sends single digits at a constant rate from an
address of its own; a probe asks `/readyz` over a new connection each time, as an orchestrator does.
"""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.harness import requests as wire
from benchmarks.harness.cells import NAMES, LoadCell, Loader
from benchmarks.harness.hostile import ADDRESS, Hostility, command, costly_bodies
from benchmarks.harness.open_loop import Arrivals
from benchmarks.harness.peers import table
from benchmarks.harness.servers import GATEWAY, ROOT, Contender, Server, serving
from benchmarks.harness.wanted import Wanted, wanted_table
from benchmarks.serving.operations import Arriving
from benchmarks.serving.poisoned_bundle import TRIGGER, poisoned_bundle
from models.datasets import MNIST, load_dataset

CELL_S = 30.0
_HONEST_PER_S, _PROBES_PER_S = 50.0, 20.0
_LEAD_S = 3.0  # the attack begins before the window of the honest client opens
_IMAGES_PER_REQUEST, _DIFFERENT = 64, 20
_TIMES_AT_MOST, _READY_MS_AT_MOST = 3.0, 100.0
_PROBE_TIMEOUT_S = 10.0
_MIB = 1 << 20


@dataclass(frozen=True)
class HostileCase:
    """One row of the table; `requests` names the prepared ones it sends."""

    name: str
    task: Hostility
    requests: str = ""


ATTACKS = (
    HostileCase("256 KiB of small JSON values, 12 connections, 0.7 MB/s", Hostility("ask", 0, 12, 0, 0.7e6), "costly"),
    HostileCase("the same, each as soon as it is answered", Hostility("ask", 0, 12, 0), "costly"),
    HostileCase("a suspicious image 64 times a request, 8 connections", Hostility("ask", 0, 8, 0), "repeated"),
    HostileCase("64 different suspicious images a request, 8 connections", Hostility("ask", 0, 8, 0), "suspicious"),
    HostileCase("64 different suspicious images a request, 20 connections", Hostility("ask", 0, 20, 0), "suspicious"),
    HostileCase("bodies without their last byte, 64 connections, 9 MB/s", Hostility("unfinished", 0, 64, 0, 9e6)),
    HostileCase("4,200 idle keep-alive connections", Hostility("idle", 0, 4200, 0)),
    HostileCase("64 connections that read a byte a second", Hostility("slow_reader", 0, 64, 0)),
)


@dataclass(frozen=True)
class Noticed:
    """What the honest client and the probe saw in one window, and what the attacker was answered."""

    honest: LoadCell
    ready_ms: tuple[float, ...]
    unready: int
    attacker: dict[str, int]

    @property
    def failed(self) -> int:
        """Requests of the honest client without a 200."""
        return int(sum((outcome.samples[:, 2] != 200).sum() for outcome in self.honest.rounds))

    @property
    def ready_p99_ms(self) -> float:
        """Of the probe."""
        return float(np.percentile(self.ready_ms, 99))


class Probe:
    """Asks `/readyz` at a constant rate while its `with` block runs; a failure counts as long as the time-out."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.latencies_ms: list[float] = []
        self.unready = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Probe:
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(1 / _PROBES_PER_S):
            began = time.perf_counter()
            ready = self._ready()
            self.latencies_ms.append(1000 * (time.perf_counter() - began if ready else _PROBE_TIMEOUT_S))
            self.unready += not ready

    def _ready(self) -> bool:
        with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=_PROBE_TIMEOUT_S)) as connection:
            try:
                connection.request("GET", "/readyz")
                return connection.getresponse().status == http.client.OK
            except (OSError, http.client.HTTPException):
                return False


class HostileBench:
    """Runs the windows against one server."""

    def __init__(self, directory: Path, bundle: Path, cell_s: float) -> None:
        self.directory, self.cell_s = directory, cell_s
        self.loader = Loader(directory, cell_s, 1)
        test = load_dataset(MNIST, split="test")
        honest = wire.to_bytes(test.take(slice(0, 2000)).images)[..., 0]
        many = _IMAGES_PER_REQUEST * _DIFFERENT
        marked = wire.to_bytes(TRIGGER(test.take(slice(2000, 2000 + many)).images))[..., 0]
        requests = {
            "honest": [wire.as_json(image) for image in honest],
            "costly": costly_bodies(),
            "suspicious": [_many(part) for part in np.split(marked, _DIFFERENT)],
            "repeated": [_many(np.repeat(image[None], _IMAGES_PER_REQUEST, axis=0)) for image in marked[:_DIFFERENT]],
        }
        self.first = requests["honest"][0]
        self.files = {name: self.loader.prepare(each) for name, each in requests.items()}
        settings = {"HAUBERK_SECRET": "0123456789abcdef" * 2, "HAUBERK_BUNDLE": str(bundle)}
        self.contender = Contender("Hauberk, every defence on", GATEWAY, settings)

    def window(self, server: Server, attack: HostileCase | None) -> Noticed:
        """One window, beside an attack or alone."""
        out = self.directory / "honest.npz"
        process = None if attack is None else self._begin(server, attack)
        load = Arrivals(server.port, _HONEST_PER_S, self.cell_s, warm_up_s=_LEAD_S, timeout_s=30.0)
        arriving = Arriving(load, self.files["honest"], out)
        time.sleep(_LEAD_S)
        with Probe(server.port) as probe:
            outcome = arriving.finish()
        answered = {} if process is None else json.loads(process.communicate(timeout=60)[0])
        return Noticed(LoadCell((outcome,)), tuple(probe.latencies_ms), probe.unready, answered)

    def _begin(self, server: Server, attack: HostileCase) -> subprocess.Popen[bytes]:
        task = replace(attack.task, port=server.port, seconds=self.cell_s + 2 * _LEAD_S)
        arguments = command(task, self.files[attack.requests] if attack.requests else None)
        return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE)


def _many(images: np.ndarray) -> bytes:
    body = json.dumps({"images": (images / 255).round(4).tolist()}).encode()
    return wire.http_request("/predict", "application/json", body)


def section(cell_s: float = CELL_S, attacks: Sequence[HostileCase] = ATTACKS, root: Path = ROOT) -> str:
    """The page's section."""
    rows, wanted = [], []
    with TemporaryDirectory() as name:
        bench = HostileBench(Path(name), poisoned_bundle(Path(name)), cell_s)
        with serving(replace(bench.contender, root=root), Path(name) / "server", bench.first) as server:
            for attack in attacks:
                alone, beside = bench.window(server, None), bench.window(server, attack)
                rows.append(_row(attack, alone, beside, server))
                wanted += _wanted(attack, alone, beside)
                print(rows[-1], file=sys.stderr, flush=True)
    header = (
        "attack", "p50, p99 alone", "p50, p99 beside it", "failed", "/readyz p50, p99", "not ready", "the attacker got", "worker MiB"
    )  # fmt: skip
    return (
        "## Hostile clients\n\n`python -m benchmarks hostile_clients`: one worker, every defence on, a classifier with a backdoor. The "
        f"honest client sends {_HONEST_PER_S:g} single digits a second from 127.0.0.1, the attacker comes from {ADDRESS}; `/readyz` is "
        f"asked {_PROBES_PER_S:g} times a second over new connections. Windows of {cell_s:g} s, latencies in ms from the intended start; "
        f"attacker, honest client and server share the machine.\n\n{wanted_table(wanted)}\n{table(header, rows)}"
    )


def _row(attack: HostileCase, alone: Noticed, beside: Noticed, server: Server) -> list[object]:
    got = ", ".join(f"{count:,} x {NAMES.get(int(status), status)}" for status, count in beside.attacker.items() if count)
    return [
        attack.name,
        f"{alone.honest.percentile_ms(50):.1f}, {alone.honest.percentile_ms(99):.1f}",
        f"{beside.honest.percentile_ms(50):.1f}, {beside.honest.percentile_ms(99):.1f}",
        beside.failed,
        f"{np.median(beside.ready_ms):.1f}, {beside.ready_p99_ms:.1f}",
        beside.unready,
        got or "nothing",
        f"{server.memory().worker:,.0f}",
    ]


def _wanted(attack: HostileCase, alone: Noticed, beside: Noticed) -> list[Wanted]:
    ratio = beside.honest.percentile_ms(99) / alone.honest.percentile_ms(99)
    return [
        Wanted(f"{attack.name}: p99 of the honest client to its p99 alone", _TIMES_AT_MOST, ratio, at_most=True),
        Wanted(f"{attack.name}: requests of the honest client that fail", 0, beside.failed, at_most=True),
        Wanted(f"{attack.name}: p99 of /readyz to 100 ms", 1, beside.ready_p99_ms / _READY_MS_AT_MOST, at_most=True),
    ]


def main() -> None:
    """Print the section; docs/benchmarks.md is written by `python -m benchmarks` only."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell-seconds", type=float, default=CELL_S, help="a window, default %(default)s")
    parser.add_argument("--attacks", type=int, nargs="*", help="numbers of the rows to measure, from 0; all when not given")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout to serve from, default this one")
    given = parser.parse_args()
    attacks = ATTACKS if given.attacks is None else [ATTACKS[number] for number in given.attacks]
    print(section(given.cell_seconds, attacks, given.root.resolve()))


if __name__ == "__main__":
    main()
