"""python -m benchmarks.serving.service: the whole server under load, beside stock BentoML and BentoML with ART's defences.

Everything runs on this machine, the load generator included, which takes the same share of it from every server.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.harness import requests as wire
from benchmarks.harness.cells import LoadCell, Loader
from benchmarks.harness.closed_loop import Load
from benchmarks.harness.servers import GATEWAY, Contender, Server, send, serving
from benchmarks.harness.wanted import wanted_table
from benchmarks.serving import formats, service_tables, stages, steadiness
from benchmarks.serving.service_tables import ART, ART_ONCE, AT, NDARRAY, OFF, ON, TRIVIAL, ServiceMeasurements, batchable
from models.datasets import MNIST, load_dataset

CELL_S = 60.0
_ROUNDS = 1
_CLIENTS = (1, 16, 64)
_ART_CLIENTS = (1, 16)
_IMAGES = 2000
_PAUSE_S = 0.05
_TIMEOUT_S = 300.0
_CHECKED, _CHECKED_OF_ART, _RIGHT = 50, 10, 0.7
_MAX_LATENCIES_MS = (100, 1000, 60_000)


class _Bench:
    """One run: the servers, the load, and the measurements."""

    def __init__(self, directory: Path, cell_s: float) -> None:
        self.directory, self.loader = directory, Loader(directory, cell_s, _ROUNDS)
        test = load_dataset(MNIST, split="test").take(slice(0, _IMAGES))
        self.labels = test.labels
        self.requests = [wire.as_json(image) for image in wire.to_bytes(test.images)[..., 0]]
        self.file = self.loader.prepare(self.requests)
        self._started = 0

    def serving(self, contender: Contender) -> AbstractContextManager[Server]:
        """Start a contender in a directory of its own."""
        self._started += 1
        return serving(contender, self.directory / f"server-{self._started}", self.requests[0])

    def once(self, contender: Contender, seconds: float) -> LoadCell:
        """One round of the usual load on a server of its own."""
        with self.serving(contender) as server:
            return LoadCell((self.loader.run(Load(server.port, AT, seconds), self.file),))

    def best_max_latency_ms(self) -> int:
        """The max_latency_ms with which the stock batchable service answers the most requests per second."""
        rates = {ms: self.once(batchable(ms), self.loader.cell_s / 12).rate for ms in _MAX_LATENCIES_MS}
        return max(rates, key=lambda ms: rates[ms])

    def run(self) -> ServiceMeasurements:
        """All measurements except the formats and the five minutes."""
        measured = ServiceMeasurements(self.once(TRIVIAL, self.loader.cell_s / 6), self.best_max_latency_ms())
        contenders = [ON, OFF, NDARRAY, batchable(measured.max_latency_ms), ART, ART_ONCE]
        for contender in (ON, OFF, NDARRAY, ART):
            with self.serving(
                contender
            ):  # once before, so that the time to ready leaves out files read and code compiled only the first time
                pass
        with ExitStack() as stack:
            servers = [stack.enter_context(self.serving(contender)) for contender in contenders]
            for server in servers:
                self._check(server)
                measured.ready_s[server.contender.name] = server.ready_s
            self._load(servers, measured)
            measured.memory = {server.contender.name: server.memory() for server in servers}
            self._unhurried(servers[:3], measured)
        return measured

    def _load(self, servers: Sequence[Server], measured: ServiceMeasurements) -> None:
        for clients in _CLIENTS:
            meter = stages.Meter()
            taking_part = servers if clients in _ART_CLIENTS else servers[:4]
            cells = self.loader.alternate(taking_part, self.file, meter.around, clients=clients, timeout_s=_TIMEOUT_S)
            for server, cell in zip(taking_part, cells, strict=True):
                measured.cells[server.contender.name, clients] = cell
            if clients == AT:
                for server in servers[:2]:
                    rate = measured.cells[server.contender.name, clients].rate
                    measured.many[server.contender.name] = stages.of_many_clients(meter.per_request_us(server), rate)

    def _unhurried(self, servers: Sequence[Server], measured: ServiceMeasurements) -> None:
        meter = stages.Meter()
        cells = self.loader.alternate(servers, self.file, meter.around, pause_s=_PAUSE_S)
        for server, cell in zip(servers, cells, strict=True):
            name = server.contender.name
            measured.unhurried[name] = cell
            if server.contender.target == GATEWAY:
                measured.one[name] = stages.of_one_client(meter.per_request_us(server), 1000 * float(cell.latencies_ms.mean()))

    def _check(self, server: Server) -> None:
        """Check that most answers of a server are right. Raises: RuntimeError."""
        count = _CHECKED_OF_ART if server.contender in (ART, ART_ONCE) else _CHECKED
        right = sum(
            _class_in(send(server.port, request)[1]) == label
            for request, label in zip(self.requests[:count], self.labels[:count].tolist(), strict=True)
        )
        if right < _RIGHT * count:
            raise RuntimeError(f"{server.contender.name} answers {right} of {count} images right")


def _class_in(body: bytes) -> int | None:
    """The class in an answer, ours or a list of probabilities; None for a refusal."""
    answer = json.loads(body)
    if isinstance(answer, dict):
        label = answer["predictions"][0]["label"]
        return None if label is None else int(label)
    return int(np.argmax(answer[0])) if any(answer[0]) else None


def section(cell_s: float = CELL_S, picture: Path = stages.PICTURE) -> str:
    """The page's section; also draws its picture."""
    with TemporaryDirectory() as name:
        bench = _Bench(Path(name), cell_s)
        measured = bench.run()
        five_minutes, steady = steadiness.measure(bench.loader, ON, Path(name) / "five", bench.file, bench.requests[0])
        by_format, formats_wanted = formats.measure(bench.loader, Path(name))
    stages.draw(service_tables.panels(measured), picture)
    wanted = [*service_tables.wanted(measured), *formats_wanted, *steady]
    return "\n".join(
        [
            service_tables.introduction(measured, cell_s, _ROUNDS, _IMAGES),
            wanted_table(wanted),
            service_tables.load_table(measured),
            service_tables.unhurried_table(measured, _PAUSE_S),
            service_tables.servers_table(measured),
            five_minutes,
            by_format,
        ]
    )


def main() -> None:
    """Print the section; docs/benchmarks.md is written by `python -m benchmarks` only."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cell-seconds", type=float, default=CELL_S, help="seconds of a cell, default %(default)s")
    parser.add_argument("--picture", type=Path, default=stages.PICTURE, help="where the picture goes, .svg or .png")
    given = parser.parse_args()
    print(section(given.cell_seconds, given.picture))


if __name__ == "__main__":
    main()
