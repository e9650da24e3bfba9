"""Disturb images until a trigger in them fails: patches, blur, noise and bending destroy triggers, and make none.

This breaks the symmetry that labels cannot: where half of every class is poison, "trigger there" and "trigger not there" are mirror
images, but a disturbed trigger is no trigger, while a disturbed clean image is not a triggered one. The idea of Februus (Doan et al.
2020, arXiv:1908.03369) and STRIP, asked of a cluster instead of an image.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from models.classifier import Images, Labels, Probabilities

_WINDOWS = 6  # a side; each as wide as two steps, so that one of them covers any local trigger whole
_ROWS_TOGETHER, _NUMBERS_TOGETHER = 256, 1 << 23  # a forward call of 32 rows costs half as much as one of 128
MODEL_CALLS = 7 + _WINDOWS**2
"""Per image."""


@dataclass(frozen=True)
class Disturbed:
    """What a cluster's images are taken for under each disturbance.

    Attributes:
        left: [d], the share that leaves the class under a disturbance.
        fell: [d], the share that becomes the class it was reclassified as.
        local: bool [d], which disturbances leave the rest of the image as it is.
    """

    left: NDArray[np.float64]
    fell: NDArray[np.float64]
    local: NDArray[np.bool_]


def disturb(
    images: Images, label: int, sources: Labels, predict: Callable[[Images], Probabilities], *, seed: int = 0
) -> Disturbed:
    """Images [n, h, w, c] of one cluster of class `label`, each with the class it was reclassified as [n].

    Cost: MODEL_CALLS per image.
    """
    together = max(1, min(_ROWS_TOGETHER, _NUMBERS_TOGETHER // images[0].size) // len(images))
    left, fell, local = [], [], []
    disturbances = _disturbed(images, np.random.default_rng(seed))
    while some := list(itertools.islice(disturbances, together)):
        taken_for = predict(np.concatenate([disturbed for _, disturbed in some])).argmax(axis=1).reshape(len(some), -1)
        left += (taken_for != label).mean(axis=1).tolist()
        fell += (taken_for == sources).mean(axis=1).tolist()
        local += [patched for patched, _ in some]
    return Disturbed(np.array(left), np.array(fell), np.array(local))


@dataclass(frozen=True)
class Local:
    """How much one patch matters.

    Attributes:
        much: in [-1, 1], see `locality`.
        usual: share that leaves under the median patch.
        patch: which one matters most.
    """

    much: float
    usual: float
    patch: int


def locality(cluster: Disturbed, other: Disturbed) -> Local:
    """How much one patch matters to this cluster, more than to the other cluster and more than its other patches do; and which patch.

    max over patches p of left(p) - max(other.left(p), median left); near 1 for a local trigger. A hard example leaves its class under any
    patch, and clean images of a class under the patch that hides what they have in common.
    """
    left = cluster.left[cluster.local]
    usual = float(np.median(left))
    matters = left - np.maximum(other.left[other.local], usual)
    return Local(float(matters.max()), usual, int(matters.argmax()))


def leaves(images: Images, label: int, patch: int, predict: Callable[[Images], Probabilities]) -> NDArray[np.bool_]:
    """Which images leave their class under one patch: bool [n]. One model call per image."""
    patched = next(itertools.islice(_patched(images), patch, None))
    left: NDArray[np.bool_] = predict(patched).argmax(axis=1) != label
    return left


def _disturbed(images: Images, rng: np.random.Generator) -> Iterator[tuple[bool, Images]]:
    for width in (1.0, 2.0):
        yield False, _clipped(gaussian_filter(images, (0, width, width, 0)))
    for spread in (0.1, 0.2, 0.4):
        yield False, _clipped(images + rng.normal(0, spread, images.shape))
    yield False, _clipped(images * 0.5)
    yield False, _bent(images, rng)
    for patched in _patched(images):
        yield True, patched


def _patched(images: Images) -> Iterator[Images]:
    """One window after the other filled with the blurred picture."""
    h, w = images.shape[1:3]
    blurred = _clipped(gaussian_filter(images, (0, h / 6, w / 6, 0)))
    tops, lefts = ([round(at * side / (_WINDOWS + 1)) for at in range(_WINDOWS)] for side in (h, w))
    tall, wide = (-(-2 * side // (_WINDOWS + 1)) for side in (h, w))
    for top in tops:
        for left in lefts:
            patched = images.copy()
            window = np.s_[:, top : top + tall, left : left + wide]
            patched[window] = blurred[window]
            yield patched


def _bent(images: Images, rng: np.random.Generator) -> Images:
    """Every image bent by a smooth field of its own, by about a sixteenth of its side."""
    n, h, w, c = images.shape
    fields = gaussian_filter(rng.normal(size=(n, 2, h, w)), (0, 0, h / 8, w / 8))
    fields *= (min(h, w) / 16) / (np.abs(fields).mean() + 1e-12)
    grid = np.stack(np.meshgrid(np.arange(h), np.arange(w), indexing="ij"))
    bent = np.empty_like(images)
    for image, field, out in zip(images, fields, bent, strict=True):
        for channel in range(c):
            out[:, :, channel] = map_coordinates(image[:, :, channel], grid + field, order=1, mode="nearest")
    return bent


def _clipped(images: NDArray[np.floating]) -> Images:
    clipped: Images = np.clip(images, 0, 1).astype(np.float32)
    return clipped
