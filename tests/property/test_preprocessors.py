"""Laws of everything that changes images on the way in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from defences.purifiers.total_variation import TotalVariation
from models.classifier import Images
from tests.property.strategies import MASKED, PREPROCESSORS, cut, images, keys_for, seeds, shuffled

TOLERANCE = 2e-6


@pytest.mark.parametrize("name", PREPROCESSORS)
@given(data=st.data(), pictures=images())
def test_images_come_back_in_their_shape_type_and_range(name: str, data: st.DataObject, pictures: Images) -> None:
    purified = PREPROCESSORS[name](pictures, data.draw(keys_for(len(pictures))))
    assert purified.shape == pictures.shape
    assert purified.dtype == np.float32
    assert purified.flags.writeable
    assert purified.min() >= 0
    assert purified.max() <= 1


@pytest.mark.parametrize("name", PREPROCESSORS)
@given(data=st.data(), pictures=images())
def test_the_given_images_stay_as_they_are(name: str, data: st.DataObject, pictures: Images) -> None:
    writable = pictures.copy()
    purified = PREPROCESSORS[name](writable, data.draw(keys_for(len(pictures))))
    assert not np.shares_memory(purified, writable)
    np.testing.assert_array_equal(writable, pictures)


@pytest.mark.parametrize("name", PREPROCESSORS)
@given(data=st.data(), pictures=images())
def test_what_an_image_gets_does_not_depend_on_its_batch_mates(name: str, data: st.DataObject, pictures: Images) -> None:
    purify, keys = PREPROCESSORS[name], data.draw(keys_for(len(pictures)))
    together = purify(pictures, keys)
    at = data.draw(cut(len(pictures)))
    apart = np.concatenate([purify(pictures[:at], keys[:at]), purify(pictures[at:], keys[at:])])
    np.testing.assert_allclose(apart, together, rtol=0, atol=TOLERANCE)
    order = shuffled(len(pictures), data.draw(seeds))
    np.testing.assert_allclose(purify(pictures[order], keys[order]), together[order], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", PREPROCESSORS)
@given(data=st.data(), pictures=images())
def test_the_same_keys_give_the_same_images(name: str, data: st.DataObject, pictures: Images) -> None:
    keys = data.draw(keys_for(len(pictures)))
    np.testing.assert_array_equal(PREPROCESSORS[name](pictures, keys), PREPROCESSORS[name](pictures.copy(), keys.copy()))


@given(pictures=images((5, 7, 3), most=60), threads=st.integers(2, 3), keep=st.sampled_from([0.5, 1.0]))
def test_the_number_of_threads_does_not_change_the_images(pictures: Images, threads: int, keep: float) -> None:
    one = TotalVariation(weight=0.1, keep_probability=keep)
    keys = np.arange(len(pictures), dtype=np.uint64)
    several = replace(one, threads=threads)(pictures, keys)
    np.testing.assert_allclose(several, one(pictures, keys), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", MASKED)
@given(data=st.data())
def test_another_key_gives_another_mask(name: str, data: st.DataObject) -> None:
    purify = MASKED[name]
    assert isinstance(purify, TotalVariation)
    first, second = data.draw(st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=2, unique=True))
    masks = purify.masks((2, 8, 8, 3), np.array([first, second], np.uint64))
    planes = masks.transpose(0, 3, 1, 2).reshape(6, -1)
    assert len({plane.tobytes() for plane in planes}) == 6  # the channels of an image have their own as well


@pytest.mark.parametrize("name", PREPROCESSORS)
@given(data=st.data(), pictures=images((4, 4, 1)))
def test_an_empty_batch_comes_back_empty(name: str, data: st.DataObject, pictures: Images) -> None:
    assert PREPROCESSORS[name](pictures[:0], np.empty(0, np.uint64)).shape == (0, 4, 4, 1)


@given(pictures=images((1, 1, 3)), weight=st.floats(0.01, 10))
def test_a_single_pixel_has_no_variation_to_lose(pictures: Images, weight: float) -> None:
    purified = TotalVariation(weight=weight)(pictures, np.zeros(len(pictures), np.uint64))
    np.testing.assert_array_equal(purified, pictures)
