"""Five minutes of full load on a fresh server: the change of the p99 and of memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.cells import Loader
from benchmarks.harness.closed_loop import Load
from benchmarks.harness.peers import table
from benchmarks.harness.servers import Contender, Server, serving
from benchmarks.harness.wanted import Wanted

_CLIENTS, _MINUTES = 16, 5
_LOOKS_A_MINUTE = 12
_P99_AT_MOST, _MEMORY_AT_MOST = 1.2, 1.02


def measure(loader: Loader, contender: Contender, directory: Path, requests: Path, first: bytes) -> tuple[str, list[Wanted]]:
    """The text with its table, and the wanted ratios. A "minute" is as long as a cell."""
    minute_s = loader.cell_s
    with serving(contender, directory, first) as server:
        load = Load(server.port, _CLIENTS, _MINUTES * minute_s, warm_up_s=minute_s / 6)
        watch = MemoryWatch(server, minute_s / _LOOKS_A_MINUTE)
        with watch:
            outcome = loader.run(load, requests)
        opened_s = watch.ended_s - load.seconds
    began, ended, status, _ = outcome.samples.T
    latencies = 1000 * (ended - began)
    rows, p99, memory = [], [], []
    for minute in range(_MINUTES):
        inside = (began >= minute * minute_s) & (began < (minute + 1) * minute_s)
        p50, slowest = np.percentile(latencies[inside], (50, 99))
        p99.append(float(slowest))
        memory.append(watch.mean(opened_s + minute * minute_s, opened_s + (minute + 1) * minute_s))
        failed = int((status[inside] != 200).sum())
        rows.append([minute + 1, f"{inside.sum() / minute_s:,.0f}", f"{p50:.1f}", f"{slowest:.1f}", f"{memory[-1]:,.1f}", failed])
    header = ("minute", "requests/s", "p50 ms", "p99 ms", "worker MiB", "failed")
    text = (
        f"### Five minutes\n\n{_CLIENTS} clients on a fresh server, every defence on"
        f"{'' if minute_s == 60 else f', minutes of {minute_s:g} s'}.\n\n{table(header, rows)}\n"
        f"Fitted slopes: p99 {_slope(p99):+.2f} ms and resident memory of the worker {_slope(memory):+.2f} MiB a minute.\n"
    )
    wanted = [
        Wanted("p99 of the fifth minute to that of the first", _P99_AT_MOST, p99[-1] / p99[0], at_most=True),
        Wanted("worker memory in the fifth minute to that in the first", _MEMORY_AT_MOST, memory[-1] / memory[0], at_most=True),
    ]
    return text, wanted


def _slope(values: Sequence[float]) -> float:
    """The slope of the line of least squares, per step."""
    return float(np.polyfit(range(len(values)), values, 1)[0])


class MemoryWatch:
    """Samples the memory of a worker in a thread while its `with` block runs."""

    def __init__(self, server: Server, every_s: float) -> None:
        self._server, self._every_s = server, every_s
        self._looks: list[tuple[float, float]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *failure: object) -> None:
        self.ended_s = time.perf_counter()
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(self._every_s):
            self._looks.append((time.perf_counter(), self._server.memory().worker))

    def mean(self, first_s: float, last_s: float) -> float:
        """Mean MiB between two times."""
        looks: NDArray[np.float64] = np.array(self._looks)
        inside = (looks[:, 0] >= first_s) & (looks[:, 0] <= last_s)
        return float(looks[inside, 1].mean())
