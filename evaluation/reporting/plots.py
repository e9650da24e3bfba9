"""Pictures of an evaluation as SVG text: no file, no network, the same text for the same numbers."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes

    from evaluation.reporting.report import CurvePoint

# Okabe and Ito's palette, which colour-blind readers can tell apart; markers and dashes repeat the distinction.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#7f7f7f")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_DASHES = ("-", "--", (0, (1, 1)), "-.")
_PANEL = (3.1, 2.6)
_COLUMNS_AT_MOST, _WIDTH_AT_LEAST = 4, 2  # in panels; a legend is wider than one
_CHANCE = [0.05 * 2000 ** (step / 50) for step in range(51)]  # per cent, 0.05 to 100: a line that a logarithmic axis bends
_GRID = "#e5e5e5"
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "hauberk",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _GRID,
    "axes.axisbelow": True,
    "legend.frameon": False,
}
_CURVE_NAMES = {
    "noise": "random noise",
    "oblivious": "attacker does not know the defence",
    "adaptive": "attacker knows the defence, not the secret",
    "transfer": "attacker has trained a classifier of their own",
}
_THEME = {"#ffffff": "none", "#000000": "currentColor", _GRID: "var(--line)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(COLOURS, 1) if colour != "#000000"
}


def evasion_curves(points: Sequence[CurvePoint]) -> str:
    """Wrong answers against eps, a panel per variant: the bare classifier, each defence alone, all of them."""
    variants = list(dict.fromkeys(point.variant for point in points))
    with _panels(variants, x="eps (L-inf)", y="answered wrongly, %") as (figure, panels):
        for variant, axes in panels.items():
            for number, (kind, name) in enumerate(_CURVE_NAMES.items()):
                line = [point for point in points if (point.variant, point.kind) == (variant, kind)]
                if not line:
                    continue
                x = [0.0, *(point.eps for point in line)]
                shares = [point.wrong for point in line]
                _line(axes, number, name, x[1:], [share.rate for share in shares])
                low, high = ([100 * getattr(share, end) for share in shares] for end in ("low", "high"))
                axes.fill_between(x[1:], low, high, color=COLOURS[number], alpha=0.15, linewidth=0)
            axes.set_xlim(0)
            axes.set_ylim(-3, 103)
        return _svg(figure, panels.values())


def roc_curves(rows: Sequence[Mapping[str, Any]], rate: float) -> str:
    """ROC of STRIP, a panel per backdoor: its 95 % band and, as a vertical line, the false positive rate it is calibrated for."""
    names = [row["kind"] for row in rows]
    with _panels(names, x="clean images refused, %", y="triggered images refused, %") as (figure, panels):
        for row, axes in zip(rows, panels.values(), strict=True):
            curve = row["curve"]
            false, true, low, high = ([100 * value for value in curve[key]] for key in ("fpr", "tpr", "band_low", "band_high"))
            axes.plot(false, true, color=COLOURS[0], linewidth=1.4, label="STRIP")
            axes.fill_between(false, low, high, color=COLOURS[0], alpha=0.2, linewidth=0, label="95 % band")
            axes.plot(_CHANCE, _CHANCE, color="#7f7f7f", linewidth=0.8, linestyle=":", label="chance")
            axes.axvline(100 * rate, color=COLOURS[1], linewidth=0.9, linestyle="--", label="rate calibrated for")
            _log_scale(axes, (0.1, 1, 10, 100))
            axes.set_xlim(0.05, 100)
            axes.set_ylim(-3, 103)
        return _svg(figure, panels.values())


def detector_rocs(panels_of: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]], rate: float) -> str:
    """ROC of each detector, a panel per attack; `panels_of`: attack -> detector -> (false positive rates, true positive rates)."""
    with _panels(list(panels_of), x="clean images refused, %", y="attacked images refused, %") as (figure, panels):
        for curves, axes in zip(panels_of.values(), panels.values(), strict=True):
            for number, (name, (false, true)) in enumerate(curves.items()):
                percent = ([100 * value for value in rates] for rates in (false, true))
                axes.plot(*percent, color=COLOURS[number], linewidth=1.4, linestyle=_DASHES[number % len(_DASHES)], label=name)
            axes.plot(_CHANCE, _CHANCE, color="#7f7f7f", linewidth=0.8, linestyle=":", label="chance")
            axes.axvline(100 * rate, color=COLOURS[-1], linewidth=0.9, linestyle="--", label="rate calibrated for")
            _log_scale(axes, (0.1, 1, 10, 100))
            axes.set_xlim(0.05, 100)
            axes.set_ylim(-3, 103)
        return _svg(figure, panels.values())


def extraction_curves(rows: Sequence[Mapping[str, Any]]) -> str:
    """Agreement of the clone with the victim against queries: a panel per victim and optimiser, a line per extraction attack."""
    panels_of = list(dict.fromkeys((row["victim"], row["optimiser"]) for row in rows))
    thieves = list(dict.fromkeys(row["thief"] for row in rows))
    titles = [f"{victim}, {optimiser}" for victim, optimiser in panels_of]
    with _panels(titles, x="queries", y="agreement with the victim, %") as (figure, panels):
        for panel, axes in zip(panels_of, panels.values(), strict=True):
            for number, thief in enumerate(thieves):
                line = [row for row in rows if (row["victim"], row["optimiser"]) == panel and row["thief"] == thief]
                if line:
                    _line(axes, number, thief, [row["budget"] for row in line], [row["agreement"] for row in line])
            _log_scale(axes, sorted({row["budget"] for row in rows}))
            axes.set_ylim(-3, 103)
        return _svg(figure, panels.values())


def cluster_map(
    plane: NDArray[np.floating], second: NDArray[np.bool_], poison: Sequence[bool], clean: NDArray[np.bool_] | None
) -> str:
    """The samples of a class [n, 2] in the plane where its clusters were found.

    Args:
        second: bool [n], in the second cluster.
        poison: for each of the two clusters, whether the detector calls it poison.
        clean: bool [n], the truth; samples that are not clean get a ring.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(3.6, 2.9), layout="constrained")
        axes = figure.subplots()
        for at, part in enumerate((~second, second)):
            colour = COLOURS[1] if poison[at] else COLOURS[0] if at == 0 else COLOURS[5]
            name = f"cluster {at + 1}{', poison' if poison[at] else ''}"
            axes.scatter(
                plane[part, 0], plane[part, 1], s=9, color=colour, alpha=0.7, linewidths=0, marker=_MARKERS[at], label=name
            )
        if clean is not None and not clean.all():
            axes.scatter(
                plane[~clean, 0],
                plane[~clean, 1],
                s=22,
                facecolors="none",
                edgecolors="#000000",
                linewidths=0.5,
                label="truly poisoned",
            )
        axes.set_xlabel("along the line between the clusters")
        axes.set_ylabel("widest direction across it")
        axes.set_xticks([])
        axes.set_yticks([])
        return _svg(figure, [axes], columns=2)


