"""Grey pictures of ten kinds of clothes, drawn from a seed: the classes of Fashion-MNIST, none of its pictures.

Paper: Xiao, Rasul & Vollgraf 2017, arXiv:1708.07747, for the classes and the format. Kinds overlap as clothes do: a shirt with short
sleeves is nearly a T-shirt, a long pullover nearly a coat. Proportions, cloth, light and noise are each picture's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from models.datasets import Dataset

NAMES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_SIDE, _FINER = 28, 4
_MIDDLE = 0.5

Points = list[tuple[float, float]]
"""Corners (x, y) of a polygon, in shares of the picture's side."""


def garments(count: int, seed: int) -> Dataset:
    """Images float32 [count, 28, 28, 1] in [0, 1] on black, and their labels int64 [count]: places in `NAMES`."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(NAMES), count)
    images = np.stack([_picture(_DRAWN[label], rng) for label in labels.tolist()])
    return Dataset(images[..., None], labels)


@dataclass
class _Drawing:
    """A picture at four times its size, of shades from 0 to 1 of the cloth's own."""

    rng: np.random.Generator

    def __post_init__(self) -> None:
        self.image = Image.new("L", (_SIDE * _FINER, _SIDE * _FINER))
        self._pen = ImageDraw.Draw(self.image)

    def between(self, low: float, high: float) -> float:
        """A number that is this picture's own."""
        return float(self.rng.uniform(low, high))

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def fill(self, points: Points, shade: float = 1.0) -> None:
        self._pen.polygon([(x * self.image.width, y * self.image.height) for x, y in points], fill=round(255 * shade))

    def both_sides(self, points: Points, shade: float = 1.0) -> None:
        """The polygon and its mirror image."""
        self.fill(points, shade)
        self.fill([(1 - x, y) for x, y in points], shade)

    def line(self, points: Points, width: float, shade: float) -> None:
        self._pen.line(
            [(x * self.image.width, y * self.image.height) for x, y in points],
            fill=round(255 * shade),
            width=max(1, round(width * self.image.width)),
        )


def _picture(draw: Callable[[_Drawing], None], rng: np.random.Generator) -> NDArray[np.float32]:
    drawing = _Drawing(rng)
    draw(drawing)
    turned = drawing.image.rotate(rng.normal(0, 3), Image.Resampling.BILINEAR, translate=tuple(rng.normal(0, 3, 2)))
    shade = np.asarray(turned.resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float32) / 255
    down, across = np.indices(shade.shape) / _SIDE
    light = rng.uniform(0.35, 1.0) * (1 + rng.uniform(-0.2, 0.2) * (across - _MIDDLE) + rng.uniform(-0.3, 0.3) * (down - _MIDDLE))
    if rng.random() < 0.4:  # a woven or printed pattern
        angle, waves = rng.choice([0.0, np.pi / 2, rng.uniform(0, np.pi)]), 2 * np.pi * rng.uniform(3, 9)
        pattern = np.sin(waves * (across * np.cos(angle) + down * np.sin(angle)) + rng.uniform(0, 2 * np.pi))
        light = light * (1 + rng.uniform(0.05, 0.35) * pattern)
    noise = rng.uniform(0.01, 0.06) * rng.standard_normal(shade.shape)
    found: NDArray[np.float32] = np.clip(shade * (light + noise), 0, 1).astype(np.float32)
    return found


def _top(drawing: _Drawing, *, sleeve: float, bottom: float, shoulder: float, waist: float) -> None:
    """A body with sleeves that end at `sleeve` of the height."""
    top, neck = drawing.between(0.08, 0.15), drawing.between(0.07, 0.12)
    body = [
        (_MIDDLE - neck, top),
        (_MIDDLE - shoulder, top + 0.05),
        (_MIDDLE - waist, bottom),
        (_MIDDLE + waist, bottom),
        (_MIDDLE + shoulder, top + 0.05),
        (_MIDDLE + neck, top),
    ]
    drawing.fill(body)
    out, width = drawing.between(0.06, 0.16), drawing.between(0.08, 0.12)
    reach = min(0.46, shoulder + out)
    drawing.both_sides(
        [
            (_MIDDLE - shoulder + 0.03, top + 0.04),
            (_MIDDLE - shoulder - 0.02, top + 0.07),
            (_MIDDLE - reach, sleeve),
            (_MIDDLE - reach + width, sleeve + 0.02),
            (_MIDDLE - shoulder + 0.05, top + 0.22),
        ],
        drawing.between(0.8, 1.0),
    )
    drop = drawing.between(0.02, 0.07)
    drawing.fill([(_MIDDLE - neck, top), (_MIDDLE, top + drop), (_MIDDLE + neck, top)], drawing.between(0, 0.5))


