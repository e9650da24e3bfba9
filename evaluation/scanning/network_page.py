"""report.html of `hauberk scan --model-only`: a page for people that loads nothing, with the pattern found for each class."""

from __future__ import annotations

from typing import Any

import numpy as np

from defences.networks.findings import JudgedClass, NetworkFindings
from defences.networks.target_search import SETS
from evaluation.reporting.templates import rendered
from evaluation.scanning.network_report import NetworkReport
from evaluation.scanning.scan_page import sprite_sheet

_CLASSES_AT_MOST = 20


def network_page(report: NetworkReport, findings: NetworkFindings) -> str:
    """The report as HTML; of more than 20 classes those most unlike the others are shown."""
    shown = sorted(report.classes, key=lambda one: one.p)[:_CLASSES_AT_MOST]
    return rendered("network.html", report=report, sets=SETS, classes=[_with_picture(one, findings) for one in shown])


def _with_picture(judged: JudgedClass, findings: NetworkFindings) -> dict[str, Any]:
    """A class, its pattern around grey at full contrast beside an image with it, and its scores."""
    pattern = findings.patterns[judged.label]
    largest = max(float(np.abs(pattern).max()), 1e-12)
    pictures = np.stack([0.5 + pattern / (2 * largest), np.clip(findings.image + pattern, 0, 1)])
    largest_margin, *pulls = judged.scores
    return {
        "found": judged,
        "pattern": sprite_sheet(pictures.astype(np.float32), columns=len(pictures)),
        "largest_margin": largest_margin,
        "pulls": [(margin, float(np.sin(share) ** 2)) for margin, share in zip(pulls[::2], pulls[1::2], strict=True)],
    }
