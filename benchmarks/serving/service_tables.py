"""The tables and sentences of the service's section."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.harness.cells import LoadCell
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
# With several BLAS threads, ART's L-BFGS spends most of its time on threads waiting for each other.
_ONE_BLAS_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
ART = Contender("BentoML with ART's defences", f"{_PEERS}.art_service:ArtComposed", _ONE_BLAS_THREAD)
ART_ONCE = Contender("the same, purified once", f"{_PEERS}.art_service:ArtPurifiedOnce", _ONE_BLAS_THREAD)
TRIVIAL = Contender("trivial", f"{_PEERS}.trivial:app", bentoml=False)


def batchable(max_latency_ms: int) -> Contender:
    """The undefended stock service with BentoML's adaptive batching."""
    settings = {"STOCK_MAX_LATENCY_MS": str(max_latency_ms)}
    return Contender("stock BentoML, batchable", f"{_PEERS}.stock_batchable:StockBatchable", settings)


@dataclass
class ServiceMeasurements:
    """The measurements of the section, by contender, or by contender and number of clients."""

    ceiling: LoadCell
    max_latency_ms: int
    ready_s: dict[str, float] = field(default_factory=dict)
    memory: dict[str, Memory] = field(default_factory=dict)
    cells: dict[tuple[str, int], LoadCell] = field(default_factory=dict)
    unhurried: dict[str, LoadCell] = field(default_factory=dict)
    one: dict[str, dict[str, float]] = field(default_factory=dict)
    many: dict[str, dict[str, float]] = field(default_factory=dict)


def wanted(measured: ServiceMeasurements) -> list[Wanted]:
    """The wanted ratios, at 16 clients and of p50 at one."""
    cells = {name: cell for (name, clients), cell in measured.cells.items() if clients == AT}
    alone = {name: cell for (name, clients), cell in measured.cells.items() if clients == 1}
    ours, stock = cells[ON.name], batchable(measured.max_latency_ms).name
    faster = ((NDARRAY.name, 9.0), (stock, 6.0), (OFF.name, 0.85), (ART.name, 300.0))
    sooner, alone_sooner = ((NDARRAY.name, 1 / 16), (stock, 1 / 14)), ((OFF.name, 1.5), (NDARRAY.name, 0.4))
    return [
        *(Wanted(f"requests/s to {name}", bound, _ratio(ours.rate, cells[name].rate)) for name, bound in faster),
        *(Wanted(f"p99 to {name}", bound, _of(99, ours, cells[name]), at_most=True) for name, bound in sooner),
        *(
            Wanted(f"one client: p50 to {name}", bound, _of(50, alone[ON.name], alone[name]), at_most=True)
            for name, bound in alone_sooner
            if alone
        ),
    ]


def _of(percent: float, ours: LoadCell, theirs: LoadCell) -> float:
    return ours.percentile_ms(percent) / theirs.percentile_ms(percent)


def introduction(measured: ServiceMeasurements, cell_s: float, rounds: int, images: int) -> str:
    """The text on how it was measured."""
    return (
        "## The service under load\n\n"
        f"`python -m benchmarks.serving.service`: {cell_s:g} s a cell in {rounds} piece{'s' * (rounds > 1)}, alternating between "
        "the servers, one worker each, access logs on as by default. A request is one of "
        f"{images:,} MNIST test digits as JSON with all digits. The load generator is one process with a closed loop of keep-alive "
        "connections, on the same processors as the servers; with a "
        f"server that answers a constant it reaches {measured.ceiling.rate:,.0f} requests/s, and with those below it takes at most "
        f"{100 * max(cell.processor_share for cell in measured.cells.values()):.0f} % of one processor. Percentiles are over "
        "all requests of a cell, failed ones included.\n\n"
        "The peers serve the same Keras model, compiled, warm, on as many threads, and have uvloop and httptools, which Hauberk "
        f"installs. max_latency_ms of the batchable service is {measured.max_latency_ms}, the best for it of those tried in "
        "this run. The service with ART's defences composes them as ART does, which purifies each of STRIP's overlays too; \"the same, "
        f'purified once" purifies an image once. Both have one BLAS thread, which is faster for them. Ratios at {AT} clients unless '
        "stated otherwise:\n"
    )


def load_table(measured: ServiceMeasurements) -> str:
    """Requests per second and latencies, by clients and server."""
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


def unhurried_table(measured: ServiceMeasurements, pause_s: float) -> str:
    """One client that pauses between requests, and the picture of its request's stages."""
    rows = [
        [name, f"{cell.percentile_ms(50):.2f}", f"{cell.percentile_ms(99):.2f}", f"{cell.requests:,}", cell.failures]
        for name, cell in measured.unhurried.items()
    ]
    return (
        f"### One unhurried client\n\nA pause of {1000 * pause_s:g} ms between its requests.\n\n"
        f"{table(('server', 'p50 ms', 'p99 ms', 'requests', 'failed'), rows)}\n"
        "Mean time per stage, from the server's own `hauberk_stage_duration_seconds` and `hauberk_request_duration_seconds`; the rest of "
        "the server is reading, admission, hand-over between threads, writing and logging.\n\n"
        "![Time per request by stage](pictures/service_stages.svg)\n"
    )


def servers_table(measured: ServiceMeasurements) -> str:
    """Time to the first answer, and memory after the load."""
    rows = [
        [name, f"{ready:.1f}", f"{measured.memory[name].worker:,.0f}", f"{measured.memory[name].everything:,.0f}"]
        for name, ready in measured.ready_s.items()
    ]
    header = ("server", "s to the first answer", "MiB of the worker", "MiB of all its processes")
    return (
        "### Start and memory\n\nFrom the start of the process to the first answer of `/predict`, with files cached and the servers "
        "above it idle; resident memory after the load above. ART's services calibrate STRIP on 50 images when they start.\n\n"
        f"{table(header, rows)}"
    )


def panels(measured: ServiceMeasurements) -> list[tuple[str, Mapping[str, Mapping[str, float]]]]:
    """The panels of the picture, for `stages.draw`."""
    return [
        ("One unhurried client: time of a request", _short(measured.one)),
        (f"{AT} clients: cost of a request, one over the requests per second", _short(measured.many)),
    ]


def _short(bars: Mapping[str, Mapping[str, float]]) -> dict[str, Mapping[str, float]]:
    return {name.removeprefix("Hauberk, "): parts for name, parts in bars.items()}


def _ratio(rate: float, other: float) -> float:
    """The ratio of two rates; NaN if the second is 0."""
    return rate / other if other else float("nan")


def _number(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 20 else f"{rate:.2f}"
