"""All samples of a scan as files that the lab's server reads row by row, and the clusters of each class; see `lab.scans.samples`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from evaluation.scanning.drawn_points import CLUSTERS
from lab.limits import LabLimits
from lab.scans.clusters import file_of
from lab.scans.samples import INDEX, NO_PICTURE, PICTURE_AT_MOST, PIXELS, PIXELS_AT_MOST
from lab.work.brought import Brought, named
from lab.work.pictures import as_bytes
from models.image_rows import blocks
from models.progress import Progress

_Rows = NDArray[np.int64]


def write_samples(
    brought: Brought, is_clean: NDArray[np.bool_], out: Path, progress: Progress, *, bytes_at_most: int = PIXELS_AT_MOST
) -> dict[str, Any]:
    """Write the index and the pictures; returns what the result says of them.

    Args:
        is_clean: bool [n], of every image that was brought.
        bytes_at_most: of all pictures; less where the disk has no room. Suspicious ones come first, then the first of every class.
    """
    groups, order = _grouped(brought, is_clean)
    _, h, w, c = brought.data.images.shape
    picture = (h, w, 3 if c == 3 else 1)
    size = int(np.prod(picture))
    room = min(bytes_at_most, max(0, shutil.disk_usage(out).free - LabLimits().disk_left_bytes))
    numbers = _numbered(groups, order, room // size if size <= PICTURE_AT_MOST else 0)
    with (out / PIXELS).open("wb") as file:
        answers = _answered(brought, numbers, file, progress)
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))
    records = np.stack([order, answers[order], numbers[order]], axis=1)
    (out / INDEX).write_bytes(records.astype("<u4").tobytes() + places.astype("<u4").tobytes())
    return {
        "groups": groups,
        "names": list(brought.classifier.labels),
        "picture": list(picture),
        "pictures": int((numbers != NO_PICTURE).sum()),
    }


def _grouped(brought: Brought, is_clean: NDArray[np.bool_]) -> tuple[list[dict[str, Any]], _Rows]:
    """The groups, poisoned classes first, and the rows [n] group by group."""
    labels, names = brought.data.labels, brought.classifier.labels
    poisoned = np.unique(labels[~is_clean])
    groups: list[dict[str, Any]] = []
    order: list[_Rows] = []
    for label in [*poisoned, *np.setdiff1d(labels, poisoned)]:
        for suspicious in (True, False):
            rows = np.flatnonzero((labels == label) & (is_clean != suspicious))
            if len(rows):
                start = sum(len(one) for one in order)
                about = {"class": named(names, int(label)), "label": int(label), "suspicious": suspicious}
                groups.append({**about, "samples": len(rows), "start": start})
                order.append(rows)
    return groups, np.concatenate(order)


def _numbered(groups: Sequence[Mapping[str, Any]], order: _Rows, most: int) -> _Rows:
    """The number of each row's picture, int64 [n]; NO_PICTURE of those that are too many. They are written in the order of rows."""
    kept = np.zeros(len(order), bool)
    for suspicious in (True, False):
        left = sorted((one for one in groups if one["suspicious"] == suspicious), key=lambda one: int(one["samples"]))
        for at, one in enumerate(left):  # those who need less than an equal part leave it to the others
            count = min(int(one["samples"]), most // (len(left) - at))
            kept[order[one["start"] : one["start"] + count]] = True
            most -= count
    return np.where(kept, np.cumsum(kept) - 1, NO_PICTURE)


def _answered(brought: Brought, numbers: _Rows, file: BinaryIO, progress: Progress) -> _Rows:
    """What the classifier answers for each row, int64 [n]; the pictures that have a number are written on the way."""
    images, answers = brought.data.images, np.empty(len(numbers), np.int64)
    for block in blocks(images):
        progress("looking at samples", block.start, len(numbers))
        some = images[block]
        answers[block] = brought.classifier.predict(some).argmax(axis=1)
        file.write(as_bytes(some[numbers[block] != NO_PICTURE]).tobytes())
    progress("looking at samples", len(numbers), len(numbers))
    return answers


def write_clusters(
    brought: Brought, is_clean: NDArray[np.bool_], methods: Sequence[Mapping[str, Any]], out: Path
) -> list[dict[str, Any]]:
    """Write the points that `hauberk scan` draws, a file a class, poisoned classes first; returns which there are.

    Of a poisoned class they are those of the method that decides which samples are poison, the first that finds some.
    """
    labels = brought.data.labels
    with np.load(out / CLUSTERS, allow_pickle=False) as file:
        of_method, rows, plane, second = (file[name] for name in ("method", "row", "plane", "second"))
    found = []
    for label, one in enumerate(methods[0]["classes"]):
        finding = [at for at, method in enumerate(methods) if method["classes"][label]["verdict"] == "poison"]
        for at in [*finding, *range(len(methods))]:
            drawn = (of_method == at) & (labels[rows] == one["label"])
            if drawn.any():
                columns = (rows[drawn], plane[drawn].astype(float), second[drawn], ~is_clean[rows[drawn]])
                points = [
                    [int(row), *map(float, place), bool(other), bool(bad)]
                    for row, place, other, bad in zip(*columns, strict=True)
                ]
                about = {"class": one["name"], "label": one["label"], "poisoned": bool(finding), "samples": one["samples"]}
                (out / file_of(one["label"])).write_text(json.dumps({**about, "method": methods[at]["method"], "points": points}))
                found.append(about)
                break
    return sorted(found, key=lambda one: not one["poisoned"])