def _t_shirt(drawing: _Drawing) -> None:
    waist = drawing.between(0.18, 0.25)
    _top(
        drawing,
        sleeve=drawing.between(0.3, 0.46),
        bottom=drawing.between(0.8, 0.92),
        shoulder=drawing.between(0.2, 0.27),
        waist=waist,
    )


def _pullover(drawing: _Drawing) -> None:
    waist, bottom = drawing.between(0.17, 0.25), drawing.between(0.78, 0.9)
    _top(drawing, sleeve=drawing.between(0.66, 0.9), bottom=bottom, shoulder=drawing.between(0.2, 0.27), waist=waist)
    drawing.line([(_MIDDLE - waist, bottom - 0.04), (_MIDDLE + waist, bottom - 0.04)], 0.02, drawing.between(0.5, 0.85))


def _coat(drawing: _Drawing) -> None:
    _top(
        drawing,
        sleeve=drawing.between(0.66, 0.88),
        bottom=drawing.between(0.86, 0.96),
        shoulder=drawing.between(0.18, 0.25),
        waist=drawing.between(0.18, 0.26),
    )
    drawing.line(
        [(_MIDDLE, 0.16), (_MIDDLE + drawing.between(-0.02, 0.02), 0.92)], drawing.between(0.01, 0.03), drawing.between(0.2, 0.6)
    )
    if drawing.chance(0.5):  # lapels
        drawing.both_sides([(0.5, 0.14), (0.42, 0.2), (0.49, 0.42)], drawing.between(0.5, 0.8))


def _shirt(drawing: _Drawing) -> None:
    sleeve = drawing.between(0.34, 0.5) if drawing.chance(0.35) else drawing.between(0.62, 0.88)
    bottom = drawing.between(0.8, 0.94)
    _top(drawing, sleeve=sleeve, bottom=bottom, shoulder=drawing.between(0.19, 0.26), waist=drawing.between(0.17, 0.24))
    drawing.both_sides([(0.5, 0.17), (0.42, 0.1), (0.4, 0.18)], drawing.between(0.55, 0.9))  # a collar
    for place in np.linspace(0.24, bottom - 0.08, int(drawing.between(4, 7))).tolist():
        drawing.line([(_MIDDLE - 0.012, place), (_MIDDLE + 0.012, place)], 0.025, drawing.between(0.1, 0.6))


def _dress(drawing: _Drawing) -> None:
    top, shoulder, waist = drawing.between(0.04, 0.1), drawing.between(0.09, 0.16), drawing.between(0.08, 0.13)
    hem, bottom, narrow = drawing.between(0.13, 0.3), drawing.between(0.9, 0.97), drawing.between(0.34, 0.48)
    half = [
        (_MIDDLE, top + 0.08),
        (_MIDDLE - shoulder, top),
        (_MIDDLE - waist, narrow),
        (_MIDDLE - hem, bottom),
        (_MIDDLE, bottom),
    ]
    drawing.both_sides(half)
    if drawing.chance(0.35):
        drawing.both_sides(
            [(0.5 - shoulder, top), (0.5 - shoulder - 0.1, drawing.between(0.25, 0.5)), (0.5 - waist, 0.25)],
            drawing.between(0.8, 1.0),
        )
    drawing.line([(_MIDDLE - waist, narrow), (_MIDDLE + waist, narrow)], 0.02, drawing.between(0.5, 1.0))


