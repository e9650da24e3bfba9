"""Laws of everything that changes probabilities on the way out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.classifier import Probabilities
from tests.property.strategies import POSTPROCESSORS, cut, probabilities, seeds


@pytest.mark.parametrize("name", POSTPROCESSORS)
@given(rows=probabilities())
def test_rows_come_back_as_distributions_of_the_same_shape(name: str, rows: Probabilities) -> None:
    obscured = POSTPROCESSORS[name](rows)
    assert obscured.shape == rows.shape
    assert obscured.dtype == np.float32
    assert obscured.min() >= 0
    answered = rows.sum(axis=1) > 0
    np.testing.assert_allclose(obscured[answered].sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("name", POSTPROCESSORS)
@given(rows=probabilities())
def test_the_winner_stays_the_winner(name: str, rows: Probabilities) -> None:
    np.testing.assert_array_equal(POSTPROCESSORS[name](rows).argmax(axis=1), rows.argmax(axis=1))


@pytest.mark.parametrize("name", POSTPROCESSORS)
@given(rows=probabilities())
def test_only_classes_that_tied_with_the_winner_still_do(name: str, rows: Probabilities) -> None:
    obscured = POSTPROCESSORS[name](rows).astype(np.float64)
    clearly_behind = rows < rows.max(axis=1, keepdims=True) - 1e-3
    assert (obscured < obscured.max(axis=1, keepdims=True))[clearly_behind].all()


@pytest.mark.parametrize("name", POSTPROCESSORS)
@given(rows=probabilities())
def test_a_refusal_stays_a_row_of_zeros(name: str, rows: Probabilities) -> None:
    refused = np.concatenate([rows, np.zeros_like(rows)])
    np.testing.assert_array_equal(POSTPROCESSORS[name](refused)[len(rows) :], 0)


@pytest.mark.parametrize("name", POSTPROCESSORS)
@given(positive=st.lists(st.floats(0, 1, width=32).filter(lambda p: abs(p - 0.5) > 1e-6), min_size=1, max_size=20))
def test_a_single_column_stays_on_its_side_of_a_half(name: str, positive: list[float]) -> None:
    column = np.array(positive, np.float32)[:, None]
    obscured = POSTPROCESSORS[name](column)
    assert obscured.shape == column.shape
    assert obscured.dtype == np.float32
    assert ((obscured >= 0) & (obscured <= 1)).all()
    np.testing.assert_array_equal(obscured > 0.5, column > 0.5)


@pytest.mark.parametrize("name", POSTPROCESSORS)
@given(data=st.data(), rows=probabilities())
def test_a_row_does_not_see_the_others(name: str, data: st.DataObject, rows: Probabilities) -> None:
    obscure, at = POSTPROCESSORS[name], data.draw(cut(len(rows)))
    apart = np.concatenate([obscure(rows[:at]), obscure(rows[at:])])
    np.testing.assert_allclose(apart, obscure(rows), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", POSTPROCESSORS)
@given(rows=probabilities())
def test_the_given_rows_stay_as_they_are(name: str, rows: Probabilities) -> None:
    writable = rows.copy()
    obscured = POSTPROCESSORS[name](writable)
    assert not np.shares_memory(obscured, writable)
    np.testing.assert_array_equal(writable, rows)


@pytest.mark.parametrize("name", POSTPROCESSORS)
@given(rows=probabilities(classes=st.integers(2, 12)), seed=seeds)
def test_the_names_of_the_losers_do_not_matter(name: str, rows: Probabilities, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(rows.shape[1])
    single = (rows == rows.max(axis=1, keepdims=True)).sum(axis=1) == 1  # ties go to the first, whose place changes here
    obscure = POSTPROCESSORS[name]
    np.testing.assert_allclose(obscure(rows[single][:, order]), obscure(rows[single])[:, order], rtol=0, atol=1e-5)
