"""python -m benchmarks operations: a soak, an overload, a kill and a SIGTERM.

saturation: a closed loop of 64 clients         -> requests/s, the unit of the rates below
soak:       70 % of it, open loop, ten minutes  -> errors, p99 of the last minute to the first, memory
overload:   3x of it, open loop                 -> answers/s to saturation, refusals with Retry-After, p99 of the accepted
kill -9:    under load, then started again      -> lost requests, answers that differ from those before
SIGTERM:    under load, keep-alive clients      -> lost requests
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import requests as wire
from benchmarks.harness.cells import NAMES, LoadCell, Loader
from benchmarks.harness.closed_loop import LOST, Load, Outcome
from benchmarks.harness.open_loop import CHANGED, NOT_TOLD, Arrivals
from benchmarks.harness.servers import GATEWAY, ROOT, Contender, Server, serving
from benchmarks.harness.wanted import Wanted, wanted_table
from benchmarks.serving.steadiness import MemoryWatch
from models.datasets import MNIST, load_dataset

SOAK_S, CELL_S = 600.0, 30.0
_CLIENTS, _IMAGES = 64, 2000
_DEADLINE_S, _DRAIN_S = 10.0, 3.0
_RESTART_S, _AT_ONCE_S = 40.0, 0.01
_POOL = 2048  # connections, as of a proxy before a gateway: more than its queue holds, or no request would be refused
_SETTINGS = {
    "HAUBERK_SECRET": "0123456789abcdef" * 2,
    "HAUBERK_DEADLINE_S": f"{_DEADLINE_S:g}",
    "HAUBERK_DRAIN_S": f"{_DRAIN_S:g}",
    "HAUBERK_CONNECTIONS_PER_ADDRESS": f"{2 * _POOL}",  # the generator has one address, and stands for many
}
OURS = Contender("Hauberk, every defence on", GATEWAY, _SETTINGS)

Samples = NDArray[np.float64]


@dataclass(frozen=True)
class Peak:
    """Requests answered per second, and the processor time of the server per request, in seconds."""

    rate: float
    answer_s: float


class Bench:
    """The loads of the section. `cell_s` is the duration in seconds of each, except the soak."""

    def __init__(self, directory: Path, cell_s: float) -> None:
        self.directory, self.cell_s = directory, cell_s
        self.loader = Loader(directory, cell_s, 1)
        test = load_dataset(MNIST, split="test").take(slice(0, _IMAGES))
        self.requests = [wire.as_json(image) for image in wire.to_bytes(test.images)[..., 0]]
        self.file = self.loader.prepare(self.requests)

    def saturation(self, server: Server) -> Peak:
        """Requests per second in a closed loop of many clients."""
        before = server.processor_s()
        outcome = self.loader.run(Load(server.port, _CLIENTS, self.cell_s, warm_up_s=3.0), self.file)
        return Peak(LoadCell((outcome,)).rate, (server.processor_s() - before) / len(outcome.samples))

    def arriving(self, load: Arrivals, name: str) -> Arriving:
        """Start an open loop; `finish` waits for its end."""
        return Arriving(load, self.file, self.directory / f"{name}.npz")


class Arriving:
    """An open loop of requests from another process."""

    def __init__(self, load: Arrivals, requests: Path, out: Path) -> None:
        self._load, self._out = load, out
        command = [sys.executable, "-m", "benchmarks.harness.open_loop", json.dumps(asdict(load)), str(requests), str(out)]
        self._process = subprocess.Popen(command, cwd=ROOT)

    def finish(self) -> Outcome:
        """Wait for the process; the outcome of its requests. Raises: RuntimeError if it failed."""
        code = self._process.wait(self._load.warm_up_s + self._load.seconds + self._load.timeout_s + 60)
        if code:
            raise RuntimeError(f"the load generator ended with {code}")
        return Outcome.read(self._out)


def soak(bench: Bench, server: Server, rate: float, seconds: float) -> tuple[str, list[Wanted]]:
    """Constant arrivals for a long time: failures, and the change of latency and memory."""
    sixth = seconds / 10
    watch = MemoryWatch(server, max(0.2, seconds / 600))
    with watch:
        outcome = bench.arriving(Arrivals(server.port, rate, seconds, warm_up_s=5.0), "soak").finish()
    began, ended, status, _ = outcome.samples.T
    opened = watch.ended_s - seconds
    first, last = ((began >= low) & (began < low + sixth) for low in (0.0, seconds - sixth))
    latencies = 1000 * (ended - began)
    p99 = [float(np.percentile(latencies[inside], 99)) for inside in (first, last)]
    memory = [watch.mean(opened + low, opened + low + sixth) for low in (0.0, seconds - sixth)]
    failed = int((status != 200).sum())
    text = (
        f"**Soak.** {seconds:,.0f} s at {rate:,.0f} arrivals/s, 70 % of saturation: {len(status):,} requests, {failed} failed. "
        "p99 of the first "
        f"tenth {p99[0]:.1f} ms, of the last {p99[1]:.1f} ms; memory of the worker {memory[0]:,.0f} and {memory[1]:,.0f} MiB.\n"
    )
    return text, [
        Wanted("soak: requests not answered with 200", 0, failed, at_most=True),
        Wanted("soak: p99 of the last tenth to the first", 1.2, p99[1] / p99[0], at_most=True),
        Wanted("soak: memory of the last tenth to the first", 1.02, memory[1] / memory[0], at_most=True),
    ]


def overload(bench: Bench, server: Server, peak: Peak) -> tuple[str, list[Wanted]]:
    """Arrivals at three times the rate of saturation."""
    load = Arrivals(server.port, 3 * peak.rate, bench.cell_s, warm_up_s=5.0, connections=_POOL, from_sent=True)
    before = server.processor_s()
    outcome = bench.arriving(load, "overload").finish()
    spent_s = server.processor_s() - before
    began, ended, status, told = outcome.samples[outcome.samples[:, 0] >= 0].T
    accepted = status == 200
    answered = ((outcome.samples[:, 2] == 200) & (outcome.samples[:, 1] >= 0) & (outcome.samples[:, 1] <= outcome.seconds)).sum()
    rate = float(answered) / outcome.seconds
    refused = np.isin(status, (429, 503))
    others = int((~accepted & ~refused).sum())
    untold = int((told == NOT_TOLD).sum())
    p99 = float(np.percentile(ended[accepted] - began[accepted], 99))
    sent = len(began) / outcome.seconds
    every = outcome.samples[:, 2]
    refusal_s = (spent_s - (every == 200).sum() * peak.answer_s) / max(1, np.isin(every, (429, 503)).sum())
    text = (
        f"**Overload.** {sent:,.0f} arrivals/s ({sent / peak.rate:.1f}x saturation; the generator took {outcome.processor_share:.0%} of "
        f"a processor) for {outcome.seconds:,.0f} s: {rate:,.0f} answers/s; {_statuses(outcome.samples)}; {untold} of the refusals "
        f"without Retry-After. p99 of the accepted {p99:.2f} s, the deadline is {_DEADLINE_S:g} s. At saturation an answer took "
        f"{1000 * peak.answer_s:.2f} ms of processor time; if it took as much here, a refusal took {1000 * refusal_s:.2f} ms. "
        f"Generator and server share {os.cpu_count()} processors.\n"
    )
    return text, [
        Wanted("overload: answers/s to saturation", 0.9, rate / peak.rate),
        Wanted("overload: neither answered nor refused with Retry-After", 0, others + untold, at_most=True),
        Wanted("overload: p99 of the accepted to the deadline", 1, p99 / _DEADLINE_S, at_most=True),
    ]


def kill(bench: Bench, directory: Path, rate: float) -> tuple[str, list[Wanted]]:
    """kill -9 of all of the server's processes under load, and a new one on the same port."""
    with serving(OURS, directory / "killed", bench.requests[0]) as server:
        load = Arrivals(server.port, rate, bench.cell_s + _RESTART_S, timeout_s=30.0)
        arriving = bench.arriving(load, "kill")
        time.sleep(load.warm_up_s + bench.cell_s / 2)
        for process in [*server.process.children(recursive=True), server.process]:
            process.kill()
        killed = time.perf_counter()
        server.process.wait(30)
        with serving(OURS, directory / "again", bench.requests[0], port=server.port):
            away_s = time.perf_counter() - killed
            outcome = arriving.finish()
    samples = outcome.samples[np.argsort(outcome.samples[:, 0])]
    gone = samples[samples[:, 2] == LOST]
    last_gone = float(gone[-1, 0]) if len(gone) else 0.0
    changed = int((samples[:, 3] == CHANGED).sum())
    neither = int((~np.isin(samples[:, 2], (200, LOST, 503)) | (samples[:, 3] == NOT_TOLD)).sum())
    # A connection refused at once found no server listening; a later loss was a request being processed.
    under_way = int((gone[:, 1] - gone[:, 0] > _AT_ONCE_S).sum())
    after = int((samples[samples[:, 0] > last_gone][:, 2] == 200).sum())
    text = (
        f"**kill -9.** {rate:,.0f} arrivals/s; the restarted server answers after {away_s:.1f} s. {len(samples):,} requests: "
        f"{_statuses(samples)}. About {under_way} of the lost requests were being processed; the others found no server listening. "
        f"The restarted server answered 503 until it was ready. {changed} answers differ from the earlier answer to the same image; "
        f"{after:,} requests were answered after the restart.\n"
    )
    return text, [
        Wanted("kill -9: answers that differ from earlier ones", 0, changed, at_most=True),
        Wanted("kill -9: outcomes other than 200, a connection error, or 503 with Retry-After", 0, neither, at_most=True),
    ]


