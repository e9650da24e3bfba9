"""Cells of the tables: rounds of one load on one server, run in turns with those of the other servers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.closed_loop import LOST, TIMED_OUT, Load, Outcome, save_requests
from benchmarks.harness.servers import ROOT, Server

_SPARE_S = 60.0
NAMES = {LOST: "connection lost", TIMED_OUT: "timed out"}


@dataclass(frozen=True)
class LoadCell:
    """All rounds of one load. Nothing is dropped: percentiles are over every request that began in a window, failed or not."""

    rounds: tuple[Outcome, ...]

    @cached_property
    def latencies_ms(self) -> NDArray[np.float64]:
        """Of the requests that began in a window."""
        return 1000 * np.concatenate([_latencies(outcome.samples) for outcome in self.rounds])

    @property
    def rate(self) -> float:
        """Requests answered with 200 per second, over all rounds."""
        return sum(map(_answered, self.rounds)) / sum(outcome.seconds for outcome in self.rounds)

    def percentile_ms(self, percent: float) -> float:
        """Of the latencies; NaN when no request began."""
        return float(np.percentile(self.latencies_ms, percent)) if len(self.latencies_ms) else float("nan")

    @property
    def requests(self) -> int:
        """How many began in a window."""
        return len(self.latencies_ms)

    @property
    def abstained(self) -> int:
        """Rows refused by the defences among them."""
        return int(sum(outcome.samples[outcome.samples[:, 0] >= 0, 3].sum() for outcome in self.rounds))

    @property
    def failures(self) -> str:
        """Those not answered with 200, warm-up included, by status."""
        statuses = np.concatenate([outcome.samples[:, 2] for outcome in self.rounds]).astype(int)
        found, counts = np.unique(statuses[statuses != 200], return_counts=True)
        listed = [f"{count} x {NAMES.get(status, status)}" for status, count in zip(found.tolist(), counts.tolist(), strict=True)]
        return ", ".join(listed) or "0"

    @property
    def processor_share(self) -> float:
        """What the load generator took of one processor, in the round where it was most."""
        return max(outcome.processor_share for outcome in self.rounds)


def _latencies(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    inside = samples[samples[:, 0] >= 0]
    return np.asarray(inside[:, 1] - inside[:, 0])


def _answered(outcome: Outcome) -> int:
    _, ended, status, _ = outcome.samples.T
    return int(((ended >= 0) & (ended <= outcome.seconds) & (status == 200)).sum())


class Loader:
    """Runs loads in processes of their own.

    Args:
        directory: for what passes between the processes.
        cell_s, rounds: the seconds of a cell, and into how many rounds they are cut.
    """

    def __init__(self, directory: Path, cell_s: float, rounds: int = 3) -> None:
        self.directory, self.cell_s, self.rounds = directory, cell_s, rounds
        self.round_s = cell_s / rounds
        self._files = 0

    def prepare(self, requests: Sequence[bytes]) -> Path:
        """The requests as a file for `run`."""
        path = self._new_file("requests")
        save_requests(path, requests)
        return path

    def run(self, load: Load, requests: Path) -> Outcome:
        """Run one load to its end."""
        out = self._new_file("outcome")
        command = [sys.executable, "-m", "benchmarks.harness.closed_loop", json.dumps(asdict(load)), str(requests), str(out)]
        subprocess.run(command, cwd=ROOT, check=True, timeout=load.warm_up_s + load.seconds + load.timeout_s + _SPARE_S)
        return Outcome.read(out)

    def alternate(self, servers: Sequence[Server], requests: Path, around: Around | None = None, **load: float) -> list[LoadCell]:
        """A cell for each server, in rounds that take turns; the order turns round every second time."""
        return self.alternate_requests([(server, requests) for server in servers], around, **load)

    def alternate_requests(
        self, pairs: Sequence[tuple[Server, Path]], around: Around | None = None, **load: float
    ) -> list[LoadCell]:
        """The same for servers with requests of their own."""
        outcomes: list[list[Outcome]] = [[] for _ in pairs]
        for number in range(self.rounds):
            for i in range(len(pairs)) if number % 2 == 0 else reversed(range(len(pairs))):
                server, requests = pairs[i]
                options = {"clients": 1, "warm_up_s": min(2.0, self.round_s / 4)} | load
                asked = Load(port=server.port, seconds=self.round_s, **options)  # type: ignore[arg-type]

                def step(asked: Load = asked, requests: Path = requests) -> Outcome:
                    return self.run(asked, requests)

                outcomes[i].append(step() if around is None else around(server, step))
                told = f"round {number + 1} of {self.rounds}: {server.contender.name}, {asked.clients} clients"
                print(told, file=sys.stderr, flush=True)
        return [LoadCell(tuple(rounds)) for rounds in outcomes]

    def _new_file(self, kind: str) -> Path:
        self._files += 1
        return self.directory / f"{kind}-{self._files}.npz"


Around = Callable[[Server, Callable[[], Outcome]], Outcome]
"""Runs a round and looks at the server before and after it."""
