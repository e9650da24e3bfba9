"""Reverse sigmoid against the published formula, and against ART where the argmax guard does not act."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest

from defences.postprocessors.reverse_sigmoid import ReverseSigmoid
from models.classifier import Probabilities
from tests.fakes import softmax

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # ART remarks on the frameworks that are not installed
    from art.defences.postprocessor import ReverseSigmoid as Peer


def perturbation(y: float, beta: float, gamma: float) -> float:
    y = min(max(y, 1e-9), 1 - 1e-9)
    return beta * (1 / (1 + math.exp(-gamma * math.log(y / (1 - y)))) - 0.5)


def published(row: list[float], beta: float, gamma: float) -> list[float]:
    """Lee et al. 2018, section 4, in plain Python."""
    clipped = [min(max(y - perturbation(y, beta, gamma), 0.0), 1.0) for y in row]
    return [y / sum(clipped) for y in clipped]


def leads_kept(row: list[float], beta: float, gamma: float) -> list[float]:
    """Which share of its lead over each other class the winner keeps, before clipping and normalising."""
    top = max(row)
    moved = top - perturbation(top, beta, gamma)
    return [(moved - (y - perturbation(y, beta, gamma))) / (top - y) for y in row if y < top]


def rows(n: int, classes: int) -> Probabilities:
    """Rows from nearly flat to nearly one-hot."""
    rng = np.random.default_rng(classes)
    return softmax(rng.normal(size=(n, classes)) * rng.uniform(0.1, 12, (n, 1)))


def exact(y: Probabilities) -> Any:
    """The distributions that float32 rounded."""
    return y.astype(np.float64) / y.sum(axis=1, dtype=np.float64, keepdims=True)


PARAMETERS = [(1.0, 0.1), (1.0, 0.2), (0.5, 0.3), (0.1, 1.0)]


@pytest.mark.parametrize(("beta", "gamma"), PARAMETERS)
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_rows_the_guard_leaves_alone_are_those_of_the_published_formula(classes: int, beta: float, gamma: float) -> None:
    y = rows(400, classes)
    obscured, guarded = ReverseSigmoid(beta=beta, gamma=gamma).obscure(y)
    assert not guarded.all()
    expected = np.array([published(row.tolist(), beta, gamma) for row in exact(y)])
    np.testing.assert_allclose(obscured[~guarded], expected[~guarded], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("beta", "gamma"), PARAMETERS)
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_the_guard_acts_where_the_formula_takes_more_than_19_twentieths_of_a_lead(
    classes: int, beta: float, gamma: float
) -> None:
    y = rows(400, classes)
    _, guarded = ReverseSigmoid(beta=beta, gamma=gamma).obscure(y)
    kept = np.array([min(leads_kept(row.tolist(), beta, gamma)) for row in exact(y)])
    clear = np.abs(kept - 0.05) > 1e-6
    np.testing.assert_array_equal(guarded[clear], kept[clear] < 0.05)


@pytest.mark.parametrize(("beta", "gamma"), PARAMETERS)
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_multi_class_rows_agree_with_art(classes: int, beta: float, gamma: float) -> None:
    y = rows(400, classes)
    obscured, guarded = ReverseSigmoid(beta=beta, gamma=gamma).obscure(y)
    theirs = Peer(beta=beta, gamma=gamma)(exact(y))
    np.testing.assert_allclose(obscured[~guarded], theirs[~guarded], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("beta", "gamma"), PARAMETERS)
def test_binary_columns_agree_with_art(beta: float, gamma: float) -> None:
    y = np.concatenate([np.linspace(0, 1, 301), [1e-7, 1 - 1e-7]]).astype(np.float32)[:, None]
    obscured, guarded = ReverseSigmoid(beta=beta, gamma=gamma).obscure(y)
    theirs = Peer(beta=beta, gamma=gamma)(y.astype(np.float64))
    assert (~guarded).sum() > 100
    np.testing.assert_allclose(obscured[~guarded], theirs[~guarded], rtol=0, atol=1e-6)


def test_the_row_on_which_the_published_formula_changes_the_label_keeps_it() -> None:
    y = np.array([[0.35, 0.33, 0.32, 0.0]], np.float32)
    assert np.argmax(published(y[0].astype(float).tolist(), 1.0, 0.1)) == 3  # the class of probability zero wins
    assert np.argmax(Peer(beta=1.0, gamma=0.1)(y.astype(np.float64))) == 3
    obscured, guarded = ReverseSigmoid(beta=1.0, gamma=0.1).obscure(y)
    assert guarded.tolist() == [True]
    assert obscured.argmax() == 0
    assert np.abs(obscured - y).max() > 0.01  # blurred all the same


@pytest.mark.parametrize(("gamma", "safe"), [(0.1, 0.376), (0.2, 0.481)])
def test_a_top_probability_above_the_stated_bound_needs_no_guard_to_win(gamma: float, safe: float) -> None:
    y = rows(5000, 10)
    _, guarded = ReverseSigmoid(gamma=gamma).obscure(y)
    lost = np.array([np.argmax(published(row.astype(float).tolist(), 1.0, gamma)) for row in y]) != y.argmax(axis=1)
    assert lost.any()
    assert y.max(axis=1)[lost].max() < safe
    assert guarded[lost].all()


def test_with_a_thousand_classes_the_winner_keeps_more_than_the_published_beta_would_leave_it() -> None:
    y = np.full((1, 1000), 0.05 / 999, np.float32)
    y[0, 0] = 0.95
    assert published(y[0].astype(float).tolist(), 1.0, 0.1)[0] < 0.01
    assert ReverseSigmoid()(y)[0, 0] > 0.3
