"""Arrays on their way into compiled kernels."""

from __future__ import annotations

import numpy as np

from defences.compiled import compiled_for


def test_an_array_that_a_kernel_takes_is_passed_on_as_it_is() -> None:
    rows = np.zeros((3, 4), np.float32)
    assert compiled_for(rows) is rows
    assert compiled_for(rows[1:]).base is rows


def test_any_other_becomes_one_with_the_same_numbers() -> None:
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    frozen = rows.copy()
    frozen.flags.writeable = False
    for given in (rows.astype(np.float64), rows.T, rows[:, ::2], frozen):
        made = compiled_for(given)
        np.testing.assert_array_equal(made, given)
        assert made.dtype == np.float32
        assert made.flags.carray
