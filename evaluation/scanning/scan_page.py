"""report.html of a scan: a page for people that loads nothing, with pictures of the clusters of every class."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from defences.poison.findings import ClassFindings, Findings
from evaluation.reporting.plots import cluster_map, themed
from evaluation.reporting.templates import rendered
from evaluation.scanning.drawn_points import drawn_points, spread
from evaluation.scanning.scan_report import ScanReport
from models.classifier import Images, Labels

_SPRITES, _COLUMNS = 24, 8
_SPRITE_SIDE = 40
_CLASSES_AT_MOST = 20

Read = Callable[[NDArray[np.int64]], Images]


def scan_page(
    report: ScanReport, findings: Sequence[Findings], labels: Labels, images: Read, truth: NDArray[np.bool_] | None
) -> str:
    """The report as HTML.

    Args:
        images: rows -> float32 [m, h, w, c] in [0, 1]; called with a few rows of each cluster.
        truth: bool [n], which samples are clean, where that is known.
    """
    sections = [(method, _classes(found, labels, images, truth)) for method, found in zip(report.methods, findings, strict=True)]
    return rendered("scan.html", report=report, sections=sections)


def _classes(found: Findings, labels: Labels, images: Read, truth: NDArray[np.bool_] | None) -> list[dict[str, Any]]:
    """Findings of each class and pictures of its clusters; of more than 20 classes only poisoned ones are drawn."""
    drawn = {one.label for one in found.classes if one.verdict == "poison"}
    if len(found.classes) <= _CLASSES_AT_MOST:
        drawn = {one.label for one in found.classes}
    return [
        {"found": one, "pictures": _pictures(one, found, labels, images, truth) if one.label in drawn else None}
        for one in found.classes
    ]


def _pictures(
    one: ClassFindings, found: Findings, labels: Labels, images: Read, truth: NDArray[np.bool_] | None
) -> dict[str, Any] | None:
    if not one.clusters:
        return None
    rows = np.flatnonzero(labels == one.label)
    second = found.in_second[rows]
    sprites = [sprite_sheet(images(spread(rows[part], _SPRITES))) for part in (~second, second)]
    shown = drawn_points(found, rows)
    clean = None if truth is None else truth[shown]
    poison = [cluster.poison for cluster in one.clusters]
    drawing = cluster_map(found.plane[shown], found.in_second[shown], poison, clean)
    return {"sprites": sprites, "map": Markup(themed(drawing))}  # noqa: S704  # our own drawing of numbers


def sprite_sheet(images: Images, *, columns: int = _COLUMNS) -> str:
    """All images side by side in one PNG, as a data URI; empty for no images."""
    if not len(images):
        return ""
    n, h, w, c = images.shape
    channels = images if c in (1, 3) else images[..., :1]
    lines = -(-n // columns)
    sheet = np.ones((lines * (h + 1), columns * (w + 1), channels.shape[-1]), np.float32)
    for number, image in enumerate(channels):
        top, left = (number // columns) * (h + 1), (number % columns) * (w + 1)
        sheet[top : top + h, left : left + w] = image
    pixels = np.rint(sheet * 255).astype(np.uint8)
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    scale = _SPRITE_SIDE / max(h, w)
    if scale < 1:
        picture = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
