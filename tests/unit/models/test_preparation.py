"""Preparations: the numbers, order and type that a model is given, and what a bundle says about them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from models.errors import InvalidInput
from models.preparation import PRESETS, Preparation

RNG = np.random.default_rng(0)
COLOUR = RNG.random((5, 4, 6, 3), np.float32)
GREY = RNG.random((5, 4, 6, 1), np.float32)


def test_the_usual_preparation_changes_nothing() -> None:
    assert np.array_equal(Preparation().apply(COLOUR), COLOUR)
    assert Preparation() == Preparation.of_range(0, 1) == Preparation.from_settings({})


def test_a_range_says_what_black_and_white_are() -> None:
    black_and_white = np.array([0, 1], np.float32).reshape(2, 1, 1, 1)
    assert Preparation.of_range(-1, 3).apply(black_and_white).ravel().tolist() == [-1, 3]
    assert Preparation.of_range(1, 0).apply(black_and_white).ravel().tolist() == [1, 0]


@pytest.mark.parametrize("mode", sorted(PRESETS))
def test_the_presets_are_those_of_keras(keras_model: Any, mode: str) -> None:
    from keras.applications.imagenet_utils import preprocess_input

    expected = preprocess_input(COLOUR * 255, data_format="channels_last", mode=mode)
    np.testing.assert_allclose(PRESETS[mode].apply(COLOUR), expected, atol=2e-5)


def test_statistics_are_those_of_the_images_channels_whatever_their_order_at_the_model() -> None:
    mean, std = np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.6, 0.7])
    prepared = Preparation.of_statistics(tuple(mean), tuple(std), channels="bgr").apply(COLOUR)
    np.testing.assert_allclose(prepared, ((COLOUR - mean) / std)[..., [2, 1, 0]], rtol=1e-5, atol=1e-6)


def test_channels_first_moves_the_channels_and_leaves_the_picture() -> None:
    prepared = Preparation(layout="nchw", channels="bgr").apply(COLOUR)
    assert prepared.shape == (5, 3, 4, 6) == (5, *Preparation(layout="nchw").shape((4, 6, 3)))
    assert np.array_equal(prepared[:, 0], COLOUR[..., 2])
    assert prepared.flags.c_contiguous


def test_a_model_without_channels_or_with_flat_input_gets_its_own_shape() -> None:
    assert np.array_equal(Preparation(layout="nchw").apply(GREY, shape=(4, 6)), GREY[..., 0])
    flat = Preparation(layout="nchw").apply(COLOUR, shape=(72,))
    assert np.array_equal(flat, np.moveaxis(COLOUR, -1, 1).reshape(5, 72))


def test_bytes_come_back_as_the_bytes_they_were() -> None:
    pictures = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    prepared = Preparation.of_range(0, 255, dtype="uint8").apply(pictures.astype(np.float32) / np.float32(255))
    assert prepared.dtype == np.uint8
    assert np.array_equal(prepared, pictures)


@pytest.mark.parametrize(
    "preparation",
    [
        Preparation(),
        Preparation.of_range(-1, 1, layout="nchw"),
        Preparation.of_range(0, 255, dtype="uint8"),
        Preparation.of_range(1, 0),
        Preparation.of_statistics(0.1307, 0.3081),
        Preparation.of_statistics((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), layout="nchw", channels="bgr"),
        Preparation.of_statistics((0.1, 0.2, 0.3), 0.5),
        Preparation.of_statistics(0.5, (0.1, 0.2, 0.3)),
        *PRESETS.values(),
    ],
    ids=str,
)
def test_a_bundle_says_all_of_it(preparation: Preparation) -> None:
    again = Preparation.from_settings(preparation.settings())
    images = GREY if len(preparation.scale) == 1 else COLOUR
    np.testing.assert_allclose(again.scale, preparation.scale, rtol=1e-12)
    np.testing.assert_allclose(again.offset, preparation.offset, rtol=1e-12)
    assert again.apply(images).dtype == preparation.apply(images).dtype
    np.testing.assert_allclose(again.apply(images), preparation.apply(images), rtol=1e-6, atol=1e-6)
    assert (again.layout, again.channels) == (preparation.layout, preparation.channels)
    assert Preparation.from_settings(again.settings()).settings() == again.settings()


def test_a_bundle_says_what_the_user_said() -> None:
    declared = Preparation.of_statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), layout="nchw").settings()
    assert declared == {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "layout": "nchw"}
    assert Preparation.of_range(0, 255).settings() == {"input_range": [0.0, 255.0]}


def test_an_old_bundle_reads_as_it_did() -> None:
    settings = {"file": "model.keras", "outputs": "logits", "input_range": [-1.0, 1.0], "mean": None, "layout": None}
    assert Preparation.from_settings(settings) == Preparation.of_range(-1, 1)


WRONG: dict[str, tuple[Any, str]] = {
    "a scale of 0": (lambda: Preparation.of_range(1, 1), "expected finite scales other than 0"),
    "infinity": (lambda: Preparation.of_range(0, float("inf")), "expected finite scales"),
    "NaN": (lambda: Preparation(offset=(float("nan"),)), "expected finite scales"),
    "no deviation": (lambda: Preparation.of_statistics(0.5, (0.5, 0, 0.5)), "expected positive standard deviations"),
    "two and three": (lambda: Preparation.of_statistics((0.5, 0.4), (0.5, 0.4, 0.3)), "expected as many means as deviations"),
    "another layout": (lambda: Preparation(layout="nwhc"), "expected layout nhwc or nchw"),  # type: ignore[arg-type]
    "bytes below 0": (lambda: Preparation.of_range(-1, 1, dtype="uint8"), r"expected values within 0\.\.255"),
    "range and mean": (
        lambda: Preparation.from_settings({"input_range": [0, 1], "mean": [0.5], "std": [0.5]}),
        "expected an input range, or a mean",
    ),
    "mean alone": (lambda: Preparation.from_settings({"mean": [0.5]}), "expected an input range, or a mean"),
    "three for one": (lambda: PRESETS["torch"].apply(GREY), "one for each of 1 channels, got 3"),
    "BGR of grey": (lambda: Preparation(channels="bgr").apply(GREY), "expected images of 3 channels"),
}


@pytest.mark.parametrize(("made", "message"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_is_refused(made: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        made()
