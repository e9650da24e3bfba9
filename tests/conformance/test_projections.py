"""Projections onto balls against their definition: nothing in the ball is closer, in the ball nothing moves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from attacks.evasion.projections import Deltas, onto_l1_ball, onto_l2_ball
from attacks.evasion.steps import step
from tests.property.strategies import seeds

EPS = 1.5


def clipped(deltas: Deltas, eps: float) -> Deltas:
    """Onto the L-inf ball."""
    return np.clip(deltas, np.float32(-eps), np.float32(eps))


PROJECTIONS: dict[float, Callable[[Deltas, float], Deltas]] = {1: onto_l1_ball, 2: onto_l2_ball, np.inf: clipped}


def rows(seed: int, *, n: int = 6, d: int = 40) -> Deltas:
    """Differences of very different sizes, some components zero, some equal."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, d)) * 10.0 ** rng.uniform(-3, 2, (n, 1))
    values[rng.random((n, d)) < 0.2] = 0
    values[:, :5] = values[:, :1]
    return values.astype(np.float32).reshape(n, d // 4, 4)


def sizes(deltas: Deltas, norm: float) -> NDArray[np.float64]:
    lengths: NDArray[np.float64] = np.linalg.norm(deltas.reshape(len(deltas), -1).astype(np.float64), ord=norm, axis=1)
    return lengths


def l1_by_sorting(delta: NDArray[np.float64], eps: float) -> NDArray[np.float64]:
    """The textbook's way (Duchi et al. 2008, figure 1)."""
    size = np.abs(delta)
    if size.sum() <= eps:
        return delta
    falling = np.sort(size)[::-1]
    excess = (np.cumsum(falling) - eps) / np.arange(1, size.size + 1)
    theta = excess[np.flatnonzero(falling > excess)[-1]]
    projected: NDArray[np.float64] = np.sign(delta) * np.maximum(size - theta, 0)
    return projected


@pytest.mark.parametrize("norm", PROJECTIONS)
@given(seed=seeds)
@example(seed=101)  # a threshold so large that its rounding to float32 showed
def test_points_inside_stay_and_points_outside_come_onto_the_sphere(norm: float, seed: int) -> None:
    deltas = rows(seed)
    before = deltas.copy()
    projected = PROJECTIONS[norm](deltas, EPS)
    np.testing.assert_array_equal(deltas, before)
    inside = sizes(deltas, norm) <= EPS
    np.testing.assert_array_equal(projected[inside], deltas[inside])
    np.testing.assert_allclose(sizes(projected, norm)[~inside], EPS, rtol=1e-5)
    assert projected.shape == deltas.shape
    assert projected.dtype == np.float32


@pytest.mark.parametrize("norm", PROJECTIONS)
@given(seed=seeds)
def test_projecting_twice_is_projecting_once(norm: float, seed: int) -> None:
    once = PROJECTIONS[norm](rows(seed), EPS)
    np.testing.assert_allclose(PROJECTIONS[norm](once, EPS), once, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", PROJECTIONS)
def test_a_point_on_the_sphere_stays_there(norm: float) -> None:
    deltas = rows(0)
    on = (deltas * (EPS / sizes(deltas, norm))[:, None, None]).astype(np.float32)
    np.testing.assert_allclose(PROJECTIONS[norm](on, EPS), on, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", PROJECTIONS)
@given(seed=seeds)
def test_no_point_of_the_ball_is_closer_than_the_projection(norm: float, seed: int) -> None:
    # For a convex set that is: <delta - projected, other - projected> <= 0 for every other point of it.
    deltas = rows(seed)
    projected = PROJECTIONS[norm](deltas, EPS)
    others = rows(seed + 1)
    others *= (EPS / np.maximum(sizes(others, norm), 1e-9) * np.random.default_rng(seed).random(len(others)))[:, None, None]
    across = ((deltas - projected).astype(np.float64) * (others - projected)).reshape(len(deltas), -1).sum(axis=1)
    assert (across <= 1e-4 * (1 + sizes(deltas, 2))).all()


@given(seed=seeds, eps=st.floats(1e-3, 100))
def test_the_l1_projection_is_that_of_the_sorting_algorithm(seed: int, eps: float) -> None:
    deltas = rows(seed)
    expected = [l1_by_sorting(delta.ravel().astype(np.float64), eps) for delta in deltas]
    np.testing.assert_allclose(
        onto_l1_ball(deltas, eps).reshape(len(deltas), -1), expected, atol=1e-5 * float(np.abs(deltas).max()), rtol=1e-5
    )


@pytest.mark.parametrize("norm", PROJECTIONS)
@pytest.mark.parametrize("eps", [0.01, 0.2, 3.0])
def test_a_step_without_a_gradient_is_the_projection(norm: float, eps: float) -> None:
    images, centres = np.random.default_rng(3).random((2, 6, 5, 8, 1), dtype=np.float32)
    moved = images.copy()
    step(moved, centres, np.zeros_like(moved), length=0.1, eps=eps, norm=norm)
    expected = np.clip(centres + PROJECTIONS[norm](images - centres, eps), 0, 1)
    np.testing.assert_allclose(moved, expected, atol=2e-6)
    again = moved.copy()
    step(again, centres, np.zeros_like(moved), length=0.1, eps=eps, norm=norm)
    np.testing.assert_allclose(again, moved, atol=2e-6)


@pytest.mark.parametrize("norm", PROJECTIONS)
def test_no_rows_are_no_trouble(norm: float) -> None:
    assert PROJECTIONS[norm](np.empty((0, 3, 3, 1), np.float32), EPS).shape == (0, 3, 3, 1)
