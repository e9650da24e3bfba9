"""Averages over squares, against TensorFlow's pooling, and their adjoint; names of layers."""

from __future__ import annotations

import numpy as np
import pytest

from models.engines.keras import import_tensorflow
from models.engines.reading.layers import FEATURES_AT_MOST, averaged, flattened, position, side_of_squares, spread
from models.errors import InvalidInput

SHAPES = [(28, 28, 3), (7, 5, 2), (9, 1, 4), (6, 6, 1)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("side", [1, 2, 3, 4, 5])
def test_squares_are_those_of_a_pooling_with_the_same_padding(shape: tuple[int, int, int], side: int) -> None:
    tf = import_tensorflow(2)
    maps = np.random.default_rng(side).random((3, *shape), np.float32)
    wanted = tf.nn.avg_pool2d(maps, side, side, "SAME").numpy()
    found = averaged(maps, side)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("side", [2, 3, 5])
def test_spreading_is_the_adjoint_of_averaging(shape: tuple[int, int, int], side: int) -> None:
    rng = np.random.default_rng(side)
    maps = rng.normal(size=(2, *shape)).astype(np.float32)
    squares = averaged(maps, side)
    by = rng.normal(size=squares.shape).astype(np.float32)
    assert float((squares * by).sum()) == pytest.approx(float((maps * spread(by, shape, side)).sum()), rel=1e-3, abs=1e-4)


def test_maps_are_averaged_until_they_are_small_enough_and_vectors_never() -> None:
    assert side_of_squares(32, 32, 8) == 2
    assert side_of_squares(1, 1, 10 * FEATURES_AT_MOST) == 1  # nothing is left to average
    assert flattened(np.zeros((2, 32, 32, 8), np.float16)).shape == (2, 16 * 16 * 8)
    assert flattened(np.zeros((2, 2 * FEATURES_AT_MOST), np.float32)).shape == (2, 2 * FEATURES_AT_MOST)
    assert flattened(np.zeros((0, 32, 32, 8), np.float32)).shape == (0, 2048)


def test_a_layer_is_found_by_its_name_its_last_part_and_its_position() -> None:
    names = ["in/conv", "in/relu", "out/relu", "head"]
    assert [position(names, one) for one in ("in/relu", "conv", "head", 0, -1)] == [1, 0, 3, 0, 3]


@pytest.mark.parametrize(
    ("layer", "said"), [("relu", "in/relu, out/relu"), ("tail", "in/conv"), (4, "from -4 to 3"), (-5, "head")]
)
def test_a_layer_that_is_none_or_several_is_refused(layer: str | int, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        position(["in/conv", "in/relu", "out/relu", "head"], layer)
