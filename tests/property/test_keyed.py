"""Laws of keyed randomness."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from defences.keyed import image_keys, keyed_permutations
from models.classifier import Images
from tests.property.strategies import images, keys_for


@given(data=st.data(), n=st.integers(1, 20), size=st.integers(1, 130))
def test_keyed_permutations_are_permutations(data: st.DataObject, n: int, size: int) -> None:
    orders = keyed_permutations(data.draw(keys_for(n)), size)
    assert orders.shape == (n, size)
    assert orders.dtype == np.int32
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(size), (n, 1)))


@given(key=st.integers(0, 2**64 - 1), n=st.integers(1, 5))
def test_a_permutation_depends_on_its_own_key_alone(key: int, n: int) -> None:
    keys = np.arange(n, dtype=np.uint64)
    keys[-1] = key
    alone = keyed_permutations(np.array([key], np.uint64), 50)
    np.testing.assert_array_equal(keyed_permutations(keys, 50)[-1:], alone)


@given(pictures=images(), secret=st.binary(max_size=64))
def test_images_that_round_to_the_same_picture_share_their_key(pictures: Images, secret: bytes) -> None:
    rounded = (np.rint(pictures * 255) / 255).astype(np.float32)
    np.testing.assert_array_equal(image_keys(pictures, secret), image_keys(rounded, secret))


@given(pictures=images(most=3), secret=st.binary(max_size=64))
def test_one_step_of_one_pixel_changes_the_key(pictures: Images, secret: bytes) -> None:
    stepped = pictures.copy()
    first = stepped[:, 0, 0, 0]
    stepped[:, 0, 0, 0] = np.where(first < 0.5, first + 2 / 255, first - 2 / 255)
    assert (image_keys(stepped, secret) != image_keys(pictures, secret)).all()
