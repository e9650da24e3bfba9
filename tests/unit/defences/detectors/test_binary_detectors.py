"""The two detectors of evasion: what they refuse to be made of, their scores, and how they stand in the data path."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from defences.defended_classifier import DefendedClassifier, Step
from defences.detectors.binary_activation_detector import BinaryActivationDetector
from defences.detectors.binary_input_detector import BinaryInputDetector
from defences.detectors.unprobed import UnprobedSession
from defences.errors import InvalidParameter, StageFailure
from models.engines.binary_network import BinaryNetwork
from models.errors import InvalidInput
from tests.fakes import linear, noise, readable
from tests.property.strategies import binary_activation_detector, binary_input_detector, strip

SHAPE = (8, 7, 3)
IMAGES = noise(40, SHAPE, 0)
CLASSIFIER = readable(SHAPE, 4)
KEYS = np.zeros(len(IMAGES), np.uint64)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"threshold": np.nan}, "expected a threshold and a ceiling, got NaN"),
        ({"ceiling": np.nan}, "expected a threshold and a ceiling, got NaN"),
        ({"shape": (8, 7)}, r"expected a shape \(h, w, c\)"),
        ({"shape": (8.0, 7.0, 3.0)}, r"expected a shape \(h, w, c\)"),
        ({"shape": (8, 7, 1)}, "binary_input_detector: expected a layer for 8 x 7 x 1"),
        ({"weights": np.zeros(3, np.float32)}, "binary_input_detector: expected"),
    ],
)
def test_a_parameter_outside_its_domain_is_refused(changes: dict[str, Any], sentence: str) -> None:
    made = binary_input_detector(SHAPE, 0.0)
    given: dict[str, Any] = {"weights": made.weights, "layout": made.layout, "shape": SHAPE, "threshold": 0.0}
    with pytest.raises(InvalidParameter, match=sentence):
        BinaryInputDetector(**given | changes)


@pytest.mark.parametrize("layout", [np.zeros(0, np.int64), np.zeros((0, 5), np.int64), np.ones((1, 2), np.int64)])
def test_an_activation_detector_of_a_layout_that_is_none_is_refused(layout: Any) -> None:
    with pytest.raises(InvalidParameter, match="expected a layout"):
        BinaryActivationDetector(weights=np.zeros(1, np.float32), layout=layout, threshold=0.0, layer="hidden")


def test_the_score_is_the_negative_logit_of_the_image_or_of_its_activations() -> None:
    by_input, by_activations = binary_input_detector(SHAPE, 0.0), binary_activation_detector(SHAPE, 0.0)
    network = BinaryNetwork(weights=by_input.weights, layout=by_input.layout, input_shape=SHAPE)
    np.testing.assert_array_equal(by_input.scores(IMAGES), -network.logits(IMAGES))
    network = BinaryNetwork(weights=by_activations.weights, layout=by_activations.layout, input_shape=(1, 1, 4))
    activations = by_activations.classifier.activations(IMAGES)  # type: ignore[union-attr]
    np.testing.assert_array_equal(by_activations.scores(IMAGES), -network.logits(activations))


@pytest.mark.parametrize("make", [binary_input_detector, binary_activation_detector])
def test_the_gradient_of_the_score_is_its_slope(make: Any) -> None:
    detector = make(SHAPE, 0.0)
    scores, gradients = detector.score_gradients(IMAGES)
    np.testing.assert_array_equal(scores, detector.scores(IMAGES))
    direction = np.random.default_rng(1).normal(size=IMAGES.shape).astype(np.float32)
    h = np.float32(1e-3)
    slopes = (detector.scores(IMAGES + h * direction) - detector.scores(IMAGES - h * direction)) / (2 * h)
    told = (gradients * direction).sum(axis=(1, 2, 3))
    assert np.corrcoef(slopes, told)[0, 1] > 0.99  # not 1: a rectifier may switch in between


@pytest.mark.parametrize("make", [binary_input_detector, binary_activation_detector])
def test_what_scores_above_the_ceiling_is_not_refused_whatever_the_threshold(make: Any) -> None:
    ceiling = float(np.median(make(SHAPE, 0.0).scores(IMAGES)))
    high, low = make(SHAPE, 1e9, ceiling=ceiling), make(SHAPE, -1e9, ceiling=ceiling)
    np.testing.assert_array_equal(high.begin(IMAGES, KEYS).abstained, high.scores(IMAGES) <= ceiling)
    assert not low.begin(IMAGES, KEYS).abstained.any()


def test_the_passes_of_the_activation_detector_are_counted_and_the_input_detector_makes_none() -> None:
    detectors: list[Any] = [binary_input_detector(SHAPE, 0.0), binary_activation_detector(SHAPE, 0.0)]
    for detector, calls in zip(detectors, (1, 2), strict=True):
        defended = DefendedClassifier(CLASSIFIER, detectors=[Step(detector)])
        trace = defended.classify(IMAGES).trace
        assert trace.model_calls == calls * len(IMAGES)
        assert defended.calls_at_most == calls
        assert trace.detections[0].calls.tolist() == [calls - 1] * len(IMAGES)


def test_beside_a_detector_that_probes_an_image_is_refused_by_either() -> None:
    binary = binary_input_detector(SHAPE, float(np.median(binary_input_detector(SHAPE, 0.0).scores(IMAGES))))
    probing, classifier = strip(SHAPE, 0.6), linear(SHAPE, 4, sharpness=2.0)
    alone = [DefendedClassifier(classifier, detectors=[Step(one)]).classify(IMAGES).abstained for one in (binary, probing)]
    both = DefendedClassifier(classifier, detectors=[Step(binary), Step(probing)]).classify(IMAGES)
    np.testing.assert_array_equal(both.abstained, alone[0] | alone[1])
    assert 0 < alone[0].sum() < len(IMAGES)


def test_it_sees_the_image_as_it_came_and_not_as_it_is_purified() -> None:
    class Blackens:
        name = "blackens"

        def __call__(self, images: np.ndarray, keys: np.ndarray) -> np.ndarray:
            return np.zeros_like(images)

    detector = binary_activation_detector(SHAPE, 0.0)
    defended = DefendedClassifier(CLASSIFIER, preprocessors=[Step(Blackens())], detectors=[Step(detector)])
    np.testing.assert_array_equal(defended.classify(IMAGES).trace.detections[0].scores, detector.scores(IMAGES))


@pytest.mark.parametrize("classifier", [None, linear(SHAPE, 4)])
def test_an_activation_detector_without_activations_fails_closed(classifier: Any) -> None:
    detector = binary_activation_detector(SHAPE, 0.0, classifier=classifier)
    with pytest.raises(InvalidInput, match="needs a classifier whose activations can be read"):
        detector.scores(IMAGES)
    with pytest.raises(StageFailure):
        DefendedClassifier(linear(SHAPE, 4), detectors=[Step(detector)]).classify(IMAGES)


@pytest.mark.parametrize("wrong", [np.full(40, np.nan), np.full(40, np.inf), np.zeros(39)])
def test_scores_that_are_none_fail_closed(wrong: Any) -> None:
    session = UnprobedSession(lambda images: wrong, 0.0)
    with pytest.raises(ValueError, match="expected 40 finite scores"):
        session.join(np.empty(0, np.int64), IMAGES, KEYS)
