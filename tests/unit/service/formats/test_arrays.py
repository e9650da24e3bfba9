"""Arrays of numbers become images, or are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from service.errors import Problem, WrongShape
from service.formats.arrays import Tensors

GREY, COLOUR = Tensors((2, 3, 1), 4), Tensors((2, 2, 3), 4)


@pytest.mark.parametrize("shape", [(1, 2, 3), (4, 2, 3), (1, 2, 3, 1), (4, 2, 3, 1)])
def test_grey_arrays_come_with_or_without_their_channel_axis(shape: tuple[int, ...]) -> None:
    assert GREY.numbers_in(shape) == shape[0] * 6


@pytest.mark.parametrize(
    ("shape", "code"),
    [
        ((), "wrong_shape"),
        ((6,), "wrong_shape"),
        ((2, 3), "wrong_shape"),
        ((1, 3, 2), "wrong_shape"),
        ((1, 2, 3, 3), "wrong_shape"),
        ((1, 2, 3, 1, 1), "wrong_shape"),
        ((2**62, 2**62, 2**62), "wrong_shape"),
        ((0, 2, 3), "no_images"),
        ((-1, 2, 3), "no_images"),
        ((5, 2, 3), "too_many_images"),
        ((2**62, 2, 3), "too_many_images"),
    ],
)
def test_other_shapes_are_refused(shape: tuple[int, ...], code: str) -> None:
    with pytest.raises(Problem) as refusal:
        GREY.numbers_in(shape)
    assert refusal.value.code == code


def test_colour_arrays_need_their_channel_axis() -> None:
    assert COLOUR.numbers_in((2, 2, 2, 3)) == 24
    with pytest.raises(Problem, match="wrong_shape"):
        COLOUR.numbers_in((2, 2, 2))


def test_bytes_become_what_json_would_have_said() -> None:
    tensors = Tensors((16, 16, 1), 1)
    values = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    assert np.array_equal(tensors.images(values).ravel(), (np.arange(256) / 255).astype(np.float32))


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "u1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_images_are_what_the_compiled_stages_were_compiled_for(dtype: str, order: Any) -> None:
    values = np.frombuffer(np.ones((2, 2, 3), dtype).tobytes(), dtype).reshape((2, 2, 3), order=order)
    images = GREY.images(values)
    assert images.shape == (2, 2, 3, 1)
    assert images.dtype == np.float32
    assert images.flags.carray


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1.0000001, -1e-30, 255])
@pytest.mark.parametrize("at", [0, 5, 11])
def test_one_number_out_of_range_is_enough(bad: float, at: int) -> None:
    values = np.full(12, 0.5, np.float32)
    values[at] = bad
    with pytest.raises(Problem, match="out_of_range"):
        GREY.images(values.reshape(2, 2, 3))


@pytest.mark.parametrize("dtype", ["u2", ">i4", "<i8", "u8", "i1"])
def test_whole_numbers_of_other_sizes_are_what_bytes_are(dtype: str) -> None:
    levels = np.arange(0, 120, 10).reshape(2, 2, 3)
    assert np.array_equal(GREY.images(levels.astype(dtype)), GREY.images(levels.astype(np.uint8)))
    assert GREY.images(levels.astype(dtype)).flags.carray


@pytest.mark.parametrize(
    ("dtype", "bad"), [("u2", 256), ("i1", -1), ("<i8", 2**40), ("u8", 2**63), ("<f8", 1 + 1e-15), ("<f8", 1e300)]
)
def test_numbers_of_other_sizes_have_the_same_range_and_are_judged_as_they_came(dtype: str, bad: float) -> None:
    values = np.zeros((2, 2, 3), dtype)
    values[1, 1, 2] = bad
    with pytest.raises(Problem, match="out_of_range"):
        GREY.images(values)


def test_another_shape_is_told_with_what_was_expected_and_what_came() -> None:
    for tensors, shape, said in (
        (GREY, (2, 3), "Expected the shape [n, 2, 3, 1] or [n, 2, 3], got [2, 3]."),
        (COLOUR, (1, 3, 2, 2), "Expected the shape [n, 2, 2, 3], got [1, 3, 2, 2]."),
        (COLOUR, (1,) * 30, "Expected the shape [n, 2, 2, 3], got 30 dimensions."),
    ):
        with pytest.raises(WrongShape) as refusal:
            tensors.numbers_in(shape)
        assert refusal.value.detail == said
