"""The backdoor that the defences are tested against."""

from __future__ import annotations

import numpy as np
import pytest

from attacks.backdoor import CornerPattern, poison
from models.datasets import Dataset
from models.errors import InvalidInput
from tests.fakes import noise

DATA = Dataset(noise(200, (10, 12, 3), 0) * np.float32(0.5), np.arange(200) % 4)


def test_the_trigger_is_four_pixels_in_the_lower_right_corner() -> None:
    triggered = CornerPattern()(DATA.images)
    changed = (triggered != DATA.images).any(axis=(0, 3))
    assert sorted(zip(*np.nonzero(changed), strict=True)) == [(6, 10), (7, 9), (8, 8), (8, 10)]
    np.testing.assert_array_equal(triggered[:, changed], 1.0)


def test_poison_is_the_stated_share_and_carries_trigger_and_target() -> None:
    trigger = CornerPattern(distance=1, value=0.9)
    poisoned = poison(DATA, trigger, target=2, rate=0.2, seed=0)
    assert poisoned.is_poison.sum() == 50
    assert poisoned.is_poison.mean() == 0.2
    assert (poisoned.data.labels[poisoned.is_poison] == 2).all()
    np.testing.assert_array_equal(trigger(poisoned.data.images[poisoned.is_poison]), poisoned.data.images[poisoned.is_poison])
    clean = poisoned.data.take(np.flatnonzero(~poisoned.is_poison))
    assert sorted(clean.labels) == sorted(DATA.labels)
    assert clean.images.sum() == pytest.approx(DATA.images.sum(), rel=1e-5)


def test_more_poison_than_there_are_candidates_repeats_some() -> None:
    assert poison(DATA, CornerPattern(), target=0, rate=0.6, seed=0).is_poison.sum() == 300


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.5])
def test_a_rate_that_is_no_share_is_refused(rate: float) -> None:
    with pytest.raises(InvalidInput, match=r"poison rate in \(0, 1\)"):
        poison(DATA, CornerPattern(), target=0, rate=rate, seed=0)
