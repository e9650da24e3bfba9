"""Images of one request that are the same are found, and no others."""

from __future__ import annotations

import numpy as np
import pytest

from service import distinct as module
from service.distinct import distinct


@pytest.mark.parametrize("seed", range(8))
def test_each_image_is_answered_as_the_first_that_equals_it_byte_for_byte(seed: int) -> None:
    rng = np.random.default_rng(seed)
    some = rng.integers(0, 2, (6, 2, 3, 1)).astype(np.float32) * np.float32(0.5)
    images = some[rng.integers(0, 6, 40)]
    kept, which = distinct(images)
    assert which is not None
    assert (kept[which] == images).all()
    assert len(kept) == len({image.tobytes() for image in images})


def test_images_that_all_differ_are_left_alone() -> None:
    images = np.random.default_rng(0).random((64, 4, 4, 1), np.float32)
    kept, which = distinct(images)
    assert kept is images
    assert which is None
    assert distinct(images[:1])[1] is None


def test_a_zero_and_its_negative_are_two_images_whatever_their_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.zeros((3, 2, 2, 1), np.float32)
    images[1, 0, 0, 0] = -0.0
    monkeypatch.setattr(module, "_weights", lambda length: np.zeros(length, np.uint64))  # every sum is the same
    kept, which = distinct(images)
    assert len(kept) == 2
    assert which is not None
    assert which.tolist() == [0, 1, 0]


def test_images_in_another_memory_order_are_compared_by_their_numbers() -> None:
    images = np.asfortranarray(np.repeat(np.random.default_rng(0).random((1, 3, 4, 1), np.float32), 3, axis=0))
    kept, which = distinct(images)
    assert (len(kept), which is not None) == (1, True)
