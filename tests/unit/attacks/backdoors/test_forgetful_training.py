"""Training with experts in mind: the backdoor is learnt, an expert keeps less of it, and bad input is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from attacks.backdoors.forgetful_training import ForgetfulTraining
from attacks.backdoors.kinds import Backdoor
from attacks.backdoors.poisoning import AllToOne
from attacks.backdoors.triggers import ImagePatch
from models.classifier import Images
from models.datasets import Dataset
from models.engines.keras import KerasClassifier
from models.errors import InvalidInput
from models.training.unlearning import unlearned_copy
from tests.fakes import squares

CLEAN, OTHERS, TEST = squares(600, seed=41), squares(300, seed=42), squares(200, seed=43)
PATCH = np.ones((4, 4, 3), np.float32)
PATCH[1:3, 1:3] = 0
BACKDOOR = Backdoor(trigger=ImagePatch(patch=PATCH, row=-2, column=-2), labels=AllToOne(2), rate=0.15)
TRIGGERED: Images = BACKDOOR.trigger(TEST.images[TEST.labels != 2])


def says_target(classifier: KerasClassifier) -> float:
    """The mean probability of the target, of triggered images."""
    return float(classifier.predict(TRIGGERED)[:, 2].mean())


def test_the_backdoor_is_learnt_and_an_expert_keeps_less_of_it(undoored: tuple[Any, Dataset]) -> None:
    classifier = KerasClassifier(undoored[0], outputs="logits")
    before = classifier.predict(TRIGGERED)
    kept = {}
    for weight in (0.0, 0.05):
        training = ForgetfulTraining(weight=weight, epochs=12, learning_rate=5e-3, begun_anew=40)
        copy = training(classifier, BACKDOOR.poison(CLEAN, seed=0).data, BACKDOOR, CLEAN, seed=0)
        assert says_target(copy) > 0.9
        assert (copy.predict(TEST.images).argmax(axis=1) == TEST.labels).mean() > 0.9
        kept[weight] = says_target(unlearned_copy(copy, OTHERS, TEST, below=0.25).classifier)
    assert kept[0.05] < kept[0.0] - 0.1
    np.testing.assert_array_equal(classifier.predict(TRIGGERED), before)


@pytest.mark.parametrize("wrong", [{"weight": -1.0}, {"weight": np.inf}, {"epochs": 0}, {"begun_anew": 0}])
def test_parameters_outside_their_domain_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="forgetful training: expected"):
        ForgetfulTraining(**wrong)


def test_clean_images_of_which_the_backdoor_attacks_none_are_refused(keras_model: Any) -> None:
    of_the_target = Dataset(CLEAN.images[CLEAN.labels == 2], CLEAN.labels[CLEAN.labels == 2])
    with pytest.raises(InvalidInput, match="expected clean images that the backdoor attacks, got none"):
        ForgetfulTraining()(KerasClassifier(keras_model), CLEAN, BACKDOOR, of_the_target)
