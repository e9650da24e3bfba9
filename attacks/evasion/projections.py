"""Projections onto the L1 and L2 balls.

    argmin_z ||z - delta||_2   subject to   ||z||_p <= eps,       p in {1, 2}

For p = inf the projection is a clip. Row by row, in compiled loops with float64 sums. Clipping a projected image to the box [0, 1]
afterwards keeps it in the ball, because no component moves away from the original image.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Deltas = NDArray[np.float32]
"""float32 [n, ...], differences from the original images."""


def onto_l2_ball(deltas: Deltas, eps: float) -> Deltas:
    """Projection onto the L2 ball, delta * min(1, eps / ||delta||_2): a new array [n, ...]."""
    return _each_row(_onto_l2_rows, deltas, eps)


def onto_l1_ball(deltas: Deltas, eps: float) -> Deltas:
    """Projection onto the L1 ball, sign(delta) * max(|delta| - theta, 0): a new array [n, ...].

    theta is 0 inside the ball, else the value for which the result's L1 norm is eps. It is found exactly, without sorting: average the
    components above it, drop the others, repeat until none is dropped
    (Michelot 1986, doi:10.1007/BF00938486). Cost: linear in the size of a row in practice.
    """
    return _each_row(_onto_l1_rows, deltas, eps)


def _each_row(project: Any, deltas: Deltas, eps: float) -> Deltas:
    projected: Deltas = np.array(deltas, np.float32, order="C")
    project(projected.reshape(len(projected), -1) if len(projected) else np.empty((0, 1), np.float32), eps)
    return projected


@njit(cache=True)
def l2_norm(row: Any) -> Any:
    """||row||_2, in float64."""
    total = 0.0
    for value in row:
        total += np.float64(value) * np.float64(value)
    return np.sqrt(total)


@njit(cache=True)
def l1_threshold(row: Any, eps: float) -> Any:
    """theta of the L1 projection of `row`: subtracted from the absolute values, they sum to eps; 0 inside the ball."""
    total, count = 0.0, row.size
    for value in row:
        total += abs(np.float64(value))
    if total <= eps:
        return 0.0
    while True:
        theta = (total - eps) / count
        total, kept = 0.0, 0
        for value in row:
            size = abs(np.float64(value))
            if size > theta:
                total += size
                kept += 1
        if kept == count or kept == 0:
            return theta
        count = kept


@njit(cache=True)
def _onto_l2_rows(rows: Any, eps: float) -> None:
    for row in rows:
        norm = l2_norm(row)
        if norm > eps:
            scale = np.float32(eps / norm)
            for k in range(row.size):
                row[k] *= scale


@njit(cache=True)
def _onto_l1_rows(rows: Any, eps: float) -> None:
    for row in rows:
        theta = l1_threshold(row, eps)
        if theta > 0:
            for k in range(row.size):  # in float64: near a large theta, float32 would miss the sphere by its rounding of theta
                row[k] = np.sign(row[k]) * max(abs(np.float64(row[k])) - theta, 0.0)
