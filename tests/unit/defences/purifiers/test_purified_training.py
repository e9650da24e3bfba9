"""Purified copies for training."""

from __future__ import annotations

import numpy as np

from defences.purifiers.purified_training import with_purified_copies
from models.datasets import Dataset
from tests.fakes import noise

DATA = Dataset(noise(30, (8, 9, 3), 0), np.arange(30) % 4)


def test_every_image_comes_as_it_is_and_purified() -> None:
    doubled = with_purified_copies(DATA, seed=0)
    assert len(doubled) == 60
    assert doubled.images.dtype == np.float32
    np.testing.assert_array_equal(doubled.images[:30], DATA.images)
    np.testing.assert_array_equal(doubled.labels, np.tile(DATA.labels, 2))
    moved = np.abs(doubled.images[30:] - DATA.images).reshape(30, -1).max(axis=1)
    assert (moved > 0.05).all()


def test_strengths_are_drawn_from_the_seed() -> None:
    first, again, other = (with_purified_copies(DATA, seed=seed).images for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    differ = np.abs(first - other)[30:].reshape(30, -1).max(axis=1) > 1e-3
    assert 0 < differ.sum() < 30
