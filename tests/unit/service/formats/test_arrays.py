"""Arrays of numbers become images, or are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from service.errors import Problem
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
