"""Total variation: parameters, masks, and what is compiled when."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from defences import keyed
from defences.detectors import strip
from defences.errors import InvalidParameter
from defences.keyed import image_keys
from defences.postprocessors import reverse_sigmoid
from defences.postprocessors.reverse_sigmoid import ReverseSigmoid
from defences.purifiers import total_variation_kernel
from defences.purifiers.total_variation import TotalVariation
from hauberk.compile import compile_kernels
from models.datasets import Dataset
from tests.fakes import noise


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"weight": 0.0}, "expected weight > 0, got 0.0; use mode off"),
        ({"weight": -0.1}, "expected weight > 0"),
        ({"weight": np.nan}, "expected weight > 0"),
        ({"weight": np.inf}, "expected weight > 0"),
        ({"keep_probability": 0.0}, r"expected keep_probability in \(0, 1\]"),
        ({"keep_probability": 1.1}, r"expected keep_probability in \(0, 1\]"),
        ({"keep_probability": np.nan}, r"expected keep_probability in \(0, 1\]"),
        ({"norm": 3}, 'expected norm 1, 2 or "isotropic", got 3'),
        ({"norm": "anisotropic"}, "expected norm"),
        ({"iterations": 0}, "expected whole iterations >= 1, got 0"),
        ({"iterations": 1.5}, "expected whole iterations >= 1, got 1.5"),
        ({"threads": 0}, "expected threads >= 1"),
    ],
)
def test_parameters_out_of_their_domain_are_refused(parameters: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidParameter, match=f"total_variation: {sentence}"):
        TotalVariation(**({"weight": 0.1} | parameters))


def test_noise_is_taken_off_and_edges_stay() -> None:
    clean = np.full((1, 16, 16, 1), 0.2, np.float32)
    clean[:, 4:12, 4:12] = 0.8
    noisy = (clean + np.random.default_rng(0).normal(0, 0.05, clean.shape)).astype(np.float32)
    purified = TotalVariation(weight=0.05)(noisy, np.zeros(1, np.uint64))
    for region in (clean == 0.2, clean == 0.8):
        assert purified[region].std() < 0.5 * noisy[region].std()
    assert purified[0, 8, 4:12, 0].min() - purified[0, 8, [3, 12], 0].max() > 0.4


def test_a_greater_weight_smooths_more(digits: Dataset) -> None:
    few = digits.images[:50]
    keys = image_keys(few, b"")
    variations = [np.abs(np.diff(TotalVariation(weight=w)(few, keys), axis=1)).sum() for w in (0.01, 0.05, 0.1, 0.5)]
    assert variations == sorted(variations, reverse=True)
    assert variations[0] > 1.5 * variations[-1]


def test_channels_do_not_see_each_other() -> None:
    colour = noise(2, (9, 6, 3), 0)
    purify, keys = TotalVariation(weight=0.1), np.zeros(2, np.uint64)
    for channel in range(3):
        alone = purify(colour[..., channel : channel + 1], keys)
        np.testing.assert_allclose(purify(colour, keys)[..., channel : channel + 1], alone, atol=1e-6)


def test_free_pixels_are_filled_from_their_neighbours() -> None:
    flat = np.full((1, 12, 12, 1), 0.25, np.float32)
    purify = TotalVariation(weight=0.05, keep_probability=0.7, iterations=300)
    keys = np.array([5], np.uint64)
    free = purify.masks(flat.shape, keys) == 0
    speckled = np.where(free, 1.0, flat).astype(np.float32)
    assert free.sum() > 20
    np.testing.assert_allclose(purify(speckled, keys), flat, atol=0.02)


def test_masks_are_whole_when_every_pixel_is_kept() -> None:
    np.testing.assert_array_equal(TotalVariation(weight=0.1).masks((2, 3, 4, 1), np.arange(2, dtype=np.uint64)), 1.0)


def test_nothing_served_is_compiled_after_the_kernels_were_compiled_ahead() -> None:
    compile_kernels()
    compiled = (
        total_variation_kernel.minimise,
        total_variation_kernel.keyed_masks,
        keyed.keyed_permutations,
        strip._superimpose,
        strip._probe,
        strip._judge,
        reverse_sigmoid._obscure,
    )
    before = [len(function.signatures) for function in compiled]
    for shape in ((8, 8, 1), (5, 7, 3)):
        images = noise(130, shape, 0)
        images.setflags(write=False)  # as arrays are that were read off the wire
        keys = image_keys(images, b"secret")
        for purify in (TotalVariation(weight=0.1, threads=2), TotalVariation(weight=0.1, keep_probability=0.5, norm=2)):
            purify(images, keys)
            purify.masks(images.shape, keys)
        overlays = np.zeros((4, *shape), np.uint8)
        detector = strip.Strip(overlays=overlays, threshold=0.0, stages=(2, 4), slack=(0.1, 0.0))
        session = detector.begin(images, keys)
        outputs = np.full((len(session.probe()), 3), 1 / 3, np.float32)
        outputs.setflags(write=False)
        session.decide(outputs, outputs)
        detector.superimpose(images, detector.orders(keys))
        for columns in (1, 3):
            ReverseSigmoid()(outputs[:, :columns])
    assert [len(function.signatures) for function in compiled] == before == [1] * len(compiled)
