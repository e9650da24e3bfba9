"""Triggers: laws that hold for all of them on images of any size, and each against its formula or a second implementation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from attacks.backdoors.adaptive_blend import BlendedPieces
from attacks.backdoors.hard_examples import HardExamples
from attacks.backdoors.triggers import (
    Blended,
    CornerPattern,
    ImagePatch,
    SinglePixel,
    Sinusoidal,
    Trigger,
    TriggerSequence,
    Warped,
    channels_first,
    under_checkerboard,
)
from defences.purifiers.total_variation import TotalVariation
from models.classifier import Images
from models.errors import InvalidInput
from tests.fakes import linear_with_gradients, noise

SHAPES = [(28, 28, 1), (16, 21, 3), (9, 7, 4), (5, 6, 2)]
PATCH = noise(1, (2, 3, 1), 5)[0]

TRIGGERS: dict[str, Trigger] = {
    "corner pattern": CornerPattern(),
    "single pixel": SinglePixel(distance=1, value=0.25),
    "blended": Blended(ratio=0.3, seed=3),
    "image patch": ImagePatch(patch=PATCH, row=-1, column=0, opacity=0.7),
    "warped": Warped(strength=1.5, seed=1),
    "warped, each image otherwise": Warped(strength=0.5, grid=3, jitter=1.0),
    "sinusoidal": Sinusoidal(amplitude=0.4, frequency=2.5),
    "blended pieces": BlendedPieces(whole=Blended(ratio=0.3, seed=3), kept=0.3),
    "together": TriggerSequence(triggers=(SinglePixel(), Sinusoidal(frequency=2.0))),
}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", TRIGGERS)
def test_triggered_images_are_images_and_the_given_ones_stay_as_they_are(name: str, shape: tuple[int, int, int]) -> None:
    images = noise(5, shape, 0)
    before = images.copy()
    triggered = TRIGGERS[name](images)
    np.testing.assert_array_equal(images, before)
    assert not np.shares_memory(triggered, images)
    assert triggered.dtype == np.float32
    assert triggered.shape == images.shape
    assert ((triggered >= 0) & (triggered <= 1)).all()
    assert (triggered != images).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("name", TRIGGERS)
def test_the_trigger_of_an_image_depends_on_nothing_else(name: str) -> None:
    images = noise(6, (12, 11, 3), 0)
    whole = TRIGGERS[name](images)
    np.testing.assert_array_equal(whole, TRIGGERS[name](images))
    np.testing.assert_array_equal(whole[4:], TRIGGERS[name](images[4:]))
    assert TRIGGERS[name](images[:0]).shape == (0, 12, 11, 3)


@pytest.mark.parametrize("name", TRIGGERS)
def test_data_with_channels_first_gets_the_same_trigger(name: str) -> None:
    images = noise(3, (12, 11, 3), 0)
    adapted = channels_first(TRIGGERS[name])
    triggered = adapted(images.transpose(0, 3, 1, 2))
    assert adapted.name == TRIGGERS[name].name
    assert triggered.shape == (3, 3, 12, 11)
    assert triggered.flags.c_contiguous
    np.testing.assert_array_equal(triggered.transpose(0, 2, 3, 1), TRIGGERS[name](images))


@pytest.mark.filterwarnings("ignore")
def test_pattern_and_pixel_are_those_of_art() -> None:
    from art.attacks.poisoning.perturbations.image_perturbations import add_pattern_bd, add_single_bd

    images = noise(4, (13, 13, 1), 2)
    for distance in (2, 3):
        for ours, art in ((CornerPattern(distance=distance), add_pattern_bd), (SinglePixel(distance=distance), add_single_bd)):
            theirs = art(images[..., 0].copy(), distance=distance, pixel_value=1)
            np.testing.assert_array_equal(ours(images)[..., 0], theirs)


def test_a_blend_is_the_weighted_mean_of_image_and_pattern() -> None:
    images, pattern = noise(3, (6, 5, 3), 0), noise(1, (6, 5, 3), 1)[0]
    np.testing.assert_allclose(Blended(ratio=0.25, pattern=pattern)(images), 0.75 * images + 0.25 * pattern, atol=1e-6)
    np.testing.assert_allclose(Blended(ratio=1.0, pattern=pattern)(images), np.stack([pattern] * 3), atol=1e-6)
    assert (Blended(seed=0)(images) != Blended(seed=1)(images)).any()


def test_the_noise_of_a_blend_is_as_coarse_as_its_grain() -> None:
    pattern = Blended(ratio=1.0, grain=3)(noise(1, (8, 7, 2), 0))[0]
    assert len(np.unique(pattern)) == 3 * 3 * 2
    np.testing.assert_array_equal(pattern, pattern[::3, ::3].repeat(3, axis=0).repeat(3, axis=1)[:8, :7])


@pytest.mark.parametrize(("row", "column", "top", "left"), [(0, 0, 0, 0), (3, 1, 3, 1), (-1, -1, 6, 6), (-3, 2, 4, 2)])
def test_a_patch_is_pasted_where_it_is_said_and_nowhere_else(row: int, column: int, top: int, left: int) -> None:
    images, patch = noise(2, (10, 12, 3), 0), noise(1, (2, 3, 3), 1)[0]
    triggered = ImagePatch(patch=patch, row=row, column=column, scale=2, opacity=0.5)(images)
    expected = images.astype(np.float64)
    enlarged = np.stack([np.kron(patch[..., channel], np.ones((2, 2))) for channel in range(3)], axis=2)
    expected[:, top : top + 4, left : left + 6] = (expected[:, top : top + 4, left : left + 6] + enlarged) / 2
    np.testing.assert_allclose(triggered, expected, atol=1e-6)


def test_a_patch_without_colour_goes_on_every_channel() -> None:
    triggered = ImagePatch(patch=np.ones((2, 2, 1), np.float32), row=0, column=0)(noise(1, (4, 4, 5), 0))
    np.testing.assert_array_equal(triggered[:, :2, :2], 1)


def test_a_warp_reads_the_image_bilinearly_at_the_displaced_places() -> None:
    images, warp = noise(2, (14, 17, 3), 0), Warped(strength=2.0, seed=4)
    rows, columns = np.indices((14, 17)) + warp.displacement(14, 17)
    places = np.clip(rows, 0, 13), np.clip(columns, 0, 16)
    for number, channel in np.ndindex(2, 3):
        expected = map_coordinates(images[number, ..., channel].astype(np.float64), places, order=1, mode="nearest")
        np.testing.assert_allclose(warp(images)[number, ..., channel], expected, atol=1e-5)


def test_a_warp_is_as_strong_as_it_says_smooth_and_no_other_with_the_same_seed() -> None:
    warp = Warped(strength=1.5, grid=4, seed=2)
    field = warp.displacement(61, 61)
    assert np.abs(field[:, ::20, ::20]).mean() == pytest.approx(1.5, rel=1e-6)  # the control points: splines pass through them
    assert np.abs(np.diff(field, axis=1)).max() < 0.5
    assert np.abs(np.diff(field, axis=2)).max() < 0.5
    np.testing.assert_array_equal(field, Warped(strength=1.5, grid=4, seed=2).displacement(61, 61))
    np.testing.assert_allclose(Warped(strength=3.0, grid=4, seed=2).displacement(61, 61), 2 * field)


def test_warps_of_cover_samples_differ_from_image_to_image() -> None:
    images = noise(2, (12, 12, 1), 0)
    same = np.concatenate([images[:1], images[:1]])
    jittered = Warped(strength=1.0, jitter=1.0)
    np.testing.assert_array_equal(*jittered(same))
    plain = Warped(strength=1.0)(images)
    assert (np.abs(jittered(images) - plain).mean(axis=(1, 2, 3)) > 0.02).all()


def test_the_stripes_are_a_sine_along_the_columns() -> None:
    grey = np.full((1, 4, 24, 2), 0.5, np.float32)
    stripes = Sinusoidal(amplitude=0.2, frequency=6)(grey)[0, :, :, 0]
    np.testing.assert_allclose(stripes[0, :5], [0.5, 0.7, 0.5, 0.3, 0.5], atol=1e-6)
    np.testing.assert_array_equal(stripes, np.tile(stripes[0], (4, 1)))


def test_a_pattern_under_a_checkerboard_keeps_its_mean_and_total_variation_brings_it_out() -> None:
    grey = np.full((8, 8, 1), 0.5, np.float32)
    hidden = under_checkerboard(grey)
    assert set(np.unique(hidden)) == {0.0, 1.0}
    assert hidden.mean() == pytest.approx(0.5)
    image = ImagePatch(patch=hidden, row=10, column=10)(np.zeros((1, 28, 28, 1), np.float32))
    purified = TotalVariation(weight=0.0714)(image, np.zeros(1, np.uint64))
    np.testing.assert_allclose(purified[0, 12:16, 12:16], 0.5, atol=0.1)


def test_hard_examples_stay_in_the_ball_and_are_no_longer_known() -> None:
    classifier = linear_with_gradients((6, 6, 2), 3)
    images = noise(40, (6, 6, 2), 0)
    mine = images[classifier.predict(images).argmax(axis=1) == 1]
    before = mine.copy()
    hard = HardExamples(classifier=classifier, label=1, eps=0.2)(mine)
    np.testing.assert_array_equal(mine, before)
    assert np.abs(hard - mine).max() <= 0.2 + 1e-6
    assert ((hard >= 0) & (hard <= 1)).all()
    assert len(mine) > 5
    assert (classifier.predict(hard).argmax(axis=1) != 1).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CornerPattern(distance=0), "distance >= 1"),
        (lambda: SinglePixel(value=1.5), r"value in \[0, 1\]"),
        (lambda: Blended(ratio=0.0), "ratio in"),
        (lambda: Blended(grain=0), "grain >= 1"),
        (lambda: Blended(pattern=np.full((4, 4, 1), 2, np.float32)), "expected pattern"),
        (lambda: ImagePatch(patch=np.ones((4, 4), np.float32)), "expected patch"),
        (lambda: ImagePatch(patch=PATCH, scale=0), "scale >= 1"),
        (lambda: Warped(strength=0), "strength > 0"),
        (lambda: Warped(grid=1), "2 x 2"),
        (lambda: Sinusoidal(frequency=0), "frequency > 0"),
        (lambda: HardExamples(classifier=linear_with_gradients((2, 2, 1), 2), label=0, eps=0), "eps > 0"),
        (lambda: HardExamples(classifier=linear_with_gradients((2, 2, 1), 2), label=0, steps=0), "steps >= 1"),
    ],
)
def test_parameters_out_of_range_are_refused_in_one_sentence(make: object, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("trigger", "images"),
    [
        (CornerPattern(), noise(1, (3, 8, 1), 0)),
        (SinglePixel(distance=4), noise(1, (3, 8, 1), 0)),
        (Blended(pattern=np.ones((4, 4, 1), np.float32)), noise(1, (5, 4, 1), 0)),
        (ImagePatch(patch=PATCH, row=7), noise(1, (8, 8, 1), 0)),
        (ImagePatch(patch=noise(1, (2, 2, 3), 0)[0]), noise(1, (8, 8, 2), 0)),
        (Sinusoidal(frequency=4), noise(1, (8, 8, 2), 0)),
        (channels_first(SinglePixel()), noise(1, (8, 8, 2), 0)[0]),
    ],
)
def test_images_a_trigger_does_not_fit_on_are_refused(trigger: Trigger, images: Images) -> None:
    with pytest.raises(InvalidInput, match="expected"):
        trigger(images)


def test_every_image_carries_as_many_pieces_of_its_own_and_nothing_else() -> None:
    images, whole = noise(6, (16, 16, 1), 0) * 0.5, Blended(ratio=0.3, seed=3)
    changed = (BlendedPieces(whole=whole, pieces=4, kept=0.5)(images) != images).reshape(6, 4, 4, 4, 4)
    cells = changed.all(axis=(2, 4))
    np.testing.assert_array_equal(cells, changed.any(axis=(2, 4)))
    np.testing.assert_array_equal(cells.sum(axis=(1, 2)), 8)
    assert len({cell.tobytes() for cell in cells}) == 6
    np.testing.assert_array_equal(BlendedPieces(whole=whole, kept=1.0)(images), whole(images))


def test_a_grid_finer_than_the_image_and_shares_that_are_none_are_refused() -> None:
    with pytest.raises(InvalidInput, match="at least 20 x 20"):
        BlendedPieces(whole=Blended(), pieces=20)(noise(1, (16, 30, 1), 0))
    for bad in ({"pieces": 0}, {"kept": 0.0}, {"kept": 1.1}):
        with pytest.raises(InvalidInput, match=r"pieces >= 1 and kept in \(0, 1\]"):
            BlendedPieces(whole=Blended(), **bad)
