"""Poisoned training data and their ground truth: every trigger with every label map."""

from __future__ import annotations

import numpy as np
import pytest

from attacks.backdoors.kinds import KINDS, backdoors, note
from attacks.backdoors.poisoning import AllToAll, AllToOne, CleanLabel, LabelMap, Poisoned, SourceSpecific, poison
from attacks.backdoors.triggers import CornerPattern, Sinusoidal, Trigger, Warped
from models.datasets import Dataset
from models.errors import InvalidInput
from tests.fakes import linear_with_gradients, noise
from tests.unit.attacks.backdoors.test_triggers import TRIGGERS

DATA = Dataset(noise(200, (10, 12, 3), 0) * np.float32(0.5), np.arange(200) % 4)

LABEL_MAPS: dict[str, LabelMap] = {
    "all to one": AllToOne(2),
    "all to all": AllToAll(4),
    "source-specific": SourceSpecific((1, 3), 2),
    "clean label": CleanLabel(2),
}
POISONED_CLASSES = {"all to one": {0, 1, 3}, "all to all": {0, 1, 2, 3}, "source-specific": {1, 3}, "clean label": {2}}
ATTACKED_CLASSES = POISONED_CLASSES | {"clean label": {0, 1, 3}}


def test_the_trigger_is_four_pixels_in_the_lower_right_corner() -> None:
    triggered = CornerPattern()(DATA.images)
    changed = (triggered != DATA.images).any(axis=(0, 3))
    assert sorted(zip(*np.nonzero(changed), strict=True)) == [(6, 10), (7, 9), (8, 8), (8, 10)]
    np.testing.assert_array_equal(triggered[:, changed], 1.0)


def test_poison_is_the_stated_share_and_carries_trigger_and_target() -> None:
    trigger = CornerPattern(distance=1, value=0.9)
    poisoned = poison(DATA, trigger, AllToOne(2), rate=0.2, seed=0)
    assert poisoned.is_poison.sum() == 50
    assert poisoned.is_poison.mean() == 0.2
    assert (poisoned.data.labels[poisoned.is_poison] == 2).all()
    np.testing.assert_array_equal(trigger(poisoned.data.images[poisoned.is_poison]), poisoned.data.images[poisoned.is_poison])
    clean = poisoned.data.take(np.flatnonzero(~poisoned.is_poison))
    assert sorted(clean.labels) == sorted(DATA.labels)
    assert clean.images.sum() == pytest.approx(DATA.images.sum(), rel=1e-5)


def _check_truth(poisoned: Poisoned, trigger: Trigger, cover: Trigger) -> None:
    """Every sample is what the truth says it is."""
    data, origin = poisoned.data, poisoned.origin
    assert len(data.images) == len(data.labels) == len(origin) == len(poisoned.is_poison) == len(poisoned.is_cover)
    assert not (poisoned.is_poison & poisoned.is_cover).any()
    clean = poisoned.is_clean
    np.testing.assert_array_equal(data.images[clean], DATA.images[origin[clean]])
    np.testing.assert_array_equal(data.images[poisoned.is_poison], trigger(DATA.images[origin[poisoned.is_poison]]))
    np.testing.assert_array_equal(data.images[poisoned.is_cover], cover(DATA.images[origin[poisoned.is_cover]]))
    np.testing.assert_array_equal(data.labels[~poisoned.is_poison], DATA.labels[origin[~poisoned.is_poison]])


@pytest.mark.parametrize("in_place", [False, True], ids=["copies", "in place"])
@pytest.mark.parametrize("name", LABEL_MAPS)
@pytest.mark.parametrize("trigger", TRIGGERS)
def test_the_truth_about_poisoned_data_is_true(trigger: str, name: str, in_place: bool) -> None:
    before, labels = DATA.images.copy(), DATA.labels.copy()
    put, other, called = TRIGGERS[trigger], Warped(jitter=1.0), LABEL_MAPS[name]
    poisoned = poison(DATA, put, called, rate=0.1, cover_rate=0.05, cover_trigger=other, in_place=in_place, seed=3)
    np.testing.assert_array_equal(DATA.images, before)
    np.testing.assert_array_equal(DATA.labels, labels)
    _check_truth(poisoned, put, other)
    size = len(poisoned.data)
    assert poisoned.is_poison.sum() == round(0.1 * size)
    assert poisoned.is_cover.sum() == round(0.05 * size)
    assert len(set(poisoned.origin[poisoned.is_clean])) == poisoned.is_clean.sum() == (170 if in_place else 200)
    if in_place:
        assert sorted(poisoned.origin) == list(range(200))
    true = DATA.labels[poisoned.origin[poisoned.is_poison]]
    assert set(true) == POISONED_CLASSES[name]
    np.testing.assert_array_equal(poisoned.data.labels[poisoned.is_poison], called.called(true))


