"""Outcomes counted both ways."""

from __future__ import annotations

import numpy as np

from defences.defended_classifier import DefendedClassifier, Step
from defences.detectors.strip import Strip
from evaluation.tables.outcomes import ABSTAINED, RIGHT, WRONG, outcomes, robustness, worst
from tests.fakes import constant, linear, noise

SHAPE = (4, 5, 1)


def test_a_refusal_is_neither_right_nor_wrong() -> None:
    sure = constant([0.0, 1.0, 0.0], SHAPE)
    images = noise(3, SHAPE, 0)
    assert outcomes(sure, images, np.array([1, 0, 1])).tolist() == [RIGHT, WRONG, RIGHT]
    strip = Strip(overlays=np.zeros((2, *SHAPE), np.uint8), threshold=0.1, stages=(2,), slack=(0.0,))
    refuses = DefendedClassifier(sure, detectors=[Step(strip)])
    assert outcomes(refuses, images, np.array([1, 0, 1])).tolist() == [ABSTAINED] * 3


def test_a_classifier_that_only_predicts_tells_its_refusals_by_rows_of_zeros() -> None:
    refuses = constant([0.0, 0.0], SHAPE)
    assert outcomes(refuses, noise(2, SHAPE, 0), np.array([0, 1])).tolist() == [ABSTAINED] * 2


def test_the_worst_case_is_the_attackers_best_for_each_image() -> None:
    first, second = np.array([RIGHT, ABSTAINED, WRONG, RIGHT]), np.array([ABSTAINED, WRONG, RIGHT, RIGHT])
    assert worst([first, second]).tolist() == [ABSTAINED, WRONG, WRONG, RIGHT]


def test_an_abstention_is_safe_in_one_count_and_a_failure_in_the_other() -> None:
    found = robustness(np.array([RIGHT] * 5 + [ABSTAINED] * 3 + [WRONG] * 2))
    assert (found.abstention_safe.hits, found.abstention_failure.hits, found.abstained.hits) == (8, 5, 3)
    assert found.abstention_safe.low < 0.8 < found.abstention_safe.high


def test_the_undefended_stack_and_the_bare_classifier_come_to_the_same() -> None:
    classifier = linear(SHAPE, 3)
    images = noise(50, SHAPE, 1)
    labels = np.random.default_rng(0).integers(0, 3, 50)
    np.testing.assert_array_equal(outcomes(classifier, images, labels), outcomes(DefendedClassifier(classifier), images, labels))
