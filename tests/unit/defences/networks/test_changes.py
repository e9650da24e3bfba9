"""The sets of patterns: their bounds are kept, and what is within them stays."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize

from defences.networks.changes import Sparse, Weak


def test_a_weak_pattern_is_shortened_and_keeps_its_direction() -> None:
    patterns = np.random.default_rng(0).normal(size=(2, 4, 5, 3)).astype(np.float32)
    found = Weak().bounded(patterns, 1 / 8)
    assert np.sqrt((found**2).sum(axis=(1, 2, 3))) == pytest.approx(np.sqrt(60) / 8, rel=1e-5)
    assert found[0] / np.linalg.norm(found[0]) == pytest.approx(patterns[0] / np.linalg.norm(patterns[0]), rel=1e-4)
    assert (Weak().bounded(found, 1 / 4) == found).all()


def test_a_sparse_pattern_is_the_nearest_one_with_a_bounded_sum_of_lengths() -> None:
    pattern = np.random.default_rng(1).normal(size=(1, 2, 3, 2))
    most = 0.3 * 6
    bounded = Sparse().bounded(pattern.astype(np.float32), 0.3)

    def lengths(flat: NDArray[np.float64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = np.sqrt((flat.reshape(6, 2) ** 2).sum(axis=1) + 1e-14)
        return found

    oracle = minimize(
        lambda flat: ((flat - pattern.ravel()) ** 2).sum(),
        pattern.ravel() * 0.1,
        constraints={"type": "ineq", "fun": lambda flat: most - lengths(flat).sum()},
        options={"maxiter": 500, "ftol": 1e-12},
    )
    assert bounded.ravel() == pytest.approx(oracle.x, abs=2e-3)
    assert (lengths(bounded.astype(np.float64)) < 1e-6).any()  # some pixels are not changed at all


def test_a_sparse_pattern_within_the_bound_is_left_alone() -> None:
    pattern = np.zeros((1, 4, 4, 1), np.float32)
    pattern[0, 1, 2] = 1
    assert (Sparse().bounded(pattern, 1 / 8) == pattern).all()
    assert Sparse().bound((4, 4, 1), 1 / 16) == 1