def end(bench: Bench, directory: Path, rate: float) -> tuple[str, list[Wanted]]:
    """SIGTERM under load from keep-alive clients that obey readiness and `Connection: close`."""
    with serving(OURS, directory / "ended", bench.requests[0]) as server:
        load = Arrivals(server.port, rate, bench.cell_s, timeout_s=30.0, heed_readiness=True)
        arriving = bench.arriving(load, "end")
        told: list[float] = []

        def terminate() -> None:
            time.sleep(1.0 + bench.cell_s / 4)
            told.append(time.perf_counter())
            server.process.terminate()

        thread = threading.Thread(target=terminate)
        thread.start()
        outcome = arriving.finish()
        thread.join()
        code = server.process.wait(60)
        ended_s = time.perf_counter() - told[0]
    _, _, status, _ = outcome.samples.T
    lost = int((status != 200).sum())
    text = (
        f"**SIGTERM.** {rate:,.0f} arrivals/s on keep-alive connections, from a client that stops at the first `/readyz` of 503 "
        "and closes what "
        f"says `Connection: close`: {len(status):,} requests, {_statuses(outcome.samples)}. The process ended after "
        f"{ended_s:.1f} s (a pause of {_DRAIN_S:g} s) "
        f"with exit code {code}.\n"
    )
    return text, [Wanted("SIGTERM: requests lost by a client that obeys readiness", 0, lost, at_most=True)]


