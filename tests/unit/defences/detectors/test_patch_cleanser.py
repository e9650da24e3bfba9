"""PatchCleanser: its parameters, its score, its turns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from defences.defended_classifier import DefendedClassifier, Step
from defences.detectors import patch_cleanser
from defences.detectors.mask_set import check_patch, mask_boxes, read_patch, under_masks
from defences.detectors.patch_cleanser import LEAD, PatchCleanser, leads
from defences.errors import InvalidInput, InvalidParameter
from tests.fakes import FakeClassifier, constant, linear, noise

SHAPE = (8, 9, 3)
GREY = (0.5, 0.5, 0.5)
IMAGES = noise(7, SHAPE, 1)


def test_a_mask_hides_its_rectangle_and_nothing_else() -> None:
    boxes = mask_boxes(SHAPE, (2, 3))
    rows = under_masks(IMAGES, boxes, np.array([0.1, 0.2, 0.3], np.float32)).reshape(7, 9, *SHAPE)
    for number, (top, left, bottom, right) in enumerate(boxes):
        hidden = rows[:, number, top:bottom, left:right]
        assert (hidden == np.array([0.1, 0.2, 0.3], np.float32)).all()
        rest = np.ones(SHAPE[:2], bool)
        rest[top:bottom, left:right] = False
        np.testing.assert_array_equal(rows[:, number][:, rest], IMAGES[:, rest])


def test_the_score_is_the_least_lead_of_the_answer_under_any_mask() -> None:
    outputs = np.array([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.3, 0.3, 0.4], [0.0, 1.0, 0.0]], np.float32)
    np.testing.assert_allclose(leads(outputs, np.array([0, 0, 0, 0])), [0.5, 0.1, -0.1, -1.0], atol=1e-6)
    detector = PatchCleanser(patch=(2, 2), colour=GREY)
    under = np.concatenate([np.repeat(outputs[:2], 4, axis=0), outputs[2:3], np.repeat(outputs[1:2], 9, axis=0)])
    np.testing.assert_allclose(detector.scores(under, np.array([0, 0])), [-0.1, 0.1], atol=1e-6)


@pytest.mark.parametrize(("lead", "refused"), [(0.0, True), (0.9 * LEAD, True), (1.5 * LEAD, False)])
def test_a_lead_that_rounding_may_undo_is_none(lead: float, refused: bool) -> None:
    even = constant([0.5 + lead / 2, 0.5 - lead / 2], SHAPE)
    detectors = [Step(PatchCleanser(patch=(2, 2), colour=GREY))]
    assert (DefendedClassifier(even, detectors=detectors).classify(IMAGES).abstained == refused).all()


def test_every_image_costs_the_same_in_one_step_whatever_is_found() -> None:
    classifier = linear(SHAPE, 4, sharpness=0.3)
    defended = DefendedClassifier(classifier, detectors=[Step(PatchCleanser(patch=(2, 3), colour=GREY))])
    found = defended.classify(IMAGES)
    assert 0 < found.abstained.sum() < len(IMAGES)
    assert (found.trace.detections[0].calls == 9).all()
    assert classifier.calls == [10 * len(IMAGES)]
    assert defended.calls_at_most == 10


def test_many_large_images_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = DefendedClassifier(linear(SHAPE, 4, sharpness=0.3), detectors=[Step(PatchCleanser(patch=(2, 3), colour=GREY))])
    expected = whole.classify(IMAGES)
    monkeypatch.setattr(patch_cleanser, "_NUMBERS_PER_PROBE", 2 * 9 * int(np.prod(SHAPE)))
    found = whole.classify(IMAGES)
    np.testing.assert_array_equal(found.labels, expected.labels)
    assert len(list(whole.waves(IMAGES))) == 4


def test_images_may_join_while_others_wait_for_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patch_cleanser, "_NUMBERS_PER_PROBE", 9 * int(np.prod(SHAPE)))
    defended = DefendedClassifier(linear(SHAPE, 4, sharpness=0.3), detectors=[Step(PatchCleanser(patch=(2, 3), colour=GREY))])
    batch = defended.begin(IMAGES[:4])
    labels = np.full(7, -2)
    steps = 0
    while batch.pending:
        if steps == 2:
            defended.join(batch, IMAGES[4:])
        steps += 1
        wave = defended.advance(batch)
        if wave is not None:
            labels[wave[0]] = wave[1].labels
    assert steps == 7
    np.testing.assert_array_equal(labels, defended.classify(IMAGES).labels)


def test_the_answer_that_is_compared_is_the_one_that_is_given() -> None:
    class Inverts:
        name = "inverts"

        def __call__(self, images: np.ndarray, keys: np.ndarray) -> np.ndarray:
            return 1 - images

    def answer(images: np.ndarray) -> np.ndarray:
        bright = images.mean(axis=(1, 2, 3)) > 0.5
        return np.where(bright[:, None], [0.1, 0.9], [0.9, 0.1]).astype(np.float32)

    classifier, bright = FakeClassifier(answer, SHAPE, 2), np.full((1, *SHAPE), 0.9, np.float32)
    detectors = [Step(PatchCleanser(patch=(2, 2), colour=GREY))]
    assert not DefendedClassifier(classifier, detectors=detectors).classify(bright).abstained.any()
    assert DefendedClassifier(classifier, preprocessors=[Step(Inverts())], detectors=detectors).classify(bright).abstained.all()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"patch": (0, 2)}, r"expected patch, two whole numbers above 0, got \(0, 2\)"),
        ({"patch": (5,)}, "expected patch, two whole numbers"),
        ({"patch": (2.0, 2)}, "expected patch, two whole numbers"),
        ({"patch": 5}, "expected patch, two whole numbers"),
        ({"patch": (True, 2)}, "expected patch, two whole numbers"),
        ({"middle": 0.0}, "expected middle, a share above 0 and at most 1/3, got 0.0"),
        ({"middle": 0.4}, "expected middle"),
        ({"colour": ()}, r"expected a colour, a number in \[0, 1\] for each channel"),
        ({"colour": (0.5, 1.5, 0.1)}, "expected a colour"),
        ({"colour": (0.5, float("nan"), 0.1)}, "expected a colour"),
    ],
)
def test_parameters_outside_their_domain_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidParameter, match=sentence):
        PatchCleanser(**({"patch": (2, 2), "colour": GREY} | changes))


def test_images_it_was_not_fitted_to_are_refused() -> None:
    detector = PatchCleanser(patch=(5, 5), colour=GREY)
    with pytest.raises(InvalidParameter, match=r"the patch \(5, 5\) of patch_cleanser fits into, got \(4, 9\)"):
        detector.check_input_shape((4, 9, 3))
    with pytest.raises(InvalidParameter, match=r"colour of patch_cleanser for 1 channels in calibration\.npz, got 3 values"):
        detector.check_input_shape((8, 9, 1))


@pytest.mark.parametrize("text", ["", "5", "5x", "x5", "0x5", "5x0", "-1x5", "5x5x5", "5.0x5", "5 x 5", "1e1x5", "123456x1"])
def test_a_size_that_is_none_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"expected the size of a patch \(--patch\) as its height and width in pixels"):
        read_patch(text)


def test_a_patch_that_leaves_too_little_is_refused() -> None:
    check_patch((4, 4), SHAPE)
    for patch in ((5, 2), (2, 5), (40, 40)):
        with pytest.raises(
            InvalidInput, match=r"at most half of the image's height and width, 8x9, got .*x.*: its masks would leave"
        ):
            check_patch(patch, SHAPE)
