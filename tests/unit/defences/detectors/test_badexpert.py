"""BaDExpert: its score, when it decides, what it sees, and what it refuses to work with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from attacks.evasion.detector_estimates import badexpert_estimate
from defences.defended_classifier import DefendedClassifier, Detector, Step
from defences.detectors.badexpert import BaDExpert
from defences.detectors.odds import log_odds_against
from defences.errors import InvalidParameter, StageFailure
from models.classifier import Images
from models.errors import InvalidInput
from tests.fakes import FakeClassifier, constant, linear, linear_with_gradients, noise
from tests.property.strategies import badexpert, strip

SHAPE = (8, 7, 3)
IMAGES = noise(40, SHAPE, 0)
CLASSIFIER = linear(SHAPE, 4, sharpness=2.0)
KEYS = np.zeros(len(IMAGES), np.uint64)


class Blackens:
    name = "blackens"

    def __call__(self, images: Images, keys: Any) -> Images:
        return np.zeros_like(images)


def test_the_score_is_the_log_odds_against_the_answer() -> None:
    outputs = np.array([[0.1, 0.9], [0.1, 0.9], [0.5, 0.5]], np.float32)
    found = log_odds_against(outputs, np.array([1, 0, 0]))
    np.testing.assert_allclose(found, np.log([0.1 / 0.9, 0.9 / 0.1, 1.0]), rtol=1e-6)


def test_experts_who_are_sure_to_the_last_digit_of_float32_do_not_tie() -> None:
    outputs = np.array([[1, 1e-12, 0], [1, 1e-20, 0], [1, 0, 0], [0, 1, 0]], np.float32)
    found = log_odds_against(outputs, np.zeros(4, np.int64))
    assert np.isfinite(found).all()
    assert found[2] < found[1] < found[0] < 0 < found[3]


def test_it_sees_the_image_as_it_came_and_the_answer_to_the_purified_one() -> None:
    detector = badexpert(SHAPE, 0.0)
    defended = DefendedClassifier(CLASSIFIER, preprocessors=[Step(Blackens())], detectors=[Step(detector)])
    answers = CLASSIFIER.predict(np.zeros_like(IMAGES)).argmax(axis=1)
    assert not np.array_equal(answers, CLASSIFIER.predict(IMAGES).argmax(axis=1))
    found = defended.classify(IMAGES).trace.detections[0]
    np.testing.assert_array_equal(found.scores, detector.scores(IMAGES, answers))
    np.testing.assert_array_equal(found.abstained, found.scores <= 0)


def test_the_experts_pass_is_counted_and_takes_no_row_of_the_classifier() -> None:
    classifier, expert = linear(SHAPE, 4), linear(SHAPE, 4, seed=7)
    defended = DefendedClassifier(classifier, detectors=[Step(BaDExpert(threshold=0.0, expert=expert))])
    trace = defended.classify(IMAGES).trace
    assert (classifier.calls, expert.calls) == ([40], [40])
    assert trace.model_calls == 80
    assert trace.detections[0].calls.tolist() == [1] * 40
    assert defended.calls_at_most == 2


def test_images_that_join_a_batch_under_way_are_decided_as_if_they_were_alone() -> None:
    detectors: list[Step[Detector]] = [Step(badexpert(SHAPE, 0.9)), Step(strip(SHAPE, 0.6))]
    defended = DefendedClassifier(CLASSIFIER, detectors=detectors)
    alone = defended.classify(IMAGES)
    batch, joined = defended.begin(IMAGES[:25]), False
    found: dict[int, int] = {}
    while batch.pending:
        wave = defended.advance(batch)
        if not joined and batch.pending:
            defended.join(batch, IMAGES[25:])
            joined = True
        if wave is not None:
            found |= dict(zip(wave[0].tolist(), wave[1].labels.tolist(), strict=True))
    assert [found[number] for number in range(40)] == alone.labels.tolist()
    assert 0 < alone.trace.detections[0].abstained.sum() < 40


def test_an_image_of_which_expert_and_classifier_are_as_sure_is_refused() -> None:
    sure = constant([0.02, 0.94, 0.02, 0.02], SHAPE)
    agreeing = DefendedClassifier(sure, detectors=[Step(BaDExpert(threshold=0.0, expert=sure))])
    assert agreeing.classify(IMAGES).abstained.all()
    contrary = constant([0.94, 0.02, 0.02, 0.02], SHAPE)
    assert (
        not DefendedClassifier(sure, detectors=[Step(BaDExpert(threshold=0.0, expert=contrary))]).classify(IMAGES).abstained.any()
    )


def test_without_an_expert_it_fails_closed() -> None:
    detector = BaDExpert(threshold=0.0)
    with pytest.raises(InvalidInput, match="badexpert needs its expert"):
        detector.outputs(IMAGES)
    with pytest.raises(StageFailure):
        DefendedClassifier(CLASSIFIER, detectors=[Step(detector)]).classify(IMAGES)


@pytest.mark.parametrize("wrong", [np.full((40, 4), np.nan, np.float32), np.zeros((39, 4), np.float32), np.zeros(40, np.float32)])
def test_an_expert_that_gives_no_probabilities_fails_closed(wrong: Any) -> None:
    expert = FakeClassifier(lambda images: wrong, SHAPE, 4)
    with pytest.raises(ValueError, match="expected finite probabilities of the expert for 40 images"):
        BaDExpert(threshold=0.0, expert=expert).begin(IMAGES, KEYS)


def test_a_threshold_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="badexpert: expected a threshold, got NaN"):
        BaDExpert(threshold=np.nan)


def test_an_attacker_who_knows_it_has_its_slope() -> None:
    classifier, expert = linear_with_gradients(SHAPE, 4), linear_with_gradients(SHAPE, 4, seed=3)
    detector = BaDExpert(threshold=0.5, expert=expert)
    found = badexpert_estimate(detector, classifier, IMAGES, KEYS, 1)
    answers = classifier.predict(IMAGES).argmax(axis=1)
    np.testing.assert_allclose(found.clearance, detector.scores(IMAGES, answers) - 0.5, rtol=1e-3, atol=1e-3)
    direction, h = np.random.default_rng(1).normal(size=IMAGES.shape).astype(np.float32), np.float32(1e-3)
    ahead, behind = (detector.scores(IMAGES + step * direction, answers) for step in (h, -h))
    np.testing.assert_allclose((found.gradient * direction).sum(axis=(1, 2, 3)), (ahead - behind) / (2 * h), rtol=0.05, atol=0.3)
    with pytest.raises(InvalidInput, match="expected an expert with gradients"):
        badexpert_estimate(badexpert(SHAPE, 0.0), classifier, IMAGES, KEYS, 1)
