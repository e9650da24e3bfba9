"""Keyed randomness: what a key depends on."""

from __future__ import annotations

import numpy as np
import pytest

from defences.keyed import image_keys, keyed_permutations
from tests.fakes import noise


def test_the_secret_changes_every_key() -> None:
    images = noise(50, (4, 4, 1), 0)
    assert (image_keys(images, b"one") != image_keys(images, b"two")).all()
    assert (image_keys(images, b"one") != image_keys(images, b"")).all()


def test_different_images_have_different_keys_and_equal_ones_the_same() -> None:
    images = noise(200, (4, 4, 1), 0)
    keys = image_keys(np.concatenate([images, images[:3]]), b"secret")
    assert len(set(keys[:200].tolist())) == 200
    assert keys[200:].tolist() == keys[:3].tolist()


def test_no_images_have_no_keys() -> None:
    keys = image_keys(np.empty((0, 4, 4, 1), np.float32), b"secret")
    assert keys.shape == (0,)
    assert keys.dtype == np.uint64


def test_a_secret_longer_than_keyed_blake2b_takes_is_an_error() -> None:
    with pytest.raises(ValueError, match="64"):
        image_keys(noise(1, (2, 2, 1), 0), bytes(65))


def test_an_order_of_one_or_of_no_keys_is_possible() -> None:
    assert keyed_permutations(np.array([3], np.uint64), 1).tolist() == [[0]]
    assert keyed_permutations(np.empty(0, np.uint64), 5).shape == (0, 5)
