"""SentiNet against its formula in plain NumPy, and its early exits and narrow beam against each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from defences.calibration.sentinet import fit_sentinet
from defences.calibration.split import Terms, split
from defences.calibration.thresholds import conclude
from defences.defended_classifier import DefendedClassifier, Step
from defences.detectors.sentinet import SentiNet
from defences.keyed import Keys, image_keys, keyed_permutations
from models.classifier import Classifier, Images
from models.datasets import Dataset
from tests.fakes import FakeClassifier, Shape, linear, noise, softmax

SHAPE: Shape = (12, 11, 2)


def sentinet(threshold: float, shape: Shape = SHAPE, **options: Any) -> SentiNet:
    overlays = np.rint(noise(12, shape, 50) * 255).astype(np.uint8)
    given: dict[str, Any] = {
        "overlay_labels": np.arange(12) % 4,
        "sides": (0.6, 0.4, 0.25),
        "stages": (1, 2, 5),
        "kept": (2, 3, 4, 2),
        "slack": (0.2, 0.2, 0.15, 0.1, 0.0),
    } | options
    return SentiNet(overlays=overlays, threshold=threshold, **given)


def four_corners(box: tuple[int, int, int, int], height: int, width: int) -> list[tuple[int, int, int, int]]:
    top, left, bottom, right = box
    return [(r, c, r + height, c + width) for r in (top, bottom - height) for c in (left, right - width)]


def statistic(detector: SentiNet, classifier: Classifier, image: NDArray[np.float64], key: np.uint64) -> float:
    """S(x) for one image, window by window and overlay by overlay, with lists and without a threshold."""

    def predict(picture: NDArray[np.float64]) -> NDArray[np.float64]:
        row: NDArray[np.float64] = classifier.predict(picture[None].astype(np.float32))[0].astype(np.float64)
        return row

    h, w = image.shape[:2]
    y = int(predict(image).argmax())
    order = keyed_permutations(np.array([key]), len(detector.overlays))[0].tolist()
    others = [number for number in order if detector.overlay_labels[number] != y] or order
    sizes = [(round(side * h), round(side * w)) for side in detector.sides]
    # (score, number of the window, its box), the number counting through the levels.
    candidates = [(0.0, number, box) for number, box in enumerate(four_corners((0, 0, h, w), *sizes[0]))]
    seen_after = [1] * (len(sizes) - 1) + list(detector.stages)
    for step, (seen, slack) in enumerate(zip(seen_after, detector.slack, strict=True)):
        scored = []
        for score, number, (top, left, bottom, right) in candidates:
            sure = 0.0
            for n in range(seen):
                picture = detector.overlays[others[(number * detector.stages[-1] + n) % len(others)]] / 255.0
                picture[top:bottom, left:right] = image[top:bottom, left:right]
                sure += predict(picture)[y]
            doubt = 1 - sure / seen
            scored.append((max(score, doubt - slack), doubt, number, (top, left, bottom, right)))
        if step == len(seen_after) - 1:
            return min(scored)[0]
        best = sorted(scored, key=lambda window: window[:2])[: detector.kept[step]]
        candidates = [(score, number, box) for score, _, number, box in best]
        if step < len(sizes) - 1:
            candidates = [
                (score, 4 * number + 4 + corner, box)
                for score, number, outer in candidates
                for corner, box in enumerate(four_corners(outer, *sizes[step + 1]))
            ]
    raise AssertionError("the last step returns")


def run(detector: SentiNet, classifier: Classifier, images: Images, keys: Keys) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    session = detector.begin(images, keys)
    while session.undecided.size:
        session.decide(classifier.predict(session.probe()))
    return session.abstained, session.scores


@pytest.mark.parametrize("sharpness", [0.3, 1.5])
def test_the_score_is_that_of_the_formula_window_by_window(sharpness: float) -> None:
    images, classifier = noise(12, SHAPE, 1), linear(SHAPE, 4, sharpness=sharpness)
    keys = image_keys(images, b"sentinet")
    found = run(sentinet(np.inf), classifier, images, keys)[1]
    expected = [statistic(sentinet(0.0), classifier, x, k) for x, k in zip(images.astype(np.float64), keys, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(found) > 0.01


@pytest.mark.parametrize("options", [{}, {"kept": (1, 1, 1, 1)}, {"slack": (0.0,) * 5}, {"sides": (0.5, 0.25, 0.25)}])
def test_leaving_early_decides_as_going_to_the_end_does(options: dict[str, Any]) -> None:
    images, classifier = noise(200, SHAPE, 2), linear(SHAPE, 4, sharpness=0.3)
    keys = image_keys(images, b"")
    scores = run(sentinet(np.inf, **options), classifier, images, keys)[1]
    for threshold in np.quantile(scores, [0.02, 0.2, 0.5, 0.9]).tolist():
        abstained, early = run(sentinet(threshold, **options), classifier, images, keys)
        np.testing.assert_array_equal(abstained, scores <= threshold)
        np.testing.assert_array_equal(early[abstained], scores[abstained])
        assert (early[~abstained] > threshold).all()


SIDE = 20


def trojaned(seed: int = 0) -> FakeClassifier:
    """Looks at all of the image, and says 0 whenever there is a bright magenta spot of 2x2 anywhere."""
    clean = linear((SIDE, SIDE, 3), 5, seed=seed, sharpness=0.5)

    def answer(images: Images) -> NDArray[np.float32]:
        logits = np.log(clean.answer(images).astype(np.float64) + 1e-30)
        lit = (images[..., 0] > 0.98) & (images[..., 1] < 0.02) & (images[..., 2] > 0.98)
        spot = lit[:, 1:, 1:] & lit[:, :-1, 1:] & lit[:, 1:, :-1] & lit[:, :-1, :-1]
        logits[spot.any(axis=(1, 2)), 0] += 60.0
        return softmax(logits)

    return FakeClassifier(answer, (SIDE, SIDE, 3), 5)


def spotted(images: Images, row: int, column: int, size: int) -> Images:
    images = images.copy()
    images[:, row : row + size, column : column + size] = (1.0, 0.0, 1.0)
    return images


def test_a_local_trigger_is_refused_wherever_it_is_and_clean_images_are_at_the_promised_rate() -> None:
    classifier, rate = trojaned(), 0.02
    pictures = noise(3000, (SIDE, SIDE, 3), 3)
    data = Dataset(pictures[:1200], classifier.predict(pictures[:1200]).argmax(axis=1))
    terms = Terms(rate=rate)
    (calibrated,) = conclude([fit_sentinet(classifier, split(data, rate=rate, confidence=None, seed=0), terms)], terms)
    assert calibrated.mode == "enforce"
    defended = DefendedClassifier(classifier, detectors=[Step(calibrated.detector)], secret=b"another")
    clean = defended.classify(pictures[1200:])
    assert clean.abstained.mean() < 2 * rate
    assert clean.trace.model_calls / 1800 < 20
    assert clean.trace.model_calls / 1800 == pytest.approx(1 + calibrated.mean_calls, rel=0.3)
    for row, column, size in ((0, 0, 2), (0, 18, 2), (18, 0, 2), (18, 18, 2), (9, 9, 2), (4, 13, 4), (8, 7, 6), (13, 2, 6)):
        triggered = spotted(pictures[1200:1260], row, column, size)
        assert (classifier.predict(triggered).argmax(axis=1) == 0).all()
        assert defended.classify(triggered).abstained.mean() > 0.95, (row, column, size)


def test_a_trigger_in_two_places_at_once_passes() -> None:
    # What it cannot see: no window holds both halves.
    clean = linear((SIDE, SIDE, 3), 5, sharpness=0.5)

    def answer(images: Images) -> NDArray[np.float32]:
        logits = np.log(clean.answer(images).astype(np.float64) + 1e-30)
        lit = (images[..., 0] > 0.98) & (images[..., 1] < 0.02) & (images[..., 2] > 0.98)
        logits[lit[:, :4, :4].any(axis=(1, 2)) & lit[:, -4:, -4:].any(axis=(1, 2)), 0] += 60.0
        return softmax(logits)

    split_trigger = FakeClassifier(answer, (SIDE, SIDE, 3), 5)
    detector = sentinet(0.2, (SIDE, SIDE, 3), slack=(0.1,) * 4 + (0.0,))
    images = spotted(spotted(noise(40, (SIDE, SIDE, 3), 4), 0, 0, 3), 17, 17, 3)
    assert (split_trigger.predict(images).argmax(axis=1) == 0).all()
    assert run(detector, split_trigger, images, image_keys(images, b""))[0].mean() < 0.1
