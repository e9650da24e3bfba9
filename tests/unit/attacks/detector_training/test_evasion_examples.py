"""Examples of attacks and of harmless changes: their size, their number, their seed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from attacks.detector_training.evasion_examples import KINDS, Kinds, adversarial_examples, harmless_examples, noise_examples
from models.datasets import Dataset
from models.errors import InvalidInput
from tests.fakes import linear_with_gradients, noise

SHAPE = (14, 10, 3)
EPS = 0.1
CLASSIFIER = linear_with_gradients(SHAPE, 4)
IMAGES = noise(30, SHAPE, 0)
DATA = Dataset(IMAGES, CLASSIFIER.predict(IMAGES).argmax(axis=1))


def every_kind(seed: int = 0) -> Kinds:
    attacks = adversarial_examples(CLASSIFIER, DATA, eps=EPS, seed=seed)
    return attacks | noise_examples(IMAGES, eps=EPS, seed=seed) | harmless_examples(IMAGES, seed=seed)


def test_every_kind_is_images_as_many_as_there_were_and_the_count_is_right() -> None:
    kinds, before = every_kind(), IMAGES.copy()
    assert len(kinds) + 1 == KINDS
    for name, images in kinds.items():
        assert images.shape == IMAGES.shape, name
        assert images.dtype == np.float32, name
        assert images.min() >= 0, name
        assert images.max() <= 1, name
        assert not np.array_equal(images, IMAGES), name
    np.testing.assert_array_equal(before, IMAGES)


def test_the_same_seed_gives_the_same_examples_and_another_other_noise() -> None:
    first, second, third = every_kind(3), every_kind(3), every_kind(4)
    for name, images in first.items():
        np.testing.assert_array_equal(images, second[name])
    assert not np.array_equal(first["sign noise"], third["sign noise"])


def test_attacks_and_noise_stay_in_the_ball_and_noise_of_the_same_l2_has_it() -> None:
    attacks, noises = adversarial_examples(CLASSIFIER, DATA, eps=EPS), noise_examples(np.full_like(IMAGES, 0.5), eps=EPS)
    for name, images in attacks.items():
        assert np.abs(images - IMAGES).max() <= EPS + 1e-6, name
    for name in ("sign noise", "uniform noise", "Gaussian noise"):
        assert np.abs(noises[name] - 0.5).max() == pytest.approx(EPS, rel=0.05), name
        assert np.abs(noises[f"{name}, weaker"] - 0.5).max() <= EPS + 1e-6
    lengths = np.sqrt(((noises["Gaussian noise, same L2"] - 0.5) ** 2).sum(axis=(1, 2, 3)))
    np.testing.assert_allclose(lengths, EPS * math.sqrt(np.prod(SHAPE)), rtol=1e-3)


def test_attacks_win_where_they_can_and_those_to_the_end_go_further_than_those_that_stop() -> None:
    attacks = adversarial_examples(CLASSIFIER, DATA, eps=EPS)
    won = {name: (CLASSIFIER.predict(images).argmax(axis=1) != DATA.labels).mean() for name, images in attacks.items()}
    assert won["projected_gradient_descent 0.1"] > 0.8
    to_the_end, stopped = (
        np.abs(attacks[f"projected_gradient_descent 0.1{end}"] - IMAGES).mean() for end in ("", ", first success")
    )
    assert to_the_end > 1.2 * stopped


@pytest.mark.parametrize("eps", [0.0, -0.1, math.nan, math.inf])
def test_an_eps_that_is_no_size_is_refused(eps: Any) -> None:
    with pytest.raises(InvalidInput, match="evasion examples: expected eps > 0"):
        adversarial_examples(CLASSIFIER, DATA, eps=eps)
    with pytest.raises(InvalidInput, match="noise examples: expected eps > 0"):
        noise_examples(IMAGES, eps=eps)


def test_of_no_images_there_are_no_examples() -> None:
    assert all(not len(images) for images in harmless_examples(IMAGES[:0]).values())
    assert all(not len(images) for images in noise_examples(IMAGES[:0], eps=EPS).values())