def _line(axes: Axes, number: int, name: str, x: Sequence[float], shares: Sequence[float]) -> None:
    marker, colour = _MARKERS[number % len(_MARKERS)], COLOURS[number % len(COLOURS)]
    dashes = _DASHES[number % len(_DASHES)]
    rates = [100 * share for share in shares]
    axes.plot(x, rates, marker=marker, markersize=3.5, linewidth=1.3, linestyle=dashes, color=colour, label=name)


def _log_scale(axes: Axes, ticks: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:,g}" for tick in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())


@contextmanager
def _panels(titles: Sequence[str], *, x: str, y: str) -> Iterator[tuple[Figure, dict[str, Axes]]]:
    """Small titled panels that share both axes; axis labels only at the left and lower edges."""
    columns = min(_COLUMNS_AT_MOST, len(titles))
    lines = -(-len(titles) // columns)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_PANEL[0] * max(columns, _WIDTH_AT_LEAST), _PANEL[1] * lines + 0.4), layout="constrained")
        grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        for spare in grid.flat[len(titles) :]:
            spare.set_visible(False)
        panels = dict(zip(titles, grid.flat, strict=False))
        for number, (title, axes) in enumerate(panels.items()):
            axes.set_title(title.replace("_", " "), fontsize=9, loc="left")
            if number % columns == 0:
                axes.set_ylabel(y)
            if number + columns >= len(titles):
                axes.set_xlabel(x)
                axes.tick_params(labelbottom=True)
        yield figure, panels


def _svg(figure: Figure, panels: Iterable[Axes], columns: int = 6) -> str:
    handles = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower left", ncols=min(columns, max(1, len(handles))), fontsize=9
    )
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def themed(svg: str) -> str:
    """The same drawing in the colours of the page around it: the text's, `--line` and `--series-1` to `--series-8`."""
    return re.sub(r"(?<=: )#[0-9a-f]{6}\b", lambda found: _THEME.get(found[0], found[0]), svg)
