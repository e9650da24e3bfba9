"""One step of a gradient attack, compiled: move along the steepest direction, project, clip, in one pass over the rows.

    x <- clip(x0 + project(clip(x + length * d) - x0)),     d = argmax_d <g, d>  subject to  ||d||_p = 1

    p = inf   d = sign g
    p = 2     d = g / ||g||_2
    p > 1     d = sign g * (|g| / ||g||_q)^(q - 1),  1/p + 1/q = 1
    p = 1     the whole length on the component of the largest |g|. Length beyond the box goes to the next largest: the steepest
              direction *within the box*, equal to the published one where there is room. Otherwise a step longer than one pixel's
              range would be cut off, and the next step would choose the same pixel again.

A row of zero gradient is not moved; NaN components count as zero.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from attacks.evasion.projections import l1_threshold, l2_norm
from models.classifier import Images

PROJECTED_NORMS = (1.0, 2.0, math.inf)
"""The norms with a projection onto their ball; every p > 1 has a steepest direction."""

_ZERO, _ONE = np.float32(0), np.float32(1)


def step(images: Images, centres: Images, gradients: Images, *, length: float, eps: float, norm: float) -> None:
    """Move images [n, h, w, c] *in place*, uphill for a positive length, downhill for a negative one.

    Args:
        centres: the original images [n, h, w, c].
        gradients: of the loss by the images, [n, h, w, c]; overwritten.
        length: of the step in the norm.
        eps: the radius of the ball; inf for no projection.
        norm: one of PROJECTED_NORMS, or any p > 1 when eps is inf.
    """
    if len(images):
        _step(_rows(images), _rows(centres), _rows(gradients), float(length), float(eps), float(norm))


def _rows(images: Images) -> NDArray[np.float32]:
    """[n, d], contiguous and writable float32, the type that `_step` is compiled for."""
    return np.require(images, np.float32, ["C", "W"]).reshape(len(images), -1)


@njit(nogil=True, cache=True)
def _step(images: Any, centres: Any, gradients: Any, length: float, eps: float, norm: float) -> None:
    for row in range(len(images)):
        x, x0, g = images[row], centres[row], gradients[row]
        if norm == np.inf:
            _by_sign(x, x0, g, length, eps)
        elif norm == 1.0:
            _finite(g)
            _along_the_largest(x, g, length)
            _onto_l1(x, x0, eps)
        else:
            _finite(g)
            _along(x, g, length, norm)
            _onto_l2(x, x0, eps)


@njit(nogil=True, cache=True)
def _by_sign(x: Any, x0: Any, g: Any, length: float, eps: float) -> None:
    stride, radius = np.float32(length), np.float32(eps)
    for k in range(x.size):
        moved = x[k]
        if g[k] > 0:
            moved += stride
        elif g[k] < 0:
            moved -= stride
        moved = min(max(moved, x0[k] - radius), x0[k] + radius)
        x[k] = min(max(moved, _ZERO), _ONE)


@njit(nogil=True, cache=True)
def _finite(g: Any) -> None:
    for k in range(g.size):
        if not np.isfinite(g[k]):
            g[k] = _ZERO


@njit(nogil=True, cache=True)
def _along(x: Any, g: Any, length: float, norm: float) -> None:
    largest = 0.0
    for value in g:
        largest = max(largest, abs(np.float64(value)))
    if largest == 0:
        return
    dual = norm / (norm - 1)
    total = 0.0  # scaled by the largest value: powers of a tiny gradient would vanish
    if norm == 2.0:
        for value in g:
            total += (np.float64(value) / largest) ** 2
    else:
        for value in g:
            total += (abs(np.float64(value)) / largest) ** dual
    size = total ** (1 / dual) * largest
    for k in range(x.size):
        share = np.float64(g[k]) / size
        if norm != 2.0:
            share = np.sign(share) * abs(share) ** (dual - 1)
        x[k] = min(max(np.float32(x[k] + length * share), _ZERO), _ONE)


@njit(nogil=True, cache=True)
def _room(value: Any, gradient: Any, length: float) -> float:
    """Distance from a component to the end of the box in its step's direction; 0 without a direction."""
    slope = gradient * length
    if slope == 0:
        return 0.0
    return np.float64(_ONE - value) if slope > 0 else np.float64(value)


@njit(nogil=True, cache=True)
def _along_the_largest(x: Any, g: Any, length: float) -> None:
    left = abs(length)
    best, at = 0.0, -1
    for k in range(x.size):
        if abs(g[k]) > best and _room(x[k], g[k], length) > 0:
            best, at = abs(g[k]), k
    if at < 0:
        return
    if _room(x[at], g[at], length) >= left:
        x[at] += np.float32(left if g[at] * length > 0 else -left)
        return
    for k in np.argsort(-np.abs(g), kind="mergesort"):
        room = min(_room(x[k], g[k], length), left)
        if room > 0:
            x[k] = min(max(np.float32(x[k] + (room if g[k] * length > 0 else -room)), _ZERO), _ONE)
            left -= room
        if left <= 0 or g[k] == 0:
            return


@njit(nogil=True, cache=True)
def _onto_l2(x: Any, x0: Any, eps: float) -> None:
    if eps == np.inf:
        return
    distance = l2_norm(x - x0)
    if distance > eps:
        scale = np.float32(eps / distance)
        for k in range(x.size):
            x[k] = min(max(x0[k] + scale * (x[k] - x0[k]), _ZERO), _ONE)


@njit(nogil=True, cache=True)
def _onto_l1(x: Any, x0: Any, eps: float) -> None:
    if eps == np.inf:
        return
    delta = x - x0
    theta = np.float32(l1_threshold(delta, eps))
    if theta > 0:
        for k in range(x.size):
            x[k] = min(max(x0[k] + np.sign(delta[k]) * max(abs(delta[k]) - theta, _ZERO), _ZERO), _ONE)
