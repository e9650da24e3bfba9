"""Laws of STRIP's early exits: an image that all overlays refuse leaves in no more of its orders than was asked for."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from defences.calibration.early_exits import TwoHeights, boundaries, leaves_early, worst_cases

STAGES = (2, 3, 4, 6, 8, 12)
ALPHA = 0.01
LIMITS = st.floats(0.01, 0.6)


def share_that_leaves(
    values: NDArray[np.float64], stages: tuple[int, ...], above: NDArray[np.float64], orders: int = 4000
) -> float:
    """By drawing orders: no part of the code under test."""
    drawn = np.random.default_rng(0).permuted(np.tile(values, (orders, 1)), axis=1)
    early = np.asarray(stages[:-1])
    means = np.cumsum(drawn, axis=1)[:, early - 1] / early
    return float((means > above).any(axis=1).mean())


@given(threshold=LIMITS, spending=st.floats(0.2, 1.5))
def test_no_worst_case_leaves_more_often_than_allowed(threshold: float, spending: float) -> None:
    above = boundaries(threshold, STAGES, ALPHA, spending)
    assert (above >= threshold).all()
    for image in worst_cases(threshold * STAGES[-1], STAGES[-1]):
        assert image.values().mean() <= threshold + 1e-9
        assert leaves_early(image, STAGES, above.tolist()) <= ALPHA + 1e-9


@given(threshold=LIMITS, values=st.lists(st.floats(0, 1), min_size=12, max_size=12), power=st.integers(1, 6))
def test_no_refused_image_leaves_often_whatever_its_values(threshold: float, values: list[float], power: int) -> None:
    image = np.asarray(values) ** power  # few large values, and many small ones
    total = threshold * STAGES[-1]
    if image.sum() > total:
        image *= total / image.sum()
    above = boundaries(threshold, STAGES, ALPHA, 0.5)
    noise = 4 * math.sqrt(ALPHA / 4000)
    assert share_that_leaves(image, STAGES, above) <= ALPHA + noise


@given(threshold=LIMITS, lower=st.floats(0.1, 1.0))
def test_boundaries_hold_for_every_lower_threshold(threshold: float, lower: float) -> None:
    above = boundaries(threshold, STAGES, ALPHA, 0.5)
    for image in worst_cases(lower * threshold * STAGES[-1], STAGES[-1]):
        assert leaves_early(image, STAGES, above.tolist()) <= ALPHA + 1e-9


@given(threshold=LIMITS, alpha=st.floats(1e-4, 0.05))
def test_a_smaller_share_takes_higher_boundaries_at_the_first_stage(threshold: float, alpha: float) -> None:
    strict, loose = (boundaries(threshold, STAGES, share, 0.5)[0] for share in (alpha, 2 * alpha))
    assert strict >= loose


@pytest.mark.parametrize(
    "image", [TwoHeights(6, 2, 2, 0.4), TwoHeights(6, 0, 3, 0.7), TwoHeights(6, 1, 0, 0.0), TwoHeights(6, 0, 6, 0.2)]
)
def test_the_chance_to_leave_is_that_of_counting_all_orders(image: TwoHeights) -> None:
    stages, above = (1, 2, 4, 6), [0.65, 0.5, 0.3]
    orders = list(permutations(image.values()))
    left = sum(any(sum(order[:n]) / n > bound for n, bound in zip(stages, above, strict=False)) for order in orders)
    assert leaves_early(image, stages, above) == pytest.approx(left / len(orders))
