"""The points of clusters that are drawn: a small cluster whole, and the same in the report and in the file for programs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from defences.poison.activation_clustering import ActivationClustering
from defences.poison.findings import Findings
from evaluation.scanning.drawn_points import POINTS_AT_MOST, drawn_points, save_points
from models.classifier import Labels
from tests.poisoned import features


def found(poison: int) -> tuple[Findings, Labels]:
    data, _ = features(poison=poison)
    return ActivationClustering().detect(data), data.labels


def test_a_small_cluster_is_drawn_whole_and_all_points_are_bounded() -> None:
    findings, labels = found(60)
    (label,) = findings.poisoned
    rows = np.flatnonzero(labels == label)
    shown = drawn_points(findings, rows)
    smaller = min((rows[findings.in_second[rows] == side] for side in (True, False)), key=len)
    assert len(smaller) < POINTS_AT_MOST // 2
    assert set(smaller) <= set(shown) <= set(rows)
    assert len(shown) == min(POINTS_AT_MOST, len(rows))
    assert (np.diff(shown) > 0).all()


def test_samples_that_were_not_looked_at_have_no_point() -> None:
    findings, labels = found(60)
    rows, plane = np.flatnonzero(labels == findings.poisoned[0]), findings.plane.copy()
    plane[rows[1:]] = np.nan
    assert drawn_points(replace(findings, plane=plane), rows).tolist() == [rows[0]]
    plane[rows] = np.nan
    assert drawn_points(replace(findings, plane=plane), rows).tolist() == []


def test_the_file_holds_the_points_of_all_classes_and_detectors(tmp_path: Path) -> None:
    findings, labels = found(60)
    another = replace(findings, method="another", plane=findings.plane + 1)
    save_points(tmp_path / "clusters.npz", [findings, another], labels)
    with np.load(tmp_path / "clusters.npz", allow_pickle=False) as points:
        assert points["methods"].tolist() == ["activation_clustering", "another"]
        row, method = points["row"], points["method"]
        for label in np.unique(labels):
            drawn = drawn_points(findings, np.flatnonzero(labels == label))
            for at in (0, 1):
                assert row[(method == at) & (labels[row] == label)].tolist() == drawn.tolist()
        assert np.array_equal(points["plane"][method == 0], findings.plane[row[method == 0]])
        assert np.array_equal(points["second"], findings.in_second[row])


def test_classes_without_clusters_leave_an_empty_file_that_can_be_read(tmp_path: Path) -> None:
    findings, labels = found(60)
    bare = replace(findings, classes=tuple(replace(one, clusters=()) for one in findings.classes))
    save_points(tmp_path / "clusters.npz", [bare], labels)
    with np.load(tmp_path / "clusters.npz", allow_pickle=False) as points:
        assert {name: points[name].shape for name in points.files} == {
            "methods": (1,), "method": (0,), "row": (0,), "plane": (0, 2), "second": (0,)
        }  # fmt: skip
