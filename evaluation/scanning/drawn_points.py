"""Which samples of a class are drawn where its clusters were found: in report.html, and in clusters.npz for whoever draws their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from defences.poison.findings import Findings, Positions
from models.classifier import Labels

CLUSTERS = "clusters.npz"
POINTS_AT_MOST = 250


def spread(rows: Positions, count: int) -> Positions:
    """At most `count` rows at even distances, the same for the same data."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64))] if len(rows) else rows


def drawn_points(found: Findings, rows: Positions) -> Positions:
    """Those of a class's rows, int64 [m], that are drawn: 250 at most, a small cluster whole, for it is what one looks for.

    A detector may look at some samples of a class only: the others have no place in the plane.
    """
    placed = rows[np.isfinite(found.plane[rows]).all(axis=1)]
    smaller, larger = sorted((placed[~found.in_second[placed]], placed[found.in_second[placed]]), key=len)
    few = spread(smaller, POINTS_AT_MOST // 2)
    return np.sort(np.concatenate([few, spread(larger, POINTS_AT_MOST - len(few))]))


def save_points(path: Path, findings: Sequence[Findings], labels: Labels) -> None:
    """Write the drawn points of all classes and detectors, p in all.

    methods: their names; method int64 [p]: which of them; row int64 [p]; plane float32 [p, 2]; second bool [p].
    """
    points = [
        (at, drawn_points(found, np.flatnonzero(labels == one.label)))
        for at, found in enumerate(findings)
        for one in found.classes
        if one.clusters
    ]
    rows = [row for _, row in points]
    none = np.zeros(0, np.int64)
    np.savez(
        path,
        methods=np.array([found.method for found in findings]),
        method=np.concatenate([none, *(np.full(len(row), at) for at, row in points)]),
        row=np.concatenate([none, *rows]),
        plane=np.concatenate([np.zeros((0, 2), np.float32), *(findings[at].plane[row] for at, row in points)]),
        second=np.concatenate([np.zeros(0, bool), *(findings[at].in_second[row] for at, row in points)]),
    )
