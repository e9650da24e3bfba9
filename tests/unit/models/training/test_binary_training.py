"""Training a binary network: reproducible, balanced, on inputs of any scale."""

from __future__ import annotations

import numpy as np
import pytest

from models.errors import InvalidInput
from models.training.binary_training import train_binary_network
from tests.fakes import noise

SHAPE = (10, 8, 3)


def test_the_same_seed_gives_the_same_network_and_another_another() -> None:
    no, yes = noise(60, SHAPE, 1), noise(60, SHAPE, 2) ** 2
    first, second, third = (train_binary_network([no], [yes], seed=seed, epochs=2).weights for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, third)


def test_a_kind_of_few_samples_weighs_as_much_as_one_of_many() -> None:
    rng = np.random.default_rng(0)
    many, few = rng.normal(0, 1, (400, 4)).astype(np.float32), rng.normal(6, 1, (30, 4)).astype(np.float32)
    network = train_binary_network([many, few], [rng.normal(3, 1, (400, 4)).astype(np.float32)], epochs=20)
    assert (network.logits(few) < 0).mean() > 0.8
    assert (network.logits(many) < 0).mean() > 0.8


def test_a_component_that_never_varies_does_no_harm() -> None:
    rng = np.random.default_rng(0)
    no, yes = (np.concatenate([rng.normal(at, 1, (200, 3)), np.full((200, 1), 7.0)], axis=1) for at in (0, 3))
    network = train_binary_network([no.astype(np.float32)], [yes.astype(np.float32)], epochs=10)
    assert (network.logits(yes.astype(np.float32)) > 0).mean() > 0.9


def test_progress_is_told_and_samples_are_left_as_they_are() -> None:
    no, yes, told = noise(20, SHAPE, 1), noise(20, SHAPE, 2), []
    before = no.copy()
    train_binary_network([no], [yes], epochs=3, on_epoch=lambda done, of: told.append((done, of)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    np.testing.assert_array_equal(no, before)


def test_one_side_without_samples_is_refused() -> None:
    with pytest.raises(InvalidInput, match="expected samples of both kinds, got 5 and 0"):
        train_binary_network([noise(5, SHAPE, 1)], [noise(0, SHAPE, 1)])