@pytest.mark.parametrize("name", LABEL_MAPS)
def test_the_attacker_attacks_images_that_get_another_label(name: str) -> None:
    attacked = LABEL_MAPS[name].attacks(DATA.labels)
    assert set(DATA.labels[attacked]) == ATTACKED_CLASSES[name]
    assert (LABEL_MAPS[name].called(DATA.labels[attacked]) != DATA.labels[attacked]).all()


def test_the_labels_called_are_the_target_or_the_next_class() -> None:
    labels = np.array([0, 1, 2, 3])
    np.testing.assert_array_equal(AllToAll(4).called(labels), [1, 2, 3, 0])
    for one in (AllToOne(2), SourceSpecific((1,), 2), CleanLabel(2)):
        np.testing.assert_array_equal(one.called(labels), 2)


def test_clean_labels_are_all_true() -> None:
    poisoned = poison(DATA, Sinusoidal(frequency=3.0), CleanLabel(1), rate=0.1, seed=0)
    np.testing.assert_array_equal(poisoned.data.labels, DATA.labels[poisoned.origin])
    assert set(poisoned.data.labels[poisoned.is_poison]) == {1}


def test_cover_samples_of_a_source_specific_trigger_carry_it_and_are_of_neither_source_nor_target() -> None:
    poisoned = poison(DATA, CornerPattern(), SourceSpecific((1,), 2), rate=0.1, cover_rate=0.2, seed=0)
    _check_truth(poisoned, CornerPattern(), CornerPattern())
    assert set(poisoned.data.labels[poisoned.is_cover]) == {0, 3}


def test_the_same_seed_poisons_the_same_and_another_others() -> None:
    first, second, other = (poison(DATA, CornerPattern(), AllToOne(2), rate=0.1, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.data.images, second.data.images)
    np.testing.assert_array_equal(first.origin, second.origin)
    assert (first.origin != other.origin).any()


def test_more_poison_than_there_are_candidates_repeats_some() -> None:
    assert poison(DATA, CornerPattern(), AllToOne(0), rate=0.6, seed=0).is_poison.sum() == 300


def test_more_poison_in_place_than_there_are_candidates_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"at least 60 images that may be poison in place, got 50"):
        poison(DATA, CornerPattern(), CleanLabel(1), rate=0.3, in_place=True, seed=0)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.5])
def test_a_rate_that_is_no_share_is_refused(rate: float) -> None:
    with pytest.raises(InvalidInput, match=r"poison rate in \(0, 1\)"):
        poison(DATA, CornerPattern(), AllToOne(0), rate=rate, seed=0)


@pytest.mark.parametrize("cover_rate", [-0.1, 0.8, np.nan])
def test_rates_that_leave_nothing_clean_are_refused(cover_rate: float) -> None:
    with pytest.raises(InvalidInput, match="cover rate"):
        poison(DATA, CornerPattern(), AllToOne(0), rate=0.2, cover_rate=cover_rate, seed=0)


def test_classes_without_images_are_refused() -> None:
    with pytest.raises(InvalidInput, match="may be poison, got none"):
        poison(DATA, CornerPattern(), SourceSpecific((7,), 2), rate=0.2, seed=0)
    with pytest.raises(InvalidInput, match="other than the target 2"):
        SourceSpecific((1, 2), 2)


@pytest.mark.parametrize(("shape", "classes"), [((28, 28, 1), 10), ((32, 24, 3), 3), ((12, 12, 4), 5)])
def test_every_kind_can_be_built_for_images_of_any_size(shape: tuple[int, int, int], classes: int) -> None:
    data = Dataset(noise(120, shape, 0), np.arange(120) % classes)
    known = backdoors(linear_with_gradients(shape, classes), source=1, target=0)
    assert tuple(known) == KINDS
    for kind, backdoor in known.items():
        poisoned = backdoor.poison(data, seed=0)
        assert poisoned.is_poison.mean() == pytest.approx(backdoor.rate, abs=0.01), kind
        assert (poisoned.data.images[poisoned.is_poison] != data.images[poisoned.origin[poisoned.is_poison]]).any(), kind
        assert (backdoor.trigger(data.images) != data.images).any(), kind


def test_two_classes_are_too_few_for_a_source_specific_trigger() -> None:
    assert set(KINDS) - set(backdoors(linear_with_gradients((12, 12, 1), 2))) == {"source_specific"}


@pytest.mark.parametrize(("source", "target"), [(0, 0), (0, 4), (-1, 2), (5, 1)])
def test_source_and_target_are_two_classes_of_the_classifier(source: int, target: int) -> None:
    with pytest.raises(InvalidInput, match="another target class from 0 to 3"):
        backdoors(linear_with_gradients((12, 12, 1), 4), source=source, target=target)


def test_the_note_is_yellow_where_there_are_colours() -> None:
    np.testing.assert_allclose(note(4, 3)[0, 0], [1.0, 0.9, 0.2])
    assert (note(4, 1)[0] == 1).all()
    assert note(5, 2).shape == (5, 5, 2)
