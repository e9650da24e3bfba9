"""The tables and sentences of the service's section, from what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.harness.cells import Cell
from benchmarks.harness.peers import table
from benchmarks.harness.servers import GATEWAY, Contender, Memory
from benchmarks.harness.wanted import Wanted

AT = 16
_ALL_OFF = "total_variation=off,strip=off,reverse_sigmoid=off"
_SECRET = {"HAUBERK_SECRET": "a secret of the benchmark"}
_PEERS = "benchmarks.serving.contenders"
ON = Contender("Hauberk, every defence on", GATEWAY, _SECRET)
OFF = Contender("Hauberk, defences off", GATEWAY, _SECRET | {"HAUBERK_MODES": _ALL_OFF})
NDARRAY = Contender("stock BentoML, ndarray", f"{_PEERS}.stock_ndarray:StockNdarray")
# ART's L-BFGS spends most of several BLAS threads on their waiting for each other, the more so beside other processes.
_ONE_BLAS_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
ART = Contender("BentoML with ART's defences", f"{_PEERS}.art_service:ArtComposed", _ONE_BLAS_THREAD)
ART_ONCE = Contender("the same, purified once", f"{_PEERS}.art_service:ArtPurifiedOnce", _ONE_BLAS_THREAD)
TRIVIAL = Contender("trivial", f"{_PEERS}.trivial:app", bentoml=False)


def batchable(max_latency_ms: int) -> Contender:
    """The undefended stock service with BentoML's adaptive batching."""
    settings = {"STOCK_MAX_LATENCY_MS": str(max_latency_ms)}
    return Contender("stock BentoML, batchable", f"{_PEERS}.stock_batchable:StockBatchable", settings)


@dataclass
class Measured:
    """What the sections are written from; by contender, and by contender and clients."""

    ceiling: Cell
    max_latency_ms: int
    ready_s: dict[str, float] = field(default_factory=dict)
    memory: dict[str, Memory] = field(default_factory=dict)
    cells: dict[tuple[str, int], Cell] = field(default_factory=dict)
    unhurried: dict[str, Cell] = field(default_factory=dict)
    one: dict[str, dict[str, float]] = field(default_factory=dict)
    many: dict[str, dict[str, float]] = field(default_factory=dict)


def wanted(measured: Measured) -> list[Wanted]:
    """The ratios at 16 clients."""
    cells = {name: cell for (name, clients), cell in measured.cells.items() if clients == AT}
    ours, stock = cells[ON.name], batchable(measured.max_latency_ms).name
    faster = ((NDARRAY.name, 3.0), (stock, 1.8), (OFF.name, 0.85), (ART.name, 20.0))
    return [
        *(Wanted(f"requests/s to {name}", bound, _ratio(ours.rate, cells[name].rate)) for name, bound in faster),
        *(
            Wanted(f"p99 to {name}", 1 / 8, ours.percentile_ms(99) / cells[name].percentile_ms(99), at_most=True)
            for name in (NDARRAY.name, stock)
        ),
    ]


def introduction(measured: Measured, cell_s: float, rounds: int, images: int) -> str:
    """How it was measured."""
    return (
        "## The service under load\n\n"
        f"`python -m benchmarks.serving.service`: {cell_s:g} s a cell in {rounds} piece{'s' * (rounds > 1)}, the servers in "
        f"turns, one worker "
        f"each, access logs on as they are by default, {images:,} MNIST test digits in turn, one a request, as JSON with all digits. The "
        "load generator is one process with a closed loop of keep-alive connections, on the same processors as the servers; on a "
        f"server that answers a constant it reaches {measured.ceiling.rate:,.0f} requests/s, and beside those below it takes "
        f"{100 * max(cell.processor_share for cell in measured.cells.values()):.0f} % of one processor at most. Percentiles are over "
        "all requests of a cell, failed ones too.\n\n"
        "The peers serve the same Keras model, compiled, warm, on as many threads, and find uvloop and httptools installed because "
        f"Hauberk needs them. max_latency_ms of the batchable service is {measured.max_latency_ms}, the best for it of those tried in "
        "this run. ART's service is composed as ART does it, which purifies each of STRIP's overlays too; the kinder one purifies an "
        f"image once; both have one BLAS thread, which is faster for them. Ratios at {AT} clients unless they say otherwise:\n"
    )


def load_table(measured: Measured) -> str:
    """Requests/s and latencies, by clients and server."""
    rows = []
    for (name, clients), cell in measured.cells.items():
        ours = measured.cells[ON.name, clients]
        rows.append(
            [
                clients,
                name,
                f"**{_number(cell.rate)}**",
                f"{_ratio(ours.rate, cell.rate):.2f}x",
                f"{cell.percentile_ms(50):,.1f}",
                f"{cell.percentile_ms(99):,.1f}",
                f"{cell.percentile_ms(99) / ours.percentile_ms(99):.2f}x",
                f"{cell.requests:,}",
                cell.abstained if name == ON.name else "",
                cell.failures,
            ]
        )
    header = (
        "clients",
        "server",
        "requests/s",
        "ours / its requests/s",
        "p50 ms",
        "p99 ms",
        "its / our p99",
        "requests",
        "refused by a defence",
        "failed",
    )
    return f"### 1, 16, 64 clients\n\n{table(header, rows)}"


def unhurried_table(measured: Measured, pause_s: float) -> str:
    """One client that takes its time, and the picture of its request."""
    rows = [
        [name, f"{cell.percentile_ms(50):.2f}", f"{cell.percentile_ms(99):.2f}", f"{cell.requests:,}", cell.failures]
        for name, cell in measured.unhurried.items()
    ]
    return (
        f"### One unhurried client\n\nA pause of {1000 * pause_s:g} ms between its requests.\n\n"
        f"{table(('server', 'p50 ms', 'p99 ms', 'requests', 'failed'), rows)}\n"
        "Where the time goes, means, by the server's own `hauberk_stage_duration_seconds` and `hauberk_request_duration_seconds`: "
        "reading, admission, hand-over between threads, writing and logging are the rest of the server.\n\n"
        "![Time per request by stage](pictures/service_stages.svg)\n"
    )


def servers_table(measured: Measured) -> str:
    """What a server takes before it answers, and holds after the load."""
    rows = [
        [name, f"{ready:.1f}", f"{measured.memory[name].worker:,.0f}", f"{measured.memory[name].everything:,.0f}"]
        for name, ready in measured.ready_s.items()
    ]
    header = ("server", "s to the first answer", "MiB of the worker", "MiB of all its processes")
    return (
        "### Start and memory\n\nFrom the start of the process to the first answer to `/predict`, files cached, those above up and idle; "
        f"resident memory after the load above. ART's services calibrate STRIP on 50 images at their start.\n\n{table(header, rows)}"
    )


def panels(measured: Measured) -> list[tuple[str, Mapping[str, Mapping[str, float]]]]:
    """For `stages.draw`."""
    return [
        ("One unhurried client: what its request waits for", _short(measured.one)),
        (f"{AT} clients: what a request costs, one over the requests per second", _short(measured.many)),
    ]


def _short(bars: Mapping[str, Mapping[str, float]]) -> dict[str, Mapping[str, float]]:
    return {name.removeprefix("Hauberk, "): parts for name, parts in bars.items()}


def _ratio(rate: float, other: float) -> float:
    """NaN where nothing was answered at all."""
    return rate / other if other else float("nan")


def _number(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 20 else f"{rate:.2f}"
