"""PatchCleanser's masks and its guarantee, by brute force: every place of a patch, whatever is in it, whatever the purifier does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from defences.defended_classifier import DefendedClassifier, Mode, Step
from defences.detectors.mask_set import mask_boxes, runs
from defences.detectors.patch_cleanser import PatchCleanser
from defences.keyed import Keys
from defences.postprocessors.reverse_sigmoid import ReverseSigmoid
from defences.purifiers.total_variation import TotalVariation
from models.classifier import Classifier, Images
from tests.fakes import FakeClassifier, softmax
from tests.property.strategies import strip

SHAPE = (9, 10, 3)
PATCH = (3, 2)
DETECTOR = PatchCleanser(patch=PATCH, colour=(0.5, 0.5, 0.5))


@pytest.mark.parametrize("middle", [0.01, 0.22, 1 / 3])
def test_three_runs_hold_every_place(middle: float) -> None:
    for places in range(1, 230):
        found = runs(places, middle)
        assert len(found) == 3
        assert {place for first, last in found for place in range(first, last + 1)} == set(range(places))


@pytest.mark.parametrize(
    ("shape", "patch"),
    [((32, 32), (5, 5)), ((28, 28), (3, 7)), ((9, 10), (3, 2)), ((6, 28), (4, 1)), ((7, 7), (7, 2)), ((3, 2), (2, 2))],
)
@pytest.mark.parametrize("middle", [0.22, 1 / 3])
def test_every_rectangle_of_at_most_the_size_of_the_patch_lies_inside_one_mask(
    shape: tuple[int, int], patch: tuple[int, int], middle: float
) -> None:
    boxes = mask_boxes(shape, patch, middle)
    assert boxes.shape == (9, 4)
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= shape).all()
    for height in range(1, patch[0] + 1):
        for width in range(1, patch[1] + 1):
            for top in range(shape[0] - height + 1):
                for left in range(shape[1] - width + 1):
                    assert covers(boxes, top, left, height, width).any()


def covers(boxes: np.ndarray, top: int, left: int, height: int, width: int) -> np.ndarray:
    """Which boxes hold this rectangle: bool [m]."""
    rows = (boxes[:, 0] <= top) & (boxes[:, 2] >= top + height)
    found: np.ndarray = rows & (boxes[:, 1] <= left) & (boxes[:, 3] >= left + width)
    return found


def test_a_patch_that_is_one_row_larger_escapes_the_masks_somewhere() -> None:
    boxes = mask_boxes(SHAPE, PATCH)
    assert not all(covers(boxes, top, 0, PATCH[0] + 1, PATCH[1]).any() for top in range(SHAPE[0] - PATCH[0]))


class Spreads:
    """A purifier on the attacker's side: it returns their picture where an image holds a white pixel, else noise by the key is added."""

    name = "spreads"

    def __call__(self, images: Images, keys: Keys) -> Images:
        noisy = np.stack([np.random.default_rng(key).normal(0, 0.02, SHAPE) for key in keys])
        purified: Images = np.clip(images + noisy, 0, 1).astype(np.float32)
        purified[(images == 1).all(axis=3).any(axis=(1, 2))] = np.array([0.1, 0.1, 0.9], np.float32)
        return purified


def by_colour(sharpness: float = 30.0) -> FakeClassifier:
    """Calls an image by the channel that is brightest on average."""

    def answer(images: Images) -> np.ndarray:
        return softmax(sharpness * images.reshape(len(images), -1, 3).astype(np.float64).mean(axis=1))

    return FakeClassifier(answer, SHAPE, 3)


def pictures(n: int, seed: int) -> Images:
    """Noise of a tint, stronger or weaker: a patch changes the class of some of them."""
    rng = np.random.default_rng(seed)
    images = rng.uniform(0.2, 0.6, (n, *SHAPE))
    images[np.arange(n), :, :, rng.integers(0, 3, n)] += rng.choice([0.01, 0.05, 0.1, 0.25], n)[:, None, None]
    return images.astype(np.float32)


def patched(image: Images, rng: np.random.Generator) -> Images:
    """The image with a patch at every place, of each pure colour, of white, of black and of noise: [m, h, w, c]."""
    contents = [*np.eye(3), np.ones(3), np.zeros(3), rng.random((*PATCH, 3))]
    found = []
    for top in range(SHAPE[0] - PATCH[0] + 1):
        for left in range(SHAPE[1] - PATCH[1] + 1):
            for content in contents:
                copy = image.copy()
                copy[top : top + PATCH[0], left : left + PATCH[1]] = content
                found.append(copy)
    return np.stack(found)


def labels_under_masks(classifier: Classifier, image: Images) -> np.ndarray:
    """The classes of the image under every mask: int64 [m]."""
    labels: np.ndarray = classifier.predict(DETECTOR.under_masks(image[None])).argmax(axis=1)
    return labels


STACKS: dict[str, dict[str, Any]] = {
    "alone": {},
    "behind total variation that drops pixels by the key": {
        "preprocessors": [Step(TotalVariation(weight=0.2, keep_probability=0.7))],
        "postprocessors": [Step(ReverseSigmoid())],
    },
    "behind a purifier that spreads the patch over the image": {"preprocessors": [Step(Spreads())]},
    "behind a purifier that only watches": {"preprocessors": [Step(Spreads(), "monitor")]},
}


def stack(name: str, mode: Mode = "enforce", secret: bytes = b"s") -> DefendedClassifier:
    beside = Step(strip(SHAPE, 0.05), "enforce")
    return DefendedClassifier(by_colour(), detectors=[Step(DETECTOR, mode), beside], secret=secret, **STACKS[name])


@pytest.mark.parametrize("name", STACKS)
def test_no_patch_anywhere_gets_another_answer_than_the_one_under_the_mask_that_covers_it(name: str) -> None:
    rng, classifier = np.random.default_rng(1), by_colour()
    certified = changed_without = refused = 0
    for image in pictures(12, seed=0):
        under = labels_under_masks(classifier, image)
        images = patched(image, rng)
        found = stack(name).classify(images).labels
        # Whatever the image: an answer is one of those it has with some region masked.
        assert np.isin(found[found >= 0], under).all()
        lead = DETECTOR.scores(classifier.predict(DETECTOR.under_masks(image[None])), under[:1])[0]
        if lead > 0.001:
            certified += 1
            assert np.isin(found, [-1, under[0]]).all()
        refused += int((found == -1).sum())
        undefended = stack(name, "off").classify(images).labels
        changed_without += int(((undefended != under[0]) & (undefended >= 0)).sum()) if lead > 0.001 else 0
    assert certified >= 4, "a guarantee for no image proves nothing"
    assert refused > 0
    if name != "behind total variation that drops pixels by the key":
        assert changed_without > 0, "patches that change nothing prove nothing"


def test_the_answer_to_a_patched_image_is_exactly_that_under_the_mask_over_its_patch() -> None:
    classifier, boxes = by_colour(), mask_boxes(SHAPE, PATCH)
    answered = 0
    for image in pictures(6, seed=3):
        under = labels_under_masks(classifier, image)
        for number, (top, left, _, _) in enumerate(boxes):
            copy = image.copy()
            copy[top : top + PATCH[0], left : left + PATCH[1]] = 1.0, 0.0, 0.0
            (found,) = stack("alone").classify(copy[None]).labels
            answered += int(found >= 0)
            assert found in (-1, under[number])
    assert answered > 20
