"""Adversarial patches: where they lie, and against PatchCleanser."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from attacks.attack import Goal
from attacks.evasion.adaptive import AdaptiveView
from attacks.evasion.detector_estimates import patch_cleanser_estimate
from attacks.evasion.lavan import LaVAN, within
from defences.defended_classifier import DefendedClassifier, Step
from defences.detectors.patch_cleanser import LEAD, PatchCleanser
from defences.purifiers.total_variation import TotalVariation
from models.errors import InvalidInput
from tests.fakes import LinearClassifier, noise

SHAPE = (9, 10, 3)
PATCH = (3, 3)
KEYS = np.zeros(40, np.uint64)


def even() -> LinearClassifier:
    """Every pixel votes, by its colour, for one of three classes: a patch changes a class that leads by little."""
    pixels = SHAPE[0] * SHAPE[1]
    return LinearClassifier(np.tile(np.eye(3), (pixels, 1)) * 0.6, np.zeros(3), SHAPE)


CLASSIFIER = even()
DETECTOR = PatchCleanser(patch=PATCH, colour=(0.5,) * 3)


def pictures() -> tuple[np.ndarray, np.ndarray]:
    """40 images, with leads from none to large, and what they are called."""
    images = 0.3 + 0.3 * noise(40, SHAPE, 2)
    images[np.arange(40), :, :, np.arange(40) % 3] += np.linspace(0, 0.25, 40, dtype=np.float32)[:, None, None]
    return images, CLASSIFIER.predict(images).argmax(axis=1)


def test_only_pixels_of_one_patch_are_changed() -> None:
    images, labels = pictures()
    found = LaVAN(size=(2, 4), locations=2, iterations=5)(CLASSIFIER, images, Goal(labels), seed=1)
    changed = (found.images != images).any(axis=3)
    for image in changed[found.success]:
        rows, columns = np.nonzero(image)
        assert np.ptp(rows) < 2
        assert np.ptp(columns) < 4
    assert 0 < found.success.sum() < len(images)


def test_the_places_that_are_given_are_tried() -> None:
    images, labels = pictures()
    found = LaVAN(size=(3, 3), places=((6, 7),), locations=0, iterations=20)(CLASSIFIER, images, Goal(labels), seed=1)
    assert found.success.any()
    assert not (found.images != images)[:, :6].any()
    assert not (found.images != images)[:, :, :7].any()


def test_a_patch_is_a_rectangle_of_its_size() -> None:
    inside = within(np.array([[0, 0], [7, 6]]), (2, 4), SHAPE)
    assert inside.sum(axis=(1, 2, 3)).tolist() == [8, 8]
    assert inside[0, :2, :4].all()
    assert inside[1, 7:, 6:].all()


def test_the_estimate_is_the_detectors_own_decision_and_its_gradient_leads_to_another() -> None:
    images, labels = pictures()
    estimate = patch_cleanser_estimate(DETECTOR, CLASSIFIER, images, KEYS, 4)
    scores = DETECTOR.scores(CLASSIFIER.predict(DETECTOR.under_masks(images)), labels)
    np.testing.assert_allclose(estimate.clearance, scores - LEAD, atol=1e-6)
    moved = images + np.float32(0.02) * np.sign(estimate.gradient)
    higher = DETECTOR.scores(CLASSIFIER.predict(DETECTOR.under_masks(moved)), labels)
    assert (higher > scores).mean() > 0.9


@pytest.mark.parametrize("purified", [False, True])
def test_an_attacker_who_knows_the_masks_succeeds_on_no_certified_image_and_on_others_without_the_detector(
    purified: bool,
) -> None:
    images, labels = pictures()
    purifiers = [Step(TotalVariation(weight=0.02))] if purified else []
    certified = DETECTOR.scores(CLASSIFIER.predict(DETECTOR.under_masks(images)), labels) > LEAD
    attack = LaVAN(size=PATCH, places=((2, 2), (3, 4)), locations=2, iterations=12)
    success = {}
    for name, detectors in (("off", []), ("on", [Step(DETECTOR)])):
        defended = DefendedClassifier(CLASSIFIER, preprocessors=purifiers, detectors=detectors)
        found = attack(AdaptiveView(defended, CLASSIFIER), images, Goal(labels), seed=0)
        success[name] = found.success
    assert certified.sum() >= 10
    assert success["off"][certified].any(), "an attack that fails without the defence proves nothing"
    assert not success["on"][certified].any()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"size": (0, 3)}, "expected a size, two whole numbers above 0"),
        ({"size": (3,)}, "expected a size"),
        ({"locations": 0}, "expected iterations >= 1 and a place to try"),
        ({"iterations": 0}, "expected iterations >= 1"),
        ({"step": float("nan")}, "expected step > 0"),
        ({"size": (10, 3)}, r"expected patches of \(10, 3\) inside of images of \(9, 10\)"),
        ({"places": ((7, 0),)}, "inside of images"),
    ],
)
def test_what_is_no_patch_is_refused(changes: dict[str, Any], sentence: str) -> None:
    images, labels = pictures()
    with pytest.raises(InvalidInput, match=sentence):
        LaVAN(**({"size": (3, 3)} | changes))(CLASSIFIER, images, Goal(labels))
