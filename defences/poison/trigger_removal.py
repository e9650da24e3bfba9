"""Disturb the images of a cluster until a trigger in them fails: patches, blur, noise and bending destroy triggers, and create none.

Where half of every class is poison, labels and activations alone cannot name the poisoned half: the two are symmetric. Disturbing breaks
the symmetry, since a disturbed trigger stops working, while a disturbed clean image does not become a triggered one. This applies the
idea of Februus (Doan et al. 2020, arXiv:1908.03369) and of STRIP to a cluster instead of an image.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from models.classifier import Images, Labels, Probabilities

_WINDOWS = 6  # per side; each is two steps wide, so that one of them covers any local trigger completely
_WINDOW_AT_LEAST, _SHARE_AT_MOST = (
    4,
    1 / 8,
)  # of its sides in pixels, and of the picture: what covers a trigger must not cover the object
_ROWS_TOGETHER, _NUMBERS_TOGETHER = 256, 1 << 23  # a forward call of 128 rows costs only twice as much as one of 32
MODEL_CALLS = 7 + _WINDOWS**2
"""Per image."""


@dataclass(frozen=True)
class Disturbed:
    """Shares of a cluster's images by their predicted class, for each of d disturbances.

    Attributes:
        left: [d], in [0, 1], predicted as another class than their label.
        fell: [d], in [0, 1], predicted as the class that exclusionary reclassification assigned to them.
        local: bool [d], true for disturbances of one patch of the image.
    """

    left: NDArray[np.float64]
    fell: NDArray[np.float64]
    local: NDArray[np.bool_]


def too_small(height: int, width: int) -> str | None:
    """Why poison cannot be told from natural clusters in images of this size, in one sentence; None where it can.

    The patch that covers any local trigger is two sevenths of each side. Below 12 pixels a side it hides what makes a natural kind of
    digit the class it is, as it would hide a trigger.
    """
    tall, wide = _window(height, width)
    if min(tall, wide) >= _WINDOW_AT_LEAST and tall * wide <= _SHARE_AT_MOST * height * width:
        return None
    return (
        f"images of {height} x {width} pixels are too small to tell poison from natural clusters: a patch that covers a trigger is "
        f"{tall} x {wide} pixels, {tall * wide / (height * width):.0%} of the picture"
    )


def disturb(
    images: Images, label: int, sources: Labels, predict: Callable[[Images], Probabilities], *, seed: int = 0
) -> Disturbed:
    """Disturb and classify images [n, h, w, c] of one cluster of class `label`; `sources` [n] are their reclassified classes.

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
    """The result of `locality` for one cluster.

    Attributes:
        much: the locality, in [-1, 1].
        usual: share of the cluster whose class changes under the median patch.
        patch: the position of the patch with the largest effect.
    """

    much: float
    usual: float
    patch: int


def locality(cluster: Disturbed, other: Disturbed) -> Local:
    """The effect of one patch on this cluster beyond its effect on the other cluster and beyond that of the other patches.

    Maths: max over patches p of left(p) - max(other.left(p), median left); near 1 for a local trigger. It is low for hard examples, whose
    class changes under any patch, and for clean images, where the patch that hides the shared feature changes both clusters.
    """
    left = cluster.left[cluster.local]
    usual = float(np.median(left))
    matters = left - np.maximum(other.left[other.local], usual)
    return Local(float(matters.max()), usual, int(matters.argmax()))


def class_changes(images: Images, label: int, patch: int, predict: Callable[[Images], Probabilities]) -> NDArray[np.bool_]:
    """bool [n]: images [n, h, w, c] predicted as another class than `label` with one patch covered. Cost: one model call per image."""
    patched = next(itertools.islice(_patched(images), patch, None))
    left: NDArray[np.bool_] = predict(patched).argmax(axis=1) != label
    return left


def taken_for(donors: Images, hosts: Images, label: int, patch: int, predict: Callable[[Images], Probabilities]) -> float:
    """The share of the hosts [m, h, w, c] that is taken for `label` once a patch of a donor [n, h, w, c] is pasted into each, in turn: a
    trigger takes its class along, a stroke does not. In [0, 1]. Cost: one model call per host."""
    tall, wide = _window(*hosts.shape[1:3])
    top, left = (round(at * side / (_WINDOWS + 1)) for at, side in zip(divmod(patch, _WINDOWS), hosts.shape[1:3], strict=True))
    window = np.s_[:, top : top + tall, left : left + wide]
    pasted = hosts.copy()
    pasted[window] = donors[np.arange(len(hosts)) % len(donors)][window]
    return float((predict(pasted).argmax(axis=1) == label).mean())


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
    """The images with one window after the other replaced by a strong blur."""
    h, w = images.shape[1:3]
    blurred = _clipped(gaussian_filter(images, (0, h / 6, w / 6, 0)))
    tops, lefts = ([round(at * side / (_WINDOWS + 1)) for at in range(_WINDOWS)] for side in (h, w))
    tall, wide = _window(h, w)
    for top in tops:
        for left in lefts:
            patched = images.copy()
            window = np.s_[:, top : top + tall, left : left + wide]
            patched[window] = blurred[window]
            yield patched


def _window(height: int, width: int) -> tuple[int, int]:
    return -(-2 * height // (_WINDOWS + 1)), -(-2 * width // (_WINDOWS + 1))


def _bent(images: Images, rng: np.random.Generator) -> Images:
    """Every image warped by a smooth random field of its own, by a sixteenth of its side on average."""
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
