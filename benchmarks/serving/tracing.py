"""python -m benchmarks tracing: the cost of the audit log and of trace spans.

When off, none of their code runs (tests/unit/service/routes/test_predict.py), so that there is no cost to measure. Rounds are short and
alternate, and a cost is the median over rounds of the ratio within a round, since other work on the machine slows neighbouring rounds
alike. The collector, which discards the spans, runs on this machine too, at the expense of the traced server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.harness import requests as wire
from benchmarks.harness.cells import LoadCell, Loader
from benchmarks.harness.closed_loop import Outcome
from benchmarks.harness.peers import table
from benchmarks.harness.servers import GATEWAY, Contender, Server, serving
from benchmarks.harness.wanted import Wanted, wanted_table
from benchmarks.serving.service_tables import AT
from models.datasets import MNIST, load_dataset

CELL_S, _ROUNDS = 120.0, 24
_IMAGES = 2000
_SECRET = {"HAUBERK_SECRET": "a secret of the benchmark"}
_SINK = Contender("a collector", "benchmarks.serving.contenders.sink:app", bentoml=False)
_ANY = b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
OFF, TRACED, AUDITED = "both off", "spans on", "audit log on"
_LITTLE = 0.9


def section(cell_s: float = CELL_S) -> str:
    """The page's section."""
    with TemporaryDirectory() as name, ExitStack() as stack:
        directory = Path(name)
        loader = Loader(directory, cell_s, _ROUNDS)
        test = load_dataset(MNIST, split="test").take(slice(0, _IMAGES))
        requests = [wire.as_json(image) for image in wire.to_bytes(test.images)[..., 0]]
        sink = stack.enter_context(serving(_SINK, directory / "sink", _ANY))
        contenders = _contenders(directory, f"http://127.0.0.1:{sink.port}")
        servers = [stack.enter_context(serving(each, directory / each.name, requests[0])) for each in contenders]
        processor = Processor()
        cells = loader.alternate(servers, loader.prepare(requests), processor.around, clients=AT)
    names = [contender.name for contender in contenders]
    return text(dict(zip(names, cells, strict=True)), {name: processor.per_request_us(name) for name in names}, cell_s)


@dataclass
class Processor:
    """Sums the processor time of a server's processes over its rounds."""

    seconds: dict[str, float] = field(default_factory=dict)
    requests: dict[str, int] = field(default_factory=dict)

    def around(self, server: Server, step: Callable[[], Outcome]) -> Outcome:
        """Run a round between two readings of the processor time; for `Loader.alternate`."""
        before = server.processor_s()
        outcome = step()
        name = server.contender.name
        self.seconds[name] = self.seconds.get(name, 0.0) + server.processor_s() - before
        self.requests[name] = self.requests.get(name, 0) + len(outcome.samples)
        return outcome

    def per_request_us(self, name: str) -> float:
        """Processor time per request, in microseconds."""
        return 1e6 * self.seconds[name] / self.requests[name]


def _contenders(directory: Path, collector: str) -> list[Contender]:
    return [
        Contender(OFF, GATEWAY, _SECRET),
        Contender(TRACED, GATEWAY, _SECRET | {"HAUBERK_TRACING": "on", "OTEL_EXPORTER_OTLP_ENDPOINT": collector}),
        Contender(AUDITED, GATEWAY, _SECRET | {"HAUBERK_AUDIT_FILE": str(directory / "audit.jsonl")}),
    ]


def text(cells: Mapping[str, LoadCell], processor_us: Mapping[str, float], cell_s: float) -> str:
    """The section, from cells and processor time per request, by server."""
    rows = [
        [
            name,
            f"{cell.rate:,.0f}",
            f"{cell.percentile_ms(50):.1f}",
            f"{cell.percentile_ms(99):.1f}",
            f"{processor_us[name]:,.0f}",
            cell.failures,
        ]
        for name, cell in cells.items()
    ]
    wanted = [
        Wanted(f"requests/s with {name} to {OFF}", _LITTLE, ratio(cells[name], cells[OFF])[1]) for name in (TRACED, AUDITED)
    ]
    told = [(name, ratio(cells[name], cells[OFF])) for name in (TRACED, AUDITED)]
    spread = "; ".join(f"{name}: {low:.3f} to {high:.3f}" for name, (low, _, high) in told)
    return "\n".join(
        [
            "## Audit log and trace spans",
            "",
            f"`python -m benchmarks tracing`: one image of MNIST a request, {AT} clients, every defence on; {cell_s:g} s a cell in "
            f"alternating rounds. A ratio is the median over the rounds; half of the rounds lie within {spread}.",
            "",
            wanted_table(wanted),
            table(("server", "requests/s", "p50 ms", "p99 ms", "processor us/request", "not 200"), rows),
        ]
    )


def ratio(ours: LoadCell, other: LoadCell) -> tuple[float, float, float]:
    """Requests/s of one to the other within a round: lower quartile, median and upper quartile over the rounds."""
    ratios = _rates(ours) / _rates(other)
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75)).tolist()
    return low, middle, high


def _rates(cell: LoadCell) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    rates: Sequence[float] = [LoadCell((outcome,)).rate for outcome in cell.rounds]
    return np.array(rates, np.float64)
