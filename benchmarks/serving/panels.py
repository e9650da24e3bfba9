"""python -m benchmarks.serving.panels: draw the dashboards of deploy/grafana, from a Prometheus that scraped a gateway under load.

The gateway serves a classifier with a backdoor (`poisoned_bundle.py`). Three and a half minutes of traffic in phases: clean images, clean
and adversarial ones, clean and triggered ones, clean ones and malformed requests, all images at four times the rate, a pause. Prometheus
scrapes every two seconds with the rules of deploy/, their intervals shortened. One picture per dashboard, in docs/pictures.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from matplotlib.ticker import PercentFormatter

from benchmarks.harness import prometheus
from benchmarks.harness import requests as wire
from benchmarks.harness.closed_loop import save_requests
from benchmarks.harness.open_loop import Arrivals
from benchmarks.harness.prometheus import Prometheus
from benchmarks.harness.servers import Server, serving
from benchmarks.serving.operations import OURS, Arriving
from benchmarks.serving.poisoned_bundle import TRIGGER, poisoned_bundle
from deploy.grafana.panels import BOARDS, Board, Panel
from loadtest import payloads

OUT = Path(__file__).parents[2] / "docs" / "pictures"
PHASE_S = 40.0
_RATE = 60.0
_HASTE = 60.0
_STEP_S = 2
_VARIABLES = {"$__rate_interval": "15s", "$instance": ".*"}
_COLUMNS, _SERIES_AT_MOST = 3, 10
_FORMATS = {"percentunit": PercentFormatter(1.0), "bytes": lambda value, _: f"{value / (1 << 20):,.0f} Mi"}
_ROOM = 0.25  # above the lines, for the legend


def _phases() -> list[tuple[str, list[bytes], float]]:
    """Per phase: its name, its requests, and its rate in multiples of `_RATE`."""
    images = payloads.read_images(payloads.SHIPPED)
    marked = wire.to_bytes(TRIGGER((images["clean"][..., None] / 255).astype(np.float32)))[..., 0]
    kinds = (images["clean"], images["adversarial"], marked)
    clean, adversarial, triggered = ([wire.as_json(image, 4) for image in kind] for kind in kinds)
    wrong = [wire.http_request(each.path, each.media_type, each.body) for each in payloads.malformed(images["clean"][0])]
    attacked = _alternating(clean, adversarial)
    backdoored = _alternating(clean, triggered)
    bad = [request for first in range(0, len(clean), 2) for request in (*clean[first : first + 2], wrong[first % len(wrong)])]
    return [
        ("clean", clean, 1.0),
        ("adversarial", attacked, 1.0),
        ("triggered", backdoored, 1.0),
        ("malformed", bad, 1.0),
        ("four times", _alternating(attacked, backdoored), 4.0),
    ]


def _alternating(first: Sequence[bytes], second: Sequence[bytes]) -> list[bytes]:
    return [request for pair in zip(first, second, strict=True) for request in pair]


def _traffic(port: int, directory: Path, phase_s: float) -> None:
    for number, (_, requests, factor) in enumerate(_phases()):
        file = directory / f"requests-{number}.npz"
        save_requests(file, requests)
        load = Arrivals(port, factor * _RATE, phase_s, warm_up_s=0.0)
        Arriving(load, file, directory / f"outcome-{number}.npz").finish()
    time.sleep(phase_s / 4)


def _asked(source: Prometheus, query: str, began: float, ended: float) -> list[tuple[dict[str, str], Any]]:
    """Per series: its labels, and its times since `began` and values [n, 2]."""
    for variable, value in _VARIABLES.items():
        query = query.replace(variable, value)
    query = query.replace("[30d]", "[1h]")
    result = source.ask("query_range", query=query, start=began, end=ended, step=_STEP_S)["result"]
    return [(found["metric"], np.array(found["values"], float) - (began, 0.0)) for found in result]


def _draw(axes: Any, panel: Panel, source: Prometheus, began: float, ended: float) -> None:
    axes.set_title(panel.title, fontsize=9, loc="left")
    axes.set_ylabel(panel.axis, fontsize=7)
    axes.set_xlabel("seconds", fontsize=7)
    if panel.unit in _FORMATS:
        axes.yaxis.set_major_formatter(_FORMATS[panel.unit])
    axes.tick_params(labelsize=7)
    axes.set_xlim(0, ended - began)
    if panel.kind == "heatmap":
        _draw_heatmap(axes, _asked(source, panel.queries[0][1], began, ended))
        return
    drawn = 0
    for legend, query in panel.queries:
        series = sorted(_asked(source, query, began, ended), key=lambda found: -float(np.nanmax(found[1][:, 1])))
        for labels, values in series[: _SERIES_AT_MOST - drawn]:
            text = legend
            for name, value in labels.items():
                text = text.replace(f"{{{{{name}}}}}", value)
            axes.plot(values[:, 0], values[:, 1], linewidth=1, label=text or None)
            drawn += 1
    low, high = axes.get_ylim()
    bottom = min(0.0, low)
    axes.set_ylim(bottom, high + _ROOM * (high - bottom))
    if any(legend for legend, _ in panel.queries) and drawn:
        axes.legend(fontsize=6, frameon=False, loc="upper left", ncols=2)


def _draw_heatmap(axes: Any, series: Sequence[tuple[dict[str, str], Any]]) -> None:
    """Cumulative rates by `le`, drawn as the rate in each bucket."""
    ordered = sorted(series, key=lambda found: float(found[0]["le"]))
    times = ordered[0][1][:, 0]
    grid = np.array([np.interp(times, values[:, 0], values[:, 1]) for _, values in ordered])
    inside = np.maximum(np.diff(grid, axis=0, prepend=0), 0)
    axes.pcolormesh(times, np.arange(len(ordered)), inside, cmap="Blues", shading="nearest")
    axes.set_yticks(range(0, len(ordered), 3), [labels["le"] for labels, _ in ordered[::3]])


def draw(board: Board, source: Prometheus, began: float, ended: float, out: Path) -> None:
    """Draw one dashboard into a file."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    panels = [panel for _, row in board.rows for panel in row]
    rows = math.ceil(len(panels) / _COLUMNS)
    figure, grid = plt.subplots(rows, _COLUMNS, figsize=(13, 2.3 * rows), layout="constrained")
    for axes, panel in zip(grid.flat, panels, strict=False):
        _draw(axes, panel, source, began, ended)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    figure.suptitle(
        f"{board.title}. Traffic: clean, half adversarial, half triggered, a third malformed, four times as much, none",
        fontsize=11,
    )
    figure.savefig(out, dpi=80)
    plt.close(figure)


