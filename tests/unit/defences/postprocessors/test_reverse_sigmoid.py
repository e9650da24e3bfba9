"""Reverse sigmoid: parameters, the guard, and rows it must not touch."""

from __future__ import annotations

import numpy as np
import pytest

from defences.errors import InvalidParameter
from defences.postprocessors.reverse_sigmoid import ReverseSigmoid


@pytest.mark.parametrize("beta", [0.0, -1.0, 1.01, np.nan, np.inf])
def test_a_beta_out_of_its_domain_is_refused(beta: float) -> None:
    with pytest.raises(InvalidParameter, match=r"reverse_sigmoid: expected beta in \(0, 1\], got"):
        ReverseSigmoid(beta=beta)


@pytest.mark.parametrize("gamma", [0.0, -0.1, np.nan, np.inf])
def test_a_gamma_out_of_its_domain_is_refused(gamma: float) -> None:
    with pytest.raises(InvalidParameter, match="reverse_sigmoid: expected gamma > 0, got"):
        ReverseSigmoid(gamma=gamma)


def test_a_confident_answer_is_blurred_and_rows_the_guard_saved_are_reported() -> None:
    rows = np.array([[0.98, 0.01, 0.01], [0.35, 0.33, 0.32], [0.0, 0.0, 0.0]], np.float32)
    obscured, guarded = ReverseSigmoid(gamma=0.2).obscure(rows)
    assert guarded.tolist() == [False, False, False]
    assert obscured[0, 0] < 0.7
    four = np.array([[0.35, 0.33, 0.32, 0.0]], np.float32)
    assert ReverseSigmoid().obscure(four)[1].tolist() == [True]


def test_a_lead_that_float32_cannot_hold_after_blurring_goes_out_as_it_came_in() -> None:
    half = np.float32(0.5)
    rows = np.array([[np.nextafter(half, np.float32(0)), half]], np.float32)
    obscured, guarded = ReverseSigmoid(gamma=1.0).obscure(rows)
    assert obscured.argmax() == 1
    assert guarded.tolist() == [True]


def test_a_last_digit_that_differs_from_batch_to_batch_changes_nothing() -> None:
    top = [np.float32(1), np.nextafter(np.float32(1), np.float32(0)), np.float32(1 - 2e-7)]
    rows = np.array([[one, 3e-9, 1e-7, 4e-12] for one in top], np.float32)
    obscured = ReverseSigmoid()(rows)
    np.testing.assert_allclose(obscured, obscured[:1].repeat(3, axis=0), rtol=0, atol=1e-6)


def test_an_empty_batch_comes_back_empty() -> None:
    assert ReverseSigmoid()(np.empty((0, 10), np.float32)).shape == (0, 10)
    assert ReverseSigmoid()(np.empty((0, 1), np.float32)).shape == (0, 1)


def test_a_greater_beta_blurs_more() -> None:
    row = np.array([[0.9, 0.06, 0.04]], np.float32)
    tops = [float(ReverseSigmoid(beta=beta)(row)[0, 0]) for beta in (0.1, 0.4, 0.7, 1.0)]
    assert tops == sorted(tops, reverse=True)
    assert tops[0] < 0.9


def test_very_small_probabilities_of_a_binary_column_are_not_rounded_away() -> None:
    tiny = ReverseSigmoid()(np.array([[1e-8], [1e-3]], np.float32))
    assert tiny[0, 0] > tiny[1, 0] > 0  # the further from a half, the more is given back
