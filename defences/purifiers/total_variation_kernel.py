"""The primal-dual loop of total variation minimisation, compiled; `total_variation.py` is its public face.

Chambolle & Pock 2011 (doi:10.1007/s10851-010-0251-1), algorithm 1 with the extrapolation on the dual side, on

    min_z  D(m * (z - x)) + weight * TV(z)

    dual    p <- project(p + sigma * grad z),         project = clip or L2-ball of radius `weight`
    primal  v <- u - tau * grad^T (2 p_new - p_old),  u <- shrink(v) on kept pixels, u = v elsewhere;   z = x + u

Layout: a block of L planes (one channel of one image each) lies as [h, w * L] with the plane index innermost, so that every loop
below runs over a contiguous row, and the difference to the right neighbour is an offset of L. Small images fill the SIMD lanes
with other images; a large one (L = 1) fills them with its own pixels. A plane never reads the numbers of another plane, so the
result for an image does not depend on the other images of the batch.

The data term couples a whole plane, so one sweep over the rows needs the shrink factor of the sweep before: only x, v, p, q are
streamed from memory (z and the extrapolated duals live in row buffers), which is what makes 224 x 224 planes stay in the L2 cache.
The row loops are kept apart on purpose: a loop over more arrays exceeds LLVM's alias-check budget and is left scalar.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from defences.splitmix64 import splitmix64

ANISOTROPIC, GROUPED, ISOTROPIC = 0, 1, 2
NORM, SQUARED = 0, 1

_FASTMATH = {"nnan", "ninf", "nsz", "arcp", "contract", "reassoc"}
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@njit(nogil=True, fastmath=_FASTMATH, forceinline=True)
def _shrink(acc: Any, gain: Any, w: int, lanes: int, tau: Any, data_term: int) -> None:
    """Fill `gain` with the share of v that is *removed* on kept pixels: 1 - max(0, 1 - tau / ||v||), or tau / (1 + tau) when squared."""
    one = np.float32(1)
    for lane in range(lanes):
        total = np.float32(0)
        for j in range(w):
            total += acc[j * lanes + lane]
        taken = tau / (one + tau) if data_term == SQUARED else min(one, tau / max(np.sqrt(total), np.float32(1e-20)))
        for j in range(w):
            gain[j * lanes + lane] = taken


@njit(nogil=True, fastmath=_FASTMATH, forceinline=True)
def _advance(v_row: Any, x_row: Any, keep_row: Any, gain: Any, z_row: Any) -> None:
    """z = x + u with u = shrink(v), for the v of the sweep before."""
    if keep_row is None:
        for k in range(z_row.size):
            z_row[k] = x_row[k] + v_row[k] - gain[k] * v_row[k]
    else:
        for k in range(z_row.size):
            z_row[k] = x_row[k] + v_row[k] - keep_row[k] * gain[k] * v_row[k]


@njit(nogil=True, fastmath=_FASTMATH, forceinline=True)
def _dual(dual: Any, extrapolated: Any, ahead: Any, here: Any, weight: Any, sigma: Any) -> None:
    two = np.float32(2)
    for k in range(dual.size):
        old = dual[k]
        new = min(max(old + sigma * (ahead[k] - here[k]), -weight), weight)
        dual[k] = new
        extrapolated[k] = two * new - old


@njit(nogil=True, fastmath=_FASTMATH, forceinline=True)
def _scaled_dual(dual: Any, extrapolated: Any, ahead: Any, here: Any, scale: Any, sigma: Any) -> None:
    two = np.float32(2)
    for k in range(dual.size):
        old = dual[k]
        new = scale[k] * (old + sigma * (ahead[k] - here[k]))
        dual[k] = new
        extrapolated[k] = two * new - old


@njit(nogil=True, fastmath=_FASTMATH, forceinline=True)
def _ascent_squares(total: Any, dual: Any, ahead: Any, here: Any, sigma: Any) -> None:
    for k in range(total.size):
        ascent = dual[k] + sigma * (ahead[k] - here[k])
        total[k] += ascent * ascent


@njit(nogil=True, fastmath=_FASTMATH, forceinline=True)
def _ball_scale(squares: Any, weight: Any) -> None:
    """Turn squared norms into the factor that projects on the ball of radius `weight`."""
    one = np.float32(1)
    for k in range(squares.size):
        squares[k] = min(one, weight / max(np.sqrt(squares[k]), np.float32(1e-20)))


@njit(nogil=True, fastmath=_FASTMATH, forceinline=True)
def _pool_lanes(squares: Any, w: int, lanes: int) -> None:
    for lane in range(lanes):
        total = np.float32(0)
        for j in range(w):
            total += squares[j * lanes + lane]
        for j in range(w):
            squares[j * lanes + lane] = total


@njit(nogil=True, fastmath=_FASTMATH, forceinline=True)
def _column_scale(
    x: Any, v: Any, q: Any, keep: Any, gain: Any, row: Any, scale: Any, lanes: int, weight: Any, sigma: Any
) -> None:
    """For GROUPED TV the right differences of one column share a ball: its norm is needed before the sweep."""
    scale[:] = np.float32(0)
    for i in range(x.shape[0]):
        _advance(v[i], x[i], None if keep is None else keep[i], gain, row)
        _ascent_squares(scale[: row.size - lanes], q[i, : row.size - lanes], row[lanes:], row, sigma)
    _ball_scale(scale, weight)


@njit(nogil=True, fastmath=_FASTMATH, forceinline=True)
def _descend(v_row: Any, gain: Any, down: Any, up: Any, right: Any, left: Any, keep_row: Any, acc: Any, tau: Any) -> None:
    """v = shrink(v) - tau * grad^T dual, and its squares over kept pixels into `acc`."""
    if keep_row is None:
        for k in range(v_row.size):
            v_row[k] = v_row[k] - gain[k] * v_row[k] + tau * (down[k] - up[k] + right[k] - left[k])
        for k in range(v_row.size):
            acc[k] += v_row[k] * v_row[k]
    else:
        for k in range(v_row.size):
            v_row[k] = v_row[k] - keep_row[k] * gain[k] * v_row[k] + tau * (down[k] - up[k] + right[k] - left[k])
        for k in range(v_row.size):
            acc[k] += keep_row[k] * v_row[k] * v_row[k]


@njit(nogil=True, fastmath=_FASTMATH, forceinline=True)
def _iterate(
    x: Any, keep: Any, w: int, lanes: int, weight: Any, tau: Any, sigma: Any, iterations: int, tv: int, data_term: int
) -> Any:
    """Run the loop on one block `x` [h, w * lanes]; returns z."""
    h, width = x.shape
    edge = width - lanes
    v, p, q = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
    gain, acc = np.zeros(width, np.float32), np.zeros(width, np.float32)
    scale_p, scale_q = np.zeros(width, np.float32), np.zeros(width, np.float32)
    z_here, z_below = np.zeros(width, np.float32), np.zeros(width, np.float32)
    down, up = np.zeros(width, np.float32), np.zeros(width, np.float32)
    sideways = np.zeros(width + lanes, np.float32)  # its first and last `lanes` entries stay zero: no neighbour there
    right, left = sideways[lanes:], sideways[:width]
    for _ in range(iterations):
        acc[:] = np.float32(0)
        up[:] = np.float32(0)
        if tv == GROUPED:
            _column_scale(x, v, q, keep, gain, z_below, scale_q, lanes, weight, sigma)
        _advance(v[0], x[0], None if keep is None else keep[0], gain, z_here)
        for i in range(h):
            last = i == h - 1
            if not last:
                _advance(v[i + 1], x[i + 1], None if keep is None else keep[i + 1], gain, z_below)
            else:
                down[:] = np.float32(0)
            if tv == ANISOTROPIC:
                if not last:
                    _dual(p[i], down, z_below, z_here, weight, sigma)
                _dual(q[i, :edge], right[:edge], z_here[lanes:], z_here, weight, sigma)
            else:
                scale_p[:] = np.float32(0)
                if not last:
                    _ascent_squares(scale_p, p[i], z_below, z_here, sigma)
                if tv == GROUPED:
                    _pool_lanes(scale_p, w, lanes)
                else:
                    _ascent_squares(scale_p[:edge], q[i, :edge], z_here[lanes:], z_here, sigma)
                _ball_scale(scale_p, weight)
                if not last:
                    _scaled_dual(p[i], down, z_below, z_here, scale_p, sigma)
                _scaled_dual(q[i, :edge], right[:edge], z_here[lanes:], z_here, scale_q if tv == GROUPED else scale_p, sigma)
            _descend(v[i], gain, down, up, right, left, None if keep is None else keep[i], acc, tau)
            z_here, z_below = z_below, z_here
            down, up = up, down
        _shrink(acc, gain, w, lanes, tau, data_term)
    for i in range(h):
        _advance(v[i], x[i], None if keep is None else keep[i], gain, z_here)
        v[i] = z_here
    return v


@njit(nogil=True)
def _gather(images: Any, start: int, lanes: int, block: Any) -> None:
    """Planes start, start + 1, ... of images [n, h, w, c], counted channel by channel, into a block [h, w * lanes]."""
    channels = images.shape[3]
    for i in range(images.shape[1]):
        row = block[i]
        for lane in range(lanes):
            plane = start + lane
            pixels, strided = images[plane // channels, i, :, plane % channels], row[lane:]
            for j in range(pixels.size):
                strided[j * lanes] = pixels[j]


@njit(nogil=True, fastmath=_FASTMATH)
def _scatter(block: Any, start: int, lanes: int, images: Any) -> None:
    """Write a block back, clipped to [0, 1]."""
    zero, one = np.float32(0), np.float32(1)
    channels = images.shape[3]
    for i in range(block.shape[0]):
        row = block[i]
        for k in range(row.size):
            row[k] = min(max(row[k], zero), one)
        for lane in range(lanes):
            plane = start + lane
            pixels, strided = images[plane // channels, i, :, plane % channels], row[lane:]
            for j in range(pixels.size):
                pixels[j] = strided[j * lanes]


@njit(nogil=True)
def _keyed_keep(seeds: Any, start: int, w: int, lanes: int, keep_probability: float, block: Any) -> None:
    """Bernoulli(keep) per pixel: pixel number n of the plane with seed s is kept when SplitMix64(s + n * golden) is small enough."""
    threshold = np.uint64(keep_probability * 9007199254740992.0)  # 2**53
    drawn = np.empty(w, np.float32)
    for i in range(block.shape[0]):
        for lane in range(lanes):
            seed = seeds[start + lane] + np.uint64(i * w + 1) * _GOLDEN
            for j in range(w):  # apart from the strided store below, so that it is vectorised
                kept = (splitmix64(seed + np.uint64(j) * _GOLDEN) >> np.uint64(11)) < threshold
                drawn[j] = np.float32(1) if kept else np.float32(0)
            strided = block[i, lane:]
            for j in range(w):
                strided[j * lanes] = drawn[j]


@njit(nogil=True, cache=True)
def keyed_masks(seeds: Any, shape: Any, keep_probability: float) -> Any:
    """The masks `minimise` draws for these plane seeds: float32 [planes, h, w], 1 = kept."""
    h, w = shape
    masks = np.ones((seeds.size, h, w), np.float32)
    block = np.empty((h, w), np.float32)
    if keep_probability < 1.0:
        for plane in range(seeds.size):
            _keyed_keep(seeds, plane, w, 1, keep_probability, block)
            masks[plane] = block
    return masks


@njit(nogil=True, cache=True)
def minimise(
    images: Any,
    seeds: Any,
    keep_probability: float,
    lanes_at_most: int,
    weight: float,
    tau: float,
    sigma: float,
    iterations: int,
    tv: int,
    data_term: int,
) -> Any:
    """Minimise every plane of float32 [n, h, w, c] in blocks of at most `lanes_at_most` planes; `seeds` has one per plane."""
    n, h, w, channels = images.shape
    result = np.empty((n, h, w, channels), np.float32)
    steps = np.float32(weight), np.float32(tau), np.float32(sigma)
    for start in range(0, n * channels, lanes_at_most):
        lanes = min(lanes_at_most, n * channels - start)
        x = np.empty((h, w * lanes), np.float32)
        _gather(images, start, lanes, x)
        if keep_probability < 1.0:
            keep = np.empty((h, w * lanes), np.float32)
            _keyed_keep(seeds, start, w, lanes, keep_probability, keep)
            z = _iterate(x, keep, w, lanes, steps[0], steps[1], steps[2], iterations, tv, data_term)
        else:
            z = _iterate(x, None, w, lanes, steps[0], steps[1], steps[2], iterations, tv, data_term)
        _scatter(z, start, lanes, result)
    return result
