"""The files with all samples of a scan: what is kept within their bound, and that nothing in them is believed."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lab.charts import scatter
from lab.errors import Refused
from lab.scans.clusters import clusters_of
from lab.scans.page import shown_scan
from lab.scans.samples import A_PAGE, INDEX, PIXELS, ScannedSamples
from lab.work.samples import write_clusters, write_samples
from models.accuracy import judge
from models.datasets import Dataset
from models.progress import silent
from tests.fakes import linear, noise
from tests.unit.lab.work.test_worker import SHAPE, brought

PICTURE = 64  # bytes


def written(
    out: Path, *, images: int = 60, poison: int = 4, bytes_at_most: int = 1 << 20
) -> tuple[ScannedSamples, dict[str, Any]]:
    """A scan's samples, of which the first few of class 2 are suspicious."""
    subject, clean = brought(images=images), np.ones(images, bool)
    clean[np.flatnonzero(subject.data.labels == 2)[:poison]] = False
    result = {"samples": images, **write_samples(subject, clean, out, silent, bytes_at_most=bytes_at_most)}
    return ScannedSamples(out, json.loads(json.dumps(result))), result


def test_groups_are_of_both_sides_of_every_class_and_hold_every_sample_once(tmp_path: Path) -> None:
    samples, result = written(tmp_path)
    assert [result["groups"][0][name] for name in ("class", "suspicious", "samples")] == ["2", True, 4]
    shown = [one for group in range(len(result["groups"])) for one in samples.first(group, 1000)]
    assert sorted(one.row for one in shown) == list(range(60))
    assert [one for one in shown if one.suspicious] == [samples.of_row(one.row) for one in shown if one.suspicious]
    labels = brought().data.labels
    assert all(one.answer == str(labels[one.row]) == one.label for one in shown)


def test_pictures_are_bounded_and_suspicious_ones_come_first_then_the_first_of_each_class(tmp_path: Path) -> None:
    samples, result = written(tmp_path, poison=6, bytes_at_most=12 * PICTURE + 1)
    assert (tmp_path / PIXELS).stat().st_size == 12 * PICTURE
    assert result["pictures"] == 12
    pictured = {number: [one.pictured for one in samples.first(number, 100)] for number in range(len(result["groups"]))}
    assert pictured[0] == [True] * 6
    assert all(kept == [True, True] + [False] * (len(kept) - 2) for number, kept in pictured.items() if number > 0)
    lacking = next(one.row for one in samples.first(1, 100) if not one.pictured)
    with pytest.raises(Refused, match="no picture"):
        samples.picture(lacking)
    images = brought().data.images
    for row in (one.row for one in samples.first(1, 2)):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(samples.picture(row)))), np.rint(images[row, ..., 0] * 255))


def test_a_picture_that_is_too_large_or_that_fits_nowhere_is_kept_of_none(tmp_path: Path) -> None:
    samples, result = written(tmp_path, bytes_at_most=PICTURE - 1)
    assert result["pictures"] == 0
    assert len(samples.first(0, 100)) == 4


def test_pages_are_of_so_many_samples_and_the_nearest_stands_for_one_that_is_not_there(tmp_path: Path) -> None:
    samples, result = written(tmp_path, images=600, poison=0)
    group = max(range(len(result["groups"])), key=lambda one: result["groups"][one]["samples"])
    count = result["groups"][group]["samples"]
    assert count > A_PAGE
    pages = [samples.page(group, number) for number in range(1, samples.page(group, 1).pages + 1)]
    assert sum(len(one.samples) for one in pages) == count
    assert len(pages[0].samples) == A_PAGE
    assert samples.page(group, 0) == pages[0]
    assert samples.page(group, 10**8) == pages[-1]


def test_the_first_look_at_many_classes_is_bounded_and_names_the_rest(tmp_path: Path) -> None:
    subject = brought()
    subject.classifier, subject.data = linear(SHAPE, 40), Dataset(noise(800, SHAPE, 1), np.arange(800) % 40)
    subject.accuracy = judge(subject.classifier, subject.data, advice=None)
    result = {"samples": 800, "clusters": [], **write_samples(subject, np.arange(800) % 2 == 0, tmp_path, silent)}
    shown = shown_scan(tmp_path, result, {})
    assert sum(len(one.samples) for one in shown.groups) == 240
    assert len(shown.groups) + len(shown.more) == len(result["groups"])


@pytest.mark.parametrize("change", ["short", "wild", "link", "none"])
def test_files_that_are_not_as_they_were_written_are_refused(tmp_path: Path, change: str) -> None:
    samples, _ = written(tmp_path)
    path = tmp_path / INDEX
    if change == "short":
        path.write_bytes(path.read_bytes()[:-4])
    elif change == "wild":
        path.write_bytes(b"\xee" * path.stat().st_size)
    else:
        path.rename(tmp_path / "elsewhere")
        if change == "link":
            path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refused):
        samples.of_row(59)
    with pytest.raises(Refused):
        samples.picture(59)


def test_the_clusters_of_a_poisoned_class_are_those_of_the_method_that_decides(tmp_path: Path) -> None:
    subject, clean = brought(), np.ones(60, bool)
    rows = [np.flatnonzero(subject.data.labels == label) for label in range(3)]
    clean[rows[1][:3]] = False
    row = np.concatenate([rows[0], rows[1], rows[1]])
    method = np.repeat([0, 0, 1], [len(rows[0]), len(rows[1]), len(rows[1])])
    second, plane = np.isin(row, rows[1][:3]), np.stack([method, row], axis=1).astype(np.float32)
    np.savez(tmp_path / "clusters.npz", methods=np.array(["a", "b"]), method=method, row=row, plane=plane, second=second)

    def said(*verdicts: str) -> list[dict[str, Any]]:
        return [{"label": at, "name": f"c{at}", "samples": len(rows[at]), "verdict": one} for at, one in enumerate(verdicts)]

    methods = [
        {"method": "a", "classes": said("clean", "clean", "too few samples")},
        {"method": "b", "classes": said("clean", "poison", "too few samples")},
    ]
    found = write_clusters(subject, clean, methods, tmp_path)
    assert [(one["label"], one["poisoned"]) for one in found] == [(1, True), (0, False)]
    kept = clusters_of(tmp_path, 1)
    assert kept is not None
    assert kept["method"] == "b"
    assert [one[0] for one in kept["points"]] == rows[1].tolist()
    assert [one[4] for one in kept["points"]] == (~clean[rows[1]]).tolist()
    assert clusters_of(tmp_path, 2) is None
    for content in (b"", b"\xff\xfe", b"[1]", b'{"points": 3'):
        (tmp_path / "clusters-1.json").write_bytes(content)
        assert clusters_of(tmp_path, 1) is None


def test_points_lie_within_the_drawing_and_what_is_suspicious_on_top() -> None:
    rng = np.random.default_rng(0)
    points = [[row, *map(float, rng.normal(size=2)), row % 3 == 1, row % 3 == 2] for row in range(30)]
    drawing = scatter({"class": "1", "samples": 30, "points": points})
    assert [one.kind for one in drawing.points] == ["first"] * 10 + ["second"] * 10 + ["suspicious"] * 10
    assert [count for *_, count in drawing.kinds] == [10, 10, 10]
    assert len({shape for _, _, shape, _ in drawing.kinds}) == 3
    for one in drawing.points:
        assert drawing.left < one.x < drawing.right
        assert drawing.top < one.y < drawing.bottom
    alone = scatter({"points": [[7, 0.0, 0.0, False, False]]})
    assert (alone.points[0].row, len(alone.kinds)) == (7, 1)
