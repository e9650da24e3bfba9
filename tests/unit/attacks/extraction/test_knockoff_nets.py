"""Knockoff Nets: random queries are those of CopycatCNN; adaptive ones avoid groups that do not pay, and never repeat an image."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from attacks.extraction.copycat_cnn import CopycatCNN
from attacks.extraction.knockoff_nets import KnockoffNets
from attacks.extraction.thief import THIEVES
from models.classifier import Images, Probabilities
from models.engines.keras import KerasClassifier
from models.errors import InvalidInput
from tests.fakes import FakeClassifier, linear, squares
from tests.students import QUICK, small

POOL = squares(400, seed=1)
SHAPE = (16, 16, 3)
ADAPTIVE = KnockoffNets(queries=160, strategy="adaptive", round_size=20, recipe=QUICK, build=small)


def certain_of_blue(images: Images) -> Probabilities:
    """Refuses red squares, wavers on green ones, is sure of blue ones."""
    answers = np.array([[0, 0, 0], [0.32, 0.36, 0.32], [0.01, 0.01, 0.98]], np.float32)
    chosen: Probabilities = answers[images.max(axis=(1, 2)).argmax(axis=1)]
    return chosen


def test_the_random_strategy_makes_the_queries_of_copycat(keras_model: Any) -> None:
    victim = KerasClassifier(keras_model)
    knockoff = KnockoffNets(queries=30, recipe=QUICK, build=small)(victim, POOL.images, seed=2)
    copycat = CopycatCNN(queries=30, thief=THIEVES["probabilities"], recipe=QUICK, build=small)(victim, POOL.images, seed=2)
    np.testing.assert_array_equal(knockoff.transfer.rows, copycat.transfer.rows)
    np.testing.assert_array_equal(knockoff.clone.model.get_weights()[0], copycat.clone.model.get_weights()[0])


def test_the_adaptive_strategy_asks_more_of_the_group_that_pays() -> None:
    victim = FakeClassifier(certain_of_blue, SHAPE, 3)
    theft = replace(ADAPTIVE, rewards=("certainty",))(victim, POOL.images, POOL.labels, seed=0)
    red, _, blue = np.bincount(POOL.labels[theft.transfer.rows], minlength=3)
    assert sum(victim.calls) == theft.queries == 160
    assert len(set(theft.transfer.rows)) == 160
    assert blue > 2 * red
    assert theft.refused == red


def test_a_loss_reward_prefers_groups_that_the_copy_gets_wrong() -> None:
    rng = np.random.default_rng(0)

    def answer(images: Images) -> Probabilities:
        coins = rng.integers(1, 3, len(images))
        return np.eye(3, dtype=np.float32)[np.where(images.max(axis=(1, 2)).argmax(axis=1) == 0, 0, coins)]

    theft = replace(ADAPTIVE, rewards=("loss",))(FakeClassifier(answer, SHAPE, 3), POOL.images, POOL.labels, seed=0)
    late = np.bincount(POOL.labels[theft.transfer.rows[80:]], minlength=3)
    assert late[0] < late[1:].min(), "red squares are learned soon, the others never"


def test_all_rewards_together_make_a_copy_that_agrees_and_the_same_one_again(keras_model: Any) -> None:
    victim, test = KerasClassifier(keras_model), squares(200, seed=2)
    first, again = (ADAPTIVE(victim, POOL.images, POOL.labels, seed=1) for _ in range(2))
    np.testing.assert_array_equal(first.transfer.rows, again.transfer.rows)
    np.testing.assert_array_equal(first.clone.model.get_weights()[0], again.clone.model.get_weights()[0])
    assert (first.clone.predict(test.images).argmax(axis=1) == victim.predict(test.images).argmax(axis=1)).mean() > 0.9


def test_a_whole_pool_is_asked_when_the_budget_is_its_size() -> None:
    some = POOL.take(slice(0, 50))
    theft = replace(ADAPTIVE, queries=50, rewards=("diversity",))(linear(SHAPE, 3), some.images, some.labels)
    assert sorted(theft.transfer.rows) == list(range(50))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"strategy": "greedy"}, "expected a strategy of random, adaptive, got 'greedy'"),
        ({"rewards": ("profit",)}, "expected rewards of certainty, diversity, loss, got profit"),
        ({"rewards": ()}, "got none"),
        ({"rate": 0.0}, "expected rate > 0"),
        ({"round_size": 0}, "round_size >= 1"),
    ],
)
def test_parameters_nobody_can_use_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        KnockoffNets(**wrong)


def test_adaptive_needs_groups_and_a_thief_that_asks_once() -> None:
    victim = linear(SHAPE, 3)
    with pytest.raises(InvalidInput, match=r"expected a group for each of the 400 images of the pool.*got none"):
        ADAPTIVE(victim, POOL.images)
    with pytest.raises(InvalidInput, match=r"got \[3\]"):
        ADAPTIVE(victim, POOL.images, POOL.labels[:3])
    with pytest.raises(InvalidInput, match="expected a thief that asks once"):
        replace(ADAPTIVE, thief=THIEVES["averaged"])(victim, POOL.images, POOL.labels)
