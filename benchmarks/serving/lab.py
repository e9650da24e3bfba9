"""python -m benchmarks lab: the robustness lab on the bundled digits, from its start to an evaluation. Writes into docs/lab.md, too."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from benchmarks.harness.peers import table
from lab.offered import ATTACKS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "lab.md"
_ADDRESS = re.compile(r"http://\S+\?token=\S+")
_STARTS, _IMAGES, _WARMING = 3, 40, 5
_STRENGTH = 0.2
_LOOK_S, _PATIENCE_S = 0.25, 900.0
WANTED_MS, WANTED_SHARE = 150.0, 0.2


@dataclass(frozen=True)
class JobSeen:
    """What a job said of its time: seconds since it began, share done, and seconds left where it said some."""

    at_s: float
    share: float
    left_s: float | None


@dataclass(frozen=True)
class Evaluated:
    """An evaluation's duration, and how far its estimates were off: shares of the duration, signed, too long above 0."""

    seconds: float
    after_a_quarter: float
    worst_from_there: float


def errors(told: list[JobSeen], seconds: float) -> Evaluated:
    """How far off the duration was, as told from a quarter of it on. Raises: ValueError: nothing was told."""
    found = [(one.at_s + one.left_s) / seconds - 1 for one in told if one.left_s is not None and one.at_s >= seconds / 4]
    if not found:
        raise ValueError("expected a job that says how long it takes, got none")
    return Evaluated(seconds, found[0], max(found, key=abs))


def measured() -> list[tuple[str, str]]:
    """What is measured, and the figure."""
    with TemporaryDirectory() as scratch:
        starts = [_started(Path(scratch) / str(number)) for number in range(_STARTS)]
        process, address, _, _ = starts[-1]
        try:
            for other, *_ in starts[:-1]:
                _end(other)
            rows = [
                ("start, until the address is printed", f"{_middle([took for *_, took, _ in starts]):.2f} s"),
                ("first page after it", f"{_middle([page for *_, page in starts]):.3f} s"),
                ("memory of the idle lab", f"{_resident_mib(process.pid):.0f} MiB"),
            ]
            with httpx.Client(base_url=address.partition("?")[0], timeout=_PATIENCE_S) as asking:
                asking.get(address)
                return rows + _answers(asking) + _evaluated(asking)
        finally:
            _end(process)


def section() -> str:
    """The section of docs/benchmarks.md."""
    shown = table(["", "measured"], [list(row) for row in measured()])
    write_page(shown)
    return section_with(shown)


def section_with(shown: str) -> str:
    """The section around a table."""
    return (
        "## The robustness lab\n\n"
        "`python -m benchmarks lab`: [`hauberk lab`](lab.md) on the bundled `mnist-standard` and digits, asked over HTTP as its "
        f"pages do. Starts are the middle of {_STARTS}. Answers are to {_IMAGES} images in turn at strength {_STRENGTH}, quick; "
        f"{WANTED_MS:.0f} ms are wanted. The evaluation says all the time how long it will take yet: what is given is by how much its "
        f"duration was told too long (+) or too short (-), as a share of it; {100 * WANTED_SHARE:.0f} % are wanted.\n\n{shown}"
    )


def write_page(shown: str) -> None:
    """Put the table into the page of the lab."""
    before, heading, rest = PAGE.read_text().partition("\n## Measured\n")
    section_before, after, others = rest.partition("\n## ")
    under = section_before.rpartition("|\n")[2]
    said = "`python -m benchmarks lab` measures again what is here, [as said there](benchmarks.md#the-robustness-lab)."
    PAGE.write_text(f"{before}{heading}\n{said}\n\n{shown.strip()}\n{under}{after}{others}")


def _started(data: Path) -> tuple[subprocess.Popen[str], str, float, float]:
    """A lab, its address, and the seconds until that was printed and until the first page was there after it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    command = [sys.executable, "-c", "from hauberk.main import main; main()", "lab", "--port", str(port), "--data", str(data)]
    began = time.perf_counter()
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True)
    for line in process.stderr or ():
        if found := _ADDRESS.search(line):
            printed = time.perf_counter()
            httpx.get(found[0], follow_redirects=True).raise_for_status()
            return process, found[0], printed - began, time.perf_counter() - printed
    raise RuntimeError(f"the lab ended with {process.wait()}")


def _end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)
    process.wait(30)
    if process.stderr is not None:
        process.stderr.close()


def _answers(asking: httpx.Client) -> list[tuple[str, str]]:
    """The first answer, the p95 of each attack's, and that of the armour."""
    first = _took(asking, "one", {"attack": "fgm", "strength": _STRENGTH, "image": 0})
    rows = [("the first answer to a slider, in which the worker starts", f"{first / 1000:.1f} s")]
    for name, attack in ATTACKS.items():
        options = {"attack": name, "strength": _STRENGTH}
        steps = f", {attack.look} steps" if attack.look else ""  # a quick look
        rows.append((f"an answer on 28x28 images, p95: {attack.title}{steps}", f"{_p95(asking, 'one', options):.0f} ms"))
    armour = {"attack": "pgd", "strength": _STRENGTH, "on": ["total_variation", "strip", "reverse_sigmoid"], "parameters": {}}
    return [*rows, ("the same: the armour, PGD before it", f"{_p95(asking, 'armour', armour):.0f} ms")]


def _p95(asking: httpx.Client, task: str, options: dict[str, Any]) -> float:
    took = [_took(asking, task, {**options, "image": at}) for at in range(_WARMING + _IMAGES)][_WARMING:]
    return sorted(took)[int(0.95 * len(took))]


def _took(asking: httpx.Client, task: str, options: dict[str, Any]) -> float:
    """Milliseconds of one answer."""
    began = time.perf_counter()
    asking.post(f"/s/example/ask/{task}", json=options).raise_for_status()
    return 1000 * (time.perf_counter() - began)


def _evaluated(asking: httpx.Client) -> list[tuple[str, str]]:
    job = asking.post("/s/example/jobs/evaluate", json={}).raise_for_status().json()["job"]
    began, told = time.monotonic(), []
    while True:
        found, at = asking.get(f"/jobs/{job}.json").raise_for_status().json(), time.monotonic() - began
        if found["over"]:
            break
        told.append(JobSeen(at, found["share"], found["left_s"]))
        time.sleep(_LOOK_S)
    if found["state"] != "done":
        raise RuntimeError(f"expected a finished evaluation, got {found['state']}: {found['sentence']}")
    seen = errors(told, at)
    return [
        ("evaluating `mnist-standard`, quick", f"{seen.seconds:.0f} s"),
        ("its duration as told after a quarter of it", f"{100 * seen.after_a_quarter:+.0f} %"),
        ("the same, the worst from there to the end", f"{100 * seen.worst_from_there:+.0f} %"),
    ]


def _resident_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def _middle(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
