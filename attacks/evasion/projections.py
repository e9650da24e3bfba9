"""Projections onto the balls that bound an attack: the closest point, in Euclidean distance, that is not too far away.

    argmin_z ||z - delta||_2   subject to   ||z||_p <= eps,       p in {1, 2}

For p = inf it is a clip, which needs no function.

Row by row, in compiled loops; sums in float64. The box [0, 1] is not in it: clipping a projected image to the box brings every
component closer to the original image or leaves it, so that it stays in the ball.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Deltas = NDArray[np.float32]
"""float32 [n, ...], differences from the original image, one per row."""


def onto_l2_ball(deltas: Deltas, eps: float) -> Deltas:
    """delta * min(1, eps / ||delta||_2): a new array [n, ...]."""
    return _each_row(_onto_l2_rows, deltas, eps)


def onto_l1_ball(deltas: Deltas, eps: float) -> Deltas:
    """sign(delta) * max(|delta| - theta, 0), with theta = 0 inside the ball, else such that the result's absolute values sum to eps.

    theta is found exactly, without sorting: average what exceeds it, drop what does not, repeat until nothing is dropped
    (Michelot 1986, doi:10.1007/BF00938486). A new array [n, ...]; linear in the size of a row in practice.
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
    """What to take off every absolute value of `row` so that the rest sums to eps; 0 when they sum to no more."""
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
        theta = np.float32(l1_threshold(row, eps))
        if theta > 0:
            for k in range(row.size):
                row[k] = np.sign(row[k]) * max(abs(row[k]) - theta, np.float32(0))
