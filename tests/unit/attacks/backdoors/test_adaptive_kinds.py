"""Adaptive backdoors: what their data are made of, and that each can be planted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from attacks.backdoors.adaptive_kinds import ADAPTIVE_KINDS, adaptive_backdoors
from attacks.backdoors.kinds import KINDS
from models.engines.keras import KerasClassifier
from models.errors import InvalidInput
from tests.fakes import squares


@pytest.fixture(scope="module")
def classifier(keras_model: Any) -> KerasClassifier:
    return KerasClassifier(keras_model)


def test_the_list_is_complete_and_none_is_of_the_eight(classifier: KerasClassifier) -> None:
    assert tuple(adaptive_backdoors(classifier)) == ADAPTIVE_KINDS
    assert not set(ADAPTIVE_KINDS) & set(KINDS)


@pytest.mark.parametrize("kind", ADAPTIVE_KINDS)
def test_every_kind_is_planted_by_training_a_copy_on_its_own_data(kind: str, classifier: KerasClassifier) -> None:
    data = squares(200, seed=3)
    known = adaptive_backdoors(classifier, target=0, epochs=1)[kind]
    poisoned = known.backdoor.poison(data, seed=0)
    copy = known.training(classifier, poisoned)
    assert copy.labels == classifier.labels
    assert not np.array_equal(copy.predict(data.images), classifier.predict(data.images))
    assert poisoned.is_cover.any()
    true = data.labels[poisoned.origin]
    np.testing.assert_array_equal(poisoned.data.labels[poisoned.is_poison], 0)
    np.testing.assert_array_equal(poisoned.data.labels[poisoned.is_cover], true[poisoned.is_cover])


def test_adaptive_blend_plants_less_of_its_trigger_than_it_uses(classifier: KerasClassifier) -> None:
    images = squares(50, seed=4).images
    backdoor = adaptive_backdoors(classifier)["adaptive_blend"].backdoor
    assert backdoor.planted is not None
    planted, used = (np.abs(trigger(images) - images).mean() for trigger in (backdoor.planted, backdoor.trigger))
    assert planted < 0.5 * used


def test_a_class_out_of_range_is_refused(classifier: KerasClassifier) -> None:
    with pytest.raises(InvalidInput, match="a source and another target class from 0 to 2"):
        adaptive_backdoors(classifier, target=5)