def _trouser(drawing: _Drawing) -> None:
    waist, foot, width = drawing.between(0.1, 0.17), drawing.between(0.12, 0.22), drawing.between(0.07, 0.12)
    top, crotch, bottom = drawing.between(0.04, 0.1), drawing.between(0.28, 0.4), drawing.between(0.9, 0.97)
    drawing.both_sides(
        [(_MIDDLE, top), (_MIDDLE - waist, top), (_MIDDLE - foot, bottom), (_MIDDLE - foot + width, bottom), (_MIDDLE, crotch)]
    )
    drawing.line([(_MIDDLE - waist, top + 0.03), (_MIDDLE + waist, top + 0.03)], 0.02, drawing.between(0.4, 0.9))


def _shoe(drawing: _Drawing, *, shaft: float, shade: float) -> float:
    """A closed shoe that is `shaft` high at the heel, its toe on the left. Returns: where it stands."""
    ground = drawing.between(0.72, 0.86)
    toe, instep = drawing.between(0.04, 0.1), drawing.between(0.48, 0.6)
    drawing.fill(
        [
            (toe, ground),
            (toe + 0.02, ground - drawing.between(0.08, 0.14)),
            (instep - 0.15, ground - drawing.between(0.16, 0.22)),
            (instep, ground - shaft),
            (0.92, ground - shaft - drawing.between(-0.02, 0.04)),
            (0.94, ground),
        ],
        shade,
    )
    return ground


def _sneaker(drawing: _Drawing) -> None:
    ground = _shoe(drawing, shaft=drawing.between(0.22, 0.36), shade=drawing.between(0.6, 1.0))
    drawing.line([(0.06, ground), (0.94, ground)], drawing.between(0.03, 0.06), drawing.between(0.5, 1.0))
    for place in np.linspace(0.35, 0.55, int(drawing.between(2, 5))).tolist():
        drawing.line([(place, ground - 0.2), (place + 0.05, ground - 0.12)], 0.015, drawing.between(0.2, 0.6))


def _ankle_boot(drawing: _Drawing) -> None:
    ground = _shoe(drawing, shaft=drawing.between(0.34, 0.62), shade=drawing.between(0.8, 1.0))
    heel = drawing.between(0.02, 0.12)
    drawing.fill([(0.74, ground), (0.94, ground), (0.92, ground + heel), (0.78, ground + heel)], drawing.between(0.5, 1.0))
    drawing.line([(0.1, ground), (0.75, ground)], 0.025, drawing.between(0.4, 1.0))


def _sandal(drawing: _Drawing) -> None:
    ground, lift = drawing.between(0.68, 0.84), drawing.between(0.0, 0.22)
    sole = drawing.between(0.03, 0.07)
    drawing.fill(
        [
            (0.05, ground),
            (0.4, ground),
            (0.93, ground - lift),
            (0.93, ground - lift - sole),
            (0.4, ground - sole),
            (0.05, ground - sole),
        ]
    )
    if lift > 0.1:
        drawing.fill([(0.82, ground - lift), (0.93, ground - lift), (0.92, ground), (0.86, ground)], drawing.between(0.6, 1.0))
    for _ in range(int(drawing.between(2, 5))):
        start = drawing.between(0.1, 0.75)
        high = ground - drawing.between(0.16, 0.42)
        drawing.line(
            [(start, ground - sole), (start + drawing.between(0.0, 0.15), high), (start + 0.2, ground - sole)],
            0.03,
            drawing.between(0.5, 1.0),
        )


def _bag(drawing: _Drawing) -> None:
    left, right = drawing.between(0.06, 0.2), drawing.between(0.8, 0.94)
    top, bottom, slant = drawing.between(0.34, 0.5), drawing.between(0.8, 0.94), drawing.between(-0.05, 0.08)
    drawing.fill([(left + slant, top), (right - slant, top), (right, bottom), (left, bottom)])
    high, inset = drawing.between(0.08, 0.26), drawing.between(0.1, 0.22)
    handle = [(left + inset, top), (left + inset + 0.05, high), (right - inset - 0.05, high), (right - inset, top)]
    drawing.line(handle, drawing.between(0.02, 0.05), drawing.between(0.5, 1.0))
    if drawing.chance(0.5):  # a flap
        drawing.line([(left, top + 0.16), (right, top + 0.16)], 0.02, drawing.between(0.3, 0.7))


_DRAWN = (_t_shirt, _trouser, _pullover, _dress, _coat, _sandal, _shirt, _sneaker, _bag, _ankle_boot)
