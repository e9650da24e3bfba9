"""report.html of an evaluation: a page for people, one file that loads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from evaluation.reporting import plots
from evaluation.reporting.report import Report
from evaluation.reporting.templates import rendered
from evaluation.tables.evasion import CLEAN

_FALSE_ABSTENTION_RATE = 0.01


def page(report: Report) -> str:
    """The report as HTML."""
    drawings = {
        "curves": plots.evasion_curves(report.curves),
        "rocs": plots.roc_curves(report.backdoors, _FALSE_ABSTENTION_RATE) if report.backdoors else "",
        "extraction": plots.extraction_curves(report.extraction) if report.extraction else "",
    }
    pictures = {name: Markup(plots.themed(svg)) for name, svg in drawings.items()}  # noqa: S704  # our own drawing of numbers
    variants = [row.variant for row in report.benign]
    tables = {radius: _table(report, radius, variants) for radius in report.radii}
    return rendered("report.html", report=report, variants=variants, tables=tables, pictures=pictures)


def _table(report: Report, radius: float, variants: Sequence[str]) -> list[dict[str, Any]]:
    """A line per attack within the radius, the worst case of them, and attacks without a radius below it: name, the attacker's
    knowledge, and the results for each variant in order."""
    rows = [row for row in report.evasion if row.eps in (None, radius)]
    spent = {cost.attack: cost for cost in report.costs if cost.eps in (None, radius)}
    lines, outside = [], []
    for attack in dict.fromkeys(row.attack for row in rows):
        by_variant = {row.variant: row for row in rows if row.attack == attack}
        first = next(iter(by_variant.values()))
        found = [by_variant[variant].robustness if variant in by_variant else None for variant in variants]
        line = {"attack": attack, "knows": first.knows, "found": found, "cost": spent[attack], "worst": False}
        if first.eps is None and attack != CLEAN:
            outside.append(line | {"knows": f"{first.knows}; not within eps, and no part of the worst case"})
        else:
            lines.append(line)
    worst = {row.variant: row.robustness for row in report.worst_case if row.eps == radius}
    found = [worst.get(variant) for variant in variants]
    knows = "for each image the attack above that works best"
    return [*lines, {"attack": "worst case", "knows": knows, "found": found, "cost": None, "worst": True}, *outside]
