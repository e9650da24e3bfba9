"""Clothes drawn from a seed: the same again, and told apart by what is drawn."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.harness.garments import NAMES, garments
from models.datasets import Dataset


@pytest.fixture(scope="module")
def drawn() -> Dataset:
    return garments(600, seed=0)


def test_a_seed_gives_the_same_pictures_again_and_another_seed_others(drawn: Dataset) -> None:
    again = garments(600, seed=0)
    assert np.array_equal(again.images, drawn.images)
    assert np.array_equal(again.labels, drawn.labels)
    assert not np.array_equal(garments(600, seed=1).images, drawn.images)


def test_they_are_grey_pictures_of_every_kind_on_black(drawn: Dataset) -> None:
    assert drawn.images.shape == (600, 28, 28, 1)
    assert drawn.images.dtype == np.float32
    assert 0 <= drawn.images.min() < drawn.images.max() <= 1
    assert set(drawn.labels.tolist()) == set(range(len(NAMES)))
    assert drawn.images[:, 0, 0].max() < 0.5


def test_kinds_look_unlike(drawn: Dataset) -> None:
    """The mean of a kind in one half is nearest to most pictures of it in the other."""
    half = len(drawn) // 2
    known, asked = drawn.take(slice(0, half)), drawn.take(slice(half, None))
    means = np.stack([known.images[known.labels == label].mean(axis=0) for label in range(len(NAMES))])
    apart = ((asked.images[:, None] - means) ** 2).sum(axis=(2, 3, 4))
    assert (apart.argmin(axis=1) == asked.labels).mean() > 0.5