def _watch(server: Server, directory: Path, phase_s: float, out: Path) -> None:
    """Send the traffic to a gateway while Prometheus watches it, and draw."""
    rules = prometheus.hastened_rules(directory, factor=_HASTE, at_least_s=10)
    configuration = prometheus.configuration([f"127.0.0.1:{server.port}"], rules, every_s=2)
    with prometheus.running(directory / "prometheus", configuration) as source:
        began = time.time()
        _traffic(server.port, directory, phase_s)
        for board in BOARDS:
            draw(board, source, began, time.time(), out / f"{board.uid.replace('-', '_')}.png")


def main() -> None:
    """Run the traffic, draw the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phase-seconds", type=float, default=PHASE_S, help="of each kind of traffic, default %(default)s")
    parser.add_argument("--out", type=Path, default=OUT, help="where the pictures go, default %(default)s")
    given = parser.parse_args()
    with TemporaryDirectory() as name:
        directory = Path(name)
        ours = {"HAUBERK_BUNDLE": str(poisoned_bundle(directory)), "HAUBERK_AUDIT_FILE": str(directory / "audit.jsonl")}
        with serving(replace(OURS, settings={**OURS.settings, **ours}), directory / "gateway", _phases()[0][1][0]) as server:
            _watch(server, directory, given.phase_seconds, given.out)


if __name__ == "__main__":
    main()
