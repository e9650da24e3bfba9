"""The calibration error against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.tables.benign import calibration_error


def rows(confidence: float, n: int) -> np.ndarray:
    return np.tile(np.array([confidence, 1 - confidence], np.float32), (n, 1))


def test_a_classifier_that_is_as_often_right_as_it_is_sure_is_calibrated() -> None:
    labels = np.array([0] * 8 + [1] * 2)
    assert calibration_error(rows(0.8, 10), labels) == pytest.approx(0, abs=1e-6)


def test_the_error_is_the_gap_weighted_by_how_many_are_in_it() -> None:
    probabilities = np.concatenate([rows(0.9, 10), rows(0.6, 30)])
    labels = np.array([0] * 5 + [1] * 5 + [0] * 30)
    # |.5 - .9| of a quarter and |1 - .6| of three quarters
    assert calibration_error(probabilities, labels) == pytest.approx(0.4, abs=1e-6)


def test_no_answers_have_no_error() -> None:
    assert calibration_error(np.empty((0, 3), np.float32), np.empty(0, np.int64)) == 0


def test_certainty_falls_into_the_last_bin() -> None:
    assert calibration_error(np.array([[1.0, 0.0]], np.float32), np.array([0])) == 0
