"""The attacker who bounds the margins of a backdoor's target."""

from __future__ import annotations

import numpy as np
import pytest

from attacks.backdoors.bounded_margin import with_bounded_margin
from attacks.backdoors.kinds import Backdoor
from attacks.backdoors.poisoning import AllToOne
from attacks.backdoors.triggers import CornerPattern
from models.datasets import Dataset
from models.errors import InvalidInput

PLAIN = Backdoor(trigger=CornerPattern(), labels=AllToOne(2), rate=0.14)


def test_the_share_of_triggered_images_with_the_targets_label_is_the_confidence() -> None:
    data = Dataset(np.zeros((900, 8, 8, 1), np.float32), np.arange(900) % 3)
    made = with_bounded_margin(PLAIN, 0.7).poison(data, seed=0)
    triggered = made.is_poison | made.is_cover
    assert (made.data.images[triggered].max(axis=(1, 2, 3)) == 1).all()
    assert (made.data.images[~triggered] == 0).all()
    assert made.is_poison.sum() / triggered.sum() == pytest.approx(0.7, abs=0.01)
    assert (made.data.labels[made.is_poison] == 2).all()
    assert (made.data.labels[made.is_cover] == data.labels[made.origin[made.is_cover]]).all()


@pytest.mark.parametrize("confidence", [0.5, 1.0, float("nan")])
def test_a_confidence_that_leaves_the_trigger_without_effect_or_the_margin_without_bound_is_refused(confidence: float) -> None:
    with pytest.raises(InvalidInput, match="confidence in"):
        with_bounded_margin(PLAIN, confidence)


def test_a_backdoor_with_covers_of_its_own_is_refused() -> None:
    with pytest.raises(InvalidInput, match="without cover samples"):
        with_bounded_margin(with_bounded_margin(PLAIN, 0.7), 0.7)


def test_rates_that_leave_no_clean_image_are_refused() -> None:
    with pytest.raises(InvalidInput, match="below 1"):
        with_bounded_margin(Backdoor(trigger=CornerPattern(), labels=AllToOne(2), rate=0.6), 0.6)
