"""Each thief of the table: targets are distributions, predicted classes are kept, and known perturbations are inverted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from attacks.extraction.look_up import look_up
from attacks.extraction.thief import THIEVES, Thief, as_answered, inverted, one_hot, sharpened, smoothed
from defences.postprocessors.reverse_sigmoid import ReverseSigmoid
from models.classifier import Probabilities
from models.errors import InvalidInput
from tests.fakes import softmax


def rows(n: int, classes: int, seed: int = 0) -> Probabilities:
    """Rows of a confident classifier."""
    rng = np.random.default_rng(seed)
    return softmax(rng.normal(size=(n, classes)) * rng.uniform(1, 12, (n, 1)))


@pytest.mark.parametrize("name", THIEVES)
@pytest.mark.parametrize("classes", [2, 3, 12])
def test_targets_are_distributions_with_the_answered_winner(name: str, classes: int) -> None:
    answers = rows(150, classes)
    before = answers.copy()
    targets = THIEVES[name].learn(answers, lambda: rows(150, classes, seed=1))
    np.testing.assert_array_equal(answers, before)
    assert targets.dtype == np.float32
    assert targets.shape == answers.shape
    assert (targets >= 0).all()
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-5)
    winners = targets[np.arange(150), answers.argmax(axis=1)]
    assert (winners >= targets.max(axis=1) - 1e-6).all()


@pytest.mark.parametrize("name", [name for name, thief in THIEVES.items() if thief.answers == "labels"])
def test_a_thief_of_labels_learns_nothing_from_probabilities(name: str) -> None:
    answers = rows(50, 5)
    thief = THIEVES[name]
    np.testing.assert_array_equal(thief.learn(answers, lambda: answers), thief.learn(one_hot(answers), lambda: answers))


def test_sharpening_and_smoothing_are_their_formulas() -> None:
    answers = np.array([[0.5, 0.3, 0.2]], np.float32)
    sharp = Thief(name="s", targets=sharpened(0.5)).learn(answers, lambda: answers)
    np.testing.assert_allclose(sharp, [[0.25 / 0.38, 0.09 / 0.38, 0.04 / 0.38]], rtol=1e-5)
    smooth = Thief(name="s", targets=smoothed(0.2), answers="labels").learn(answers, lambda: answers)
    np.testing.assert_allclose(smooth, [[0.8, 0.1, 0.1]], rtol=1e-5)
    top = THIEVES["top-1"].learn(answers, lambda: answers)
    np.testing.assert_allclose(top, [[0.5, 0.25, 0.25]], rtol=1e-5)


@pytest.mark.parametrize("defence", [ReverseSigmoid(), ReverseSigmoid(beta=0.7, gamma=0.3)])
def test_a_look_up_from_true_pairs_recovers_the_hidden_probabilities_without_the_formula(defence: ReverseSigmoid) -> None:
    y = softmax(np.random.default_rng(0).normal(size=(2000, 6)) * 3 + 12 * np.eye(6)[np.arange(2000) % 6])
    answers = defence(y)
    found = look_up(answers, y)
    hidden, undone = np.abs(answers - y).max(axis=1), np.abs(found - y).max(axis=1)
    assert hidden.mean() > 0.2
    assert undone.mean() < hidden.mean() / 20


def test_a_look_up_of_rows_too_few_for_each_class_shares_one_map() -> None:
    y = rows(12, 4)
    found = look_up(ReverseSigmoid()(y), y)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-9)


def test_the_guess_is_made_only_for_thieves_that_need_one() -> None:
    def fails() -> Probabilities:
        raise AssertionError("the guess was made")

    for name in set(THIEVES) - {"looked up"}:
        THIEVES[name].learn(rows(5, 3), fails)
    with pytest.raises(AssertionError, match="the guess was made"):
        THIEVES["looked up"].learn(rows(5, 3), fails)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"answers": "logits"}, "expected answers of probabilities, labels, got 'logits'"),
        ({"asks": 0}, "expected asks >= 1 and shift >= 0"),
        ({"shift": -1}, "expected asks >= 1 and shift >= 0"),
    ],
)
def test_a_thief_nobody_can_be_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        Thief(name="x", targets=as_answered, **wrong)
    with pytest.raises(InvalidInput, match="temperature"):
        sharpened(0.0)
    with pytest.raises(InvalidInput, match="share"):
        smoothed(1.0)


def test_parameters_the_defence_refuses_are_refused_of_an_inverting_thief() -> None:
    with pytest.raises(InvalidInput, match="beta"):
        inverted(beta=2.0, gamma=0.1)
    with pytest.raises(InvalidInput, match="gamma"):
        inverted(beta=1.0, gamma=0.0)
