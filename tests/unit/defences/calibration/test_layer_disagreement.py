"""The fit of layer disagreement: what it learns, when it only monitors, and what it cannot be had for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from defences.calibration.calibrate import fit_detectors
from defences.calibration.layer_disagreement import LAYERS_AT_MOST, layers_to_read
from defences.calibration.plan import CalibrationPlan
from defences.calibration.thresholds import CalibratedDetector
from defences.defended_classifier import DefendedClassifier, Step
from defences.detectors.layer_disagreement import LayerDisagreement
from defences.errors import InvalidInput
from models.classifier import Images, LayeredAnswers
from models.datasets import Dataset
from models.engines.keras import KerasClassifier
from tests.fakes import LayeredClassifier, layered, linear, noise, squares

PLAN = CalibrationPlan(detectors=("layer_disagreement",))
SHAPE = (5, 4, 1)


@pytest.fixture(scope="module")
def classifier(keras_model: Any) -> KerasClassifier:
    return KerasClassifier(keras_model)


@pytest.fixture(scope="module")
def calibrated(classifier: KerasClassifier) -> CalibratedDetector:
    return fit_detectors(classifier, squares(1600, seed=20), plan=PLAN)[0]


def drawn(n: int, classifier: LayeredClassifier, seed: int = 0) -> Dataset:
    images = noise(n, SHAPE, seed)
    return Dataset(images, classifier.predict(images).argmax(axis=1))


def test_it_refuses_answers_that_its_layers_do_not_bear_out_and_few_others(
    classifier: KerasClassifier, calibrated: CalibratedDetector
) -> None:
    detector: Any = calibrated.detector
    images = squares(1000, seed=21).images
    outputs = classifier.layered(detector.layers)(images)
    others = np.roll(outputs.probabilities, 1, axis=1)
    assert (detector.scores(outputs.features, outputs.probabilities) <= calibrated.threshold).mean() <= 0.02
    assert (detector.scores(outputs.features, others) <= calibrated.threshold).mean() > 0.95
    assert calibrated.mode == "enforce"
    assert calibrated.mean_calls == 0


def test_the_scores_it_was_fitted_on_are_those_of_images_it_has_not_seen(calibrated: CalibratedDetector) -> None:
    choosing, holding = calibrated.fitted.choosing, calibrated.fitted.holding
    assert (len(choosing), len(holding)) == (533, 1067)
    assert abs(np.median(choosing) - np.median(holding)) < 1  # one standard deviation; the last detector has a fifth more images
    assert abs(choosing.mean()) < 1e-6


def test_with_few_images_it_only_monitors_and_says_what_more_would_buy(classifier: KerasClassifier) -> None:
    [few] = fit_detectors(classifier, squares(480, seed=22), plan=PLAN)
    assert few.mode == "monitor"
    assert "its probes have 160 images of the 300 that 3 classes need, its threshold 320 of 1,000" in few.reason
    assert "calibrated on 1,500 images it would refuse" in few.reason
    assert np.isfinite(few.threshold)


def test_the_classifier_sees_images_as_the_gateway_gives_them(classifier: KerasClassifier) -> None:
    data = squares(420, seed=23)
    given: list[Images] = []

    def darkened(images: Images) -> Images:
        given.append(images)
        return images / np.float32(2)

    plan = replace(PLAN, false_abstention_rate=0.05)
    [one] = fit_detectors(classifier, data, plan=plan, purified=darkened)
    parts = plan.parts(data)
    outputs = classifier.layered(one.detector.layers)(parts.holding.images[:] / np.float32(2))  # type: ignore[attr-defined]
    scores = one.detector.scores(outputs.features, outputs.probabilities)  # type: ignore[attr-defined]
    np.testing.assert_allclose(one.fitted.holding, scores, atol=1e-5)
    assert sum(map(len, given)) == len(data)


def test_what_it_learned_is_written_and_read_back(classifier: KerasClassifier, calibrated: CalibratedDetector) -> None:
    arrays, settings = calibrated.arrays(), calibrated.settings()
    [layer] = settings["layers"]  # TensorFlow numbers layers on from test to test
    assert settings == {"name": "layer_disagreement", "mode": "enforce", "layers": [layer]}
    read: Any = {key: arrays[f"layer_disagreement_{key}"] for key in LayerDisagreement.record.calibrated}
    again = LayerDisagreement(layers=(layer,), **read | {"threshold": float(read["threshold"])})
    images = squares(60, seed=24).images
    wanted = DefendedClassifier(classifier, detectors=[Step(calibrated.detector)]).classify(images)
    found = DefendedClassifier(classifier, detectors=[Step(again)]).classify(images)
    np.testing.assert_array_equal(found.trace.detections[0].scores, wanted.trace.detections[0].scores)
    assert calibrated.card()["features"] == {layer: 288}


def test_classes_without_images_are_not_judged_and_named() -> None:
    classifier = layered(SHAPE, 4)
    data = drawn(900, classifier)
    data = data.take(np.flatnonzero(data.labels != 2))
    [found] = fit_detectors(classifier, data, plan=PLAN)
    assert "answers of class 2 are not judged, for want of images" in found.fitted.summary
    images = noise(300, SHAPE, 9)
    answers = classifier.predict(images).argmax(axis=1)
    decided = DefendedClassifier(classifier, detectors=[Step(found.detector)]).classify(images)
    assert (answers == 2).any()
    assert not decided.abstained[answers == 2].any()


def test_a_class_that_is_never_answered_has_probes_but_no_references() -> None:
    classifier = layered(SHAPE, 4)
    data = drawn(900, classifier)
    relabelled = Dataset(data.images, np.where(data.labels == 2, 3, data.labels))
    relabelled.labels[:100] = np.where(data.labels[:100] == 3, 2, relabelled.labels[:100])
    [found] = fit_detectors(classifier, relabelled, plan=PLAN)
    detector: Any = found.detector
    assert detector.judged.all()
    assert detector.firsts[2] == detector.firsts[3]
    assert np.isfinite(found.fitted.holding).all()


def test_a_classifier_without_blocks_is_refused_in_a_sentence() -> None:
    plain = linear(SHAPE, 4)
    data = Dataset(noise(400, SHAPE, 0), np.arange(400) % 4)
    with pytest.raises(InvalidInput, match="reads the convolution blocks of the model, and this model is FakeClassifier, which"):
        fit_detectors(plain, data, plan=PLAN)


def test_activations_that_are_no_numbers_are_refused() -> None:
    classifier = layered(SHAPE, 4)
    data, right = drawn(400, classifier), classifier.layered(("early", "late"))

    def broken(images: Images) -> LayeredAnswers:
        outputs = right(images)
        outputs.features[0, 0] = np.nan
        return outputs

    classifier.layered = lambda layers: broken  # type: ignore[method-assign]  # a classifier of its own kind
    with pytest.raises(InvalidInput, match="expected activations that are numbers, got NaN or infinity"):
        fit_detectors(classifier, data, plan=PLAN)


def test_of_many_blocks_eight_are_read_from_the_first_to_the_last() -> None:
    classifier = layered(SHAPE, 4)
    classifier.blocks = lambda: {str(at): (1, 1, 2) for at in range(30)}  # type: ignore[method-assign]
    names = list(layers_to_read(classifier))
    assert len(names) == LAYERS_AT_MOST
    assert (names[0], names[-1]) == ("0", "29")


def test_a_feature_that_never_changes_changes_nothing() -> None:
    classifier = layered(SHAPE, 4)
    data = drawn(400, classifier)
    data.images[:, 0, 0] = 0.5
    data = Dataset(data.images, classifier.predict(data.images).argmax(axis=1))
    [found] = fit_detectors(classifier, data, plan=PLAN)
    detector: Any = found.detector
    assert not detector.projection[0].any()
    assert np.isfinite(found.fitted.holding).all()
