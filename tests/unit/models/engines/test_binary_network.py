"""Binary networks: layouts and weights that fit no network are refused."""

from __future__ import annotations

import doctest
from typing import Any

import numpy as np
import pytest

import models.engines.binary_network
from models.engines.binary_network import BinaryNetwork, default_layout, layer_sizes, layer_weights
from models.errors import InvalidInput
from tests.property.strategies import random_weights

LAYOUT = default_layout((9, 9, 2))
WEIGHTS = random_weights(LAYOUT)
GIVEN: dict[str, Any] = {"weights": WEIGHTS, "layout": LAYOUT, "input_shape": (9, 9, 2)}
NAN = np.full_like(WEIGHTS, np.nan)

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a layout of other columns": ({"layout": LAYOUT[:, :4]}, r"layout of positive whole numbers \[layers, 5\]"),
    "a layout of nothing": ({"layout": LAYOUT[:0]}, "layout of positive whole numbers"),
    "a layout of fractions": ({"layout": LAYOUT + 0.5}, "layout of positive whole numbers"),
    "a stride of nothing": ({"layout": LAYOUT * [1, 1, 0, 1, 1]}, "layout of positive whole numbers"),
    "images of another shape": ({"input_shape": (9, 9, 1)}, "expected a layer for 9 x 9 x 1 numbers, got one of 5 x 5 x 2"),
    "images too small": ({"input_shape": (4, 9, 2)}, "expected a layer for 4 x 9 x 2 numbers"),
    "an end in many numbers": ({"layout": LAYOUT[:1]}, "ends in one number, got"),
    "too few weights": ({"weights": WEIGHTS[:-1]}, f"expected {len(WEIGHTS)} finite float32 weights"),
    "weights of another type": ({"weights": WEIGHTS.astype(np.float64)}, "finite float32 weights, got float64"),
    "weights that are none": ({"weights": NAN}, "finite float32 weights"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_network_is_refused(name: str) -> None:
    changes, sentence = REFUSED[name]
    with pytest.raises(InvalidInput, match=sentence):
        BinaryNetwork(**GIVEN | changes)


def test_inputs_may_be_images_or_rows_and_nothing_else() -> None:
    network = BinaryNetwork(weights=WEIGHTS, layout=LAYOUT, input_shape=(9, 9, 2))
    images = np.random.default_rng(0).random((3, 9, 9, 2), dtype=np.float32)
    np.testing.assert_array_equal(network.logits(images), network.logits(images.reshape(3, -1)))
    assert network.logits(images[:0]).shape == (0,)
    with pytest.raises(InvalidInput, match=r"expected inputs \[n, 9, 9, 2\], got \[3, 9, 9\]"):
        network.logits(images[..., 0])


def test_the_examples_in_docstrings_are_true() -> None:
    results = doctest.testmod(models.engines.binary_network)
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 50, 1), (12, 12, 3), (224, 224, 3), (1, 1, 4096)])
def test_every_shape_has_a_layout_that_ends_in_one_number(shape: tuple[int, int, int]) -> None:
    layout = default_layout(shape)
    assert tuple(layer_sizes(shape, layout)[-1]) == (1, 1, 1)
    assert layer_weights(layout).sum() < 300_000
