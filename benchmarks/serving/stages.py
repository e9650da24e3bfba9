"""The time of a request by stage, from the server's own metrics, and a picture of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.harness.closed_loop import Outcome
from benchmarks.harness.servers import GATEWAY, Server

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURE = Path(__file__).parents[2] / "docs" / "pictures" / "service_stages.svg"
STAGES = ("queue", "purify", "predict", "abstain", "obscure")
_STAGE, _REQUEST = "hauberk_stage_duration_seconds_sum", "hauberk_request_duration_seconds"
_SERVER, _OUTSIDE = "rest of the server", "connection and client"
# Okabe and Ito's colours, distinguishable with colour blindness; greys for time outside the stages.
_COLOURS = {
    "queue": "#F0E442",
    "purify": "#009E73",
    "predict": "#0072B2",
    "abstain": "#D55E00",
    "obscure": "#CC79A7",
    _SERVER: "#999999",
    _OUTSIDE: "#DDDDDD",
}
_WIDTH, _BAR, _MARGIN = 9.0, 0.55, 1.5
_LABELLED = 0.045


@dataclass
class Meter:
    """Sums the increase of a server's metrics over the rounds of one cell; pass `around` to `Loader.alternate`."""

    seconds: dict[str, dict[str, float]] = field(default_factory=dict)

    def around(self, server: Server, step: Callable[[], Outcome]) -> Outcome:
        """Run a round between two readings of /metrics; peers, which lack these metrics, are only run."""
        if server.contender.target != GATEWAY:
            return step()
        before = _read(server)
        outcome = step()
        total = self.seconds.setdefault(server.contender.name, {})
        for name, value in _read(server).items():
            total[name] = total.get(name, 0.0) + value - before.get(name, 0.0)
        return outcome

    def per_request_us(self, server: Server) -> dict[str, float]:
        """Microseconds per request, by stage and as "request", from its head to the end of the answer."""
        total = self.seconds[server.contender.name]
        requests = total[f"{_REQUEST}_count"]
        return {name: 1e6 * total.get(name, 0.0) / requests for name in (*STAGES, "request")}


def _read(server: Server) -> dict[str, float]:
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(server.get("/metrics")):
        for sample in family.samples:
            if sample.name == _STAGE:
                found[sample.labels["stage"]] = sample.value
            elif sample.name == f"{_REQUEST}_sum" and sample.labels["route"] == "/predict":
                found["request"] = sample.value
            elif sample.name == f"{_REQUEST}_count" and sample.labels["route"] == "/predict":
                found[f"{_REQUEST}_count"] = sample.value
    return found


def of_one_client(stages: Mapping[str, float], latency_us: float) -> dict[str, float]:
    """The latency of an unhurried client's request, by part: it is alone in its batch, so that the stages add up to it."""
    parts = {stage: stages[stage] for stage in STAGES}
    parts[_SERVER] = stages["request"] - sum(parts.values())
    return parts | {_OUTSIDE: latency_us - stages["request"]}


def of_many_clients(stages: Mapping[str, float], rate: float) -> dict[str, float]:
    """The cost of a request at full load, by part: its share of the batches' stages, and the rest of one over the rate.

    Time in the queue is left out, because other requests are served meanwhile.
    """
    parts = {stage: stages[stage] for stage in STAGES if stage != "queue"}
    return parts | {_SERVER: 1e6 / rate - sum(parts.values())}


def draw(panels: Sequence[tuple[str, Mapping[str, Mapping[str, float]]]], path: Path = PICTURE) -> None:
    """Stacked bars, microseconds per request; a panel is (title, bar -> part -> microseconds). Deterministic."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.patches import Patch

    settings: Any = {"svg.hashsalt": "hauberk", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10}
    with mpl.rc_context(settings):
        height = sum(len(bars) for _, bars in panels) * _BAR + len(panels) * _MARGIN
        figure, axes = plt.subplots(len(panels), 1, figsize=(_WIDTH, height), layout="constrained", squeeze=False)
        for axis, (title, bars) in zip(axes[:, 0], panels, strict=True):
            _draw_bars(axis, bars)
            axis.set_title(title, loc="left", fontsize=11)
        names = [name for name in _COLOURS if any(name in parts for _, bars in panels for parts in bars.values())]
        patches = [Patch(facecolor=_COLOURS[name]) for name in names]
        figure.legend(patches, names, loc="outside lower center", ncols=len(names), frameon=False, fontsize=9)
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"Date": None, "Creator": None} if path.suffix == ".svg" else None
        figure.savefig(path, metadata=metadata, dpi=110)
        plt.close(figure)


def _draw_bars(axis: Axes, bars: Mapping[str, Mapping[str, float]]) -> None:
    longest = max(sum(parts.values()) for parts in bars.values())
    for row, parts in enumerate(bars.values()):
        left = 0.0
        for name, value in parts.items():
            axis.barh(row, value, left=left, height=0.62, color=_COLOURS[name], edgecolor="white", linewidth=0.8)
            if value > _LABELLED * longest:
                dark = name in ("predict", "abstain", "purify")
                axis.text(
                    left + value / 2,
                    row,
                    f"{value:,.0f}",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if dark else "black",
                )
            left += value
        axis.text(left + 0.01 * longest, row, f"{left:,.0f}", va="center", fontsize=9, fontweight="bold")
    axis.set_yticks(range(len(bars)), list(bars))
    axis.invert_yaxis()
    axis.set_xlim(0, 1.09 * longest)
    axis.set_xlabel("microseconds per request")
    axis.spines[["top", "right"]].set_visible(False)
