"""report.html: the report for people, one file that loads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from evaluation.reporting import plots
from evaluation.reporting.report import Report
from evaluation.statistics.intervals import Share

_TEMPLATES = Path(__file__).parent / "report_page"
_FALSE_ABSTENTION_RATE = 0.01


def page(report: Report) -> str:
    """The report as HTML."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": _percent, "interval": _interval, "count": lambda number: f"{number:,}"}
    pictures = {
        "curves": Markup(plots.evasion_curves(report.curves)),  # noqa: S704  # our own drawing of numbers
        "rocs": Markup(plots.roc_curves(report.backdoors, _FALSE_ABSTENTION_RATE)) if report.backdoors else "",  # noqa: S704
        "extraction": Markup(plots.extraction_curves(report.extraction)) if report.extraction else "",  # noqa: S704
    }
    variants = [row.variant for row in report.benign]
    tables = {radius: _table(report, radius, variants) for radius in report.radii}
    return environment.get_template("report.html").render(report=report, variants=variants, tables=tables, pictures=pictures)


def _table(report: Report, radius: float, variants: Sequence[str]) -> list[dict[str, Any]]:
    """A line per attack, the worst case last: its name, what it knows, and the coats in order."""
    rows = [row for row in report.evasion if row.eps in (None, radius)]
    spent = {cost.attack: cost for cost in report.costs if cost.eps in (None, radius)}
    lines = []
    for attack in dict.fromkeys(row.attack for row in rows):
        by_variant = {row.variant: row for row in rows if row.attack == attack}
        first = next(iter(by_variant.values()))
        found = [by_variant[variant].robustness if variant in by_variant else None for variant in variants]
        lines.append({"attack": attack, "knows": first.knows, "found": found, "cost": spent[attack]})
    worst = {row.variant: row.robustness for row in report.worst_case if row.eps == radius}
    best = [worst.get(variant) for variant in variants]
    return [*lines, {"attack": "worst case", "knows": "the best of them for each image", "found": best, "cost": None}]


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _interval(found: Share) -> str:
    return f"{100 * found.low:.1f} to {100 * found.high:.1f}"