def _statuses(samples: Samples) -> str:
    """Counts by status, as text."""
    found, counts = np.unique(samples[:, 2].astype(int), return_counts=True)
    pairs = zip(found.tolist(), counts.tolist(), strict=True)
    return ", ".join(f"{count:,} x {NAMES.get(status, status)}" for status, count in pairs)


def section(soak_s: float = SOAK_S, cell_s: float = CELL_S) -> str:
    """The page's section."""
    texts: list[str] = []
    wanted: list[Wanted] = []

    def add(found: tuple[str, Sequence[Wanted]]) -> None:
        texts.append(found[0])
        wanted.extend(found[1])

    with TemporaryDirectory() as name:
        bench = Bench(Path(name), cell_s)
        with serving(OURS, Path(name) / "server", bench.requests[0]) as server:
            peak = bench.saturation(server)
            add(soak(bench, server, 0.7 * peak.rate, soak_s))
            add(overload(bench, server, peak))
        add(kill(bench, Path(name), 0.5 * peak.rate))
        add(end(bench, Path(name), 0.5 * peak.rate))
    head = (
        "## Operations\n\n`python -m benchmarks operations`: one worker, every defence on, one MNIST digit a request as JSON, "
        "the load generator on "
        f"the same machine. Saturation, {_CLIENTS} clients in a closed loop: **{peak.rate:,.0f} requests/s**. Arrivals are an open "
        "loop: latencies "
        "count from the intended start of a request.\n"
    )
    return "\n".join([head, wanted_table(wanted), *texts])


def main() -> None:
    """Print the section; docs/benchmarks.md is written by `python -m benchmarks` only."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--soak-seconds", type=float, default=SOAK_S, help="default %(default)s")
    parser.add_argument("--cell-seconds", type=float, default=CELL_S, help="everything else, default %(default)s")
    given = parser.parse_args()
    print(section(given.soak_seconds, given.cell_seconds))


if __name__ == "__main__":
    main()
