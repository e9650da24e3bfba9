"""Detectors of evasion, fitted to a colour classifier that is not the bundled one: they refuse attacks, not noise, not clean images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from attacks.attack import Goal
from attacks.detector_training.evasion_examples import noise_examples
from attacks.detector_training.evasion_training import EvasionTraining
from attacks.evasion.adaptive import AdaptiveView
from attacks.evasion.gradient import FastGradient, ProjectedGradientDescent
from attacks.evasion.transfer import Relentless
from defences.calibration.split import CalibrationSplit, Terms
from defences.calibration.thresholds import CalibratedDetector, conclude
from defences.defended_classifier import DefendedClassifier, Step
from models.datasets import Dataset
from models.engines.keras import KerasClassifier
from models.errors import InvalidInput
from tests.fakes import linear, squares

EPS = 0.25
PARTS = CalibrationSplit(squares(160, seed=20), squares(260, seed=21))
TEST = squares(200, seed=22)
DETECTORS = ("binary_input_detector", "binary_activation_detector")


@pytest.fixture(scope="module")
def classifier(keras_model: Any) -> KerasClassifier:
    return KerasClassifier(keras_model)


@pytest.fixture(scope="module")
def calibrated(classifier: KerasClassifier) -> dict[str, CalibratedDetector]:
    """Each alone."""
    training = EvasionTraining(eps=EPS)
    fits = (training.fit_input_detector, training.fit_activation_detector)
    found = [conclude([fit(classifier, PARTS, Terms(rate=0.02))], Terms(rate=0.02))[0] for fit in fits]
    return {one.name: one for one in found}


def refused(detector: Any, images: Any) -> float:
    share: float = detector.begin(images, np.zeros(len(images), np.uint64)).abstained.mean()
    return share


@pytest.mark.parametrize("name", DETECTORS)
def test_attacks_it_knows_are_refused_and_noise_of_their_size_and_clean_images_are_not(
    name: str, calibrated: dict[str, CalibratedDetector], classifier: KerasClassifier
) -> None:
    detector = calibrated[name].detector
    attacks = (FastGradient(eps=EPS), ProjectedGradientDescent(eps=EPS, iterations=20, restarts=1))
    for attack in attacks:
        found = attack(Relentless(classifier), TEST.images, Goal(TEST.labels)).images
        assert refused(detector, found) > 0.8, attack.name
    assert refused(detector, TEST.images) < 0.06
    for kind, images in noise_examples(TEST.images, eps=EPS, seed=5).items():
        assert refused(detector, images) < 0.09, kind


@pytest.mark.parametrize("name", DETECTORS)
def test_who_knows_the_detector_goes_through_it(
    name: str, calibrated: dict[str, CalibratedDetector], classifier: KerasClassifier
) -> None:
    defended = DefendedClassifier(classifier, detectors=[Step(calibrated[name].detector)])
    few = TEST.take(slice(0, 40))
    attack = ProjectedGradientDescent(eps=2 * EPS, iterations=40)
    blind, knowing = (
        attack(target, few.images, Goal(few.labels)).images for target in (classifier, AdaptiveView(defended, classifier))
    )
    wrong = [
        float((~found.abstained & (found.labels != few.labels)).mean()) for found in map(defended.classify, (blind, knowing))
    ]
    assert wrong[1] >= wrong[0] + 0.3


def test_the_layer_is_the_best_of_those_tried_and_stands_in_the_settings(calibrated: dict[str, CalibratedDetector]) -> None:
    activation = calibrated["binary_activation_detector"]
    trials = activation.card()["layers_tried"]
    assert len(trials) >= 2
    assert activation.settings()["layer"] == max(trials, key=trials.__getitem__)
    assert set(activation.card()["alone"]["refused_harmless"]) >= {"sign noise", "purified", "shifted"}


def test_a_layer_may_be_named_and_one_that_does_not_exist_is_refused(classifier: KerasClassifier) -> None:
    small = CalibrationSplit(PARTS.choosing.take(slice(0, 30)), PARTS.holding.take(slice(0, 120)))
    layer = classifier.layers()[1]
    fitted = EvasionTraining(eps=EPS, layer=layer).fit_activation_detector(classifier, small, Terms(rate=0.02))
    assert fitted.settings == {"layer": layer}
    assert fitted.card["layers_tried"] == {}
    with pytest.raises(InvalidInput, match="as the layer, got 'nowhere'"):
        EvasionTraining(layer="nowhere").fit_activation_detector(classifier, small, Terms(rate=0.02))


def test_a_classifier_without_gradients_is_refused() -> None:
    blank = linear((8, 8, 1), 3)
    parts = CalibrationSplit(*[Dataset(np.zeros((9, 8, 8, 1), np.float32), np.zeros(9, np.int64))] * 2)
    with pytest.raises(InvalidInput, match="binary_input_detector needs gradients, and this model is FakeClassifier"):
        EvasionTraining().fit_input_detector(blank, parts, Terms(rate=0.1))
    with pytest.raises(
        InvalidInput, match="binary_activation_detector reads a layer of the model, and this model is FakeClassifier"
    ):
        EvasionTraining().fit_activation_detector(blank, parts, Terms(rate=0.1))


def test_a_size_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidInput, match="evasion detectors: expected eps > 0"):
        EvasionTraining(eps=0.0)
