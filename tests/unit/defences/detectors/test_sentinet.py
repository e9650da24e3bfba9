"""SentiNet: parameters, windows, sessions, what calibration chooses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from defences.calibration.sentinet import _bank, fit_sentinet
from defences.calibration.split import Terms, split
from defences.calibration.strip import fit_strip
from defences.calibration.thresholds import calibrate_detectors, conclude
from defences.detectors import sentinet as module
from defences.detectors.sentinet import SentiNet
from defences.detectors.sentinet_windows import boxes, corners_of
from defences.errors import InvalidParameter
from models.classifier import Classifier, Probabilities
from models.datasets import Dataset
from tests.fakes import Shape, constant, linear, noise

SHAPE: Shape = (10, 8, 2)
OVERLAYS = np.rint(noise(6, SHAPE, 0) * 255).astype(np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])
GOOD: dict[str, Any] = {
    "overlays": OVERLAYS,
    "overlay_labels": LABELS,
    "threshold": 0.5,
    "sides": (0.6, 0.4),
    "stages": (1, 3),
    "kept": (2, 1),
    "slack": (0.2, 0.1, 0.0),
}


def sure_of(label: int, rows: int, p: float) -> Probabilities:
    """Rows of three classes with p for one of them."""
    found = np.full((rows, 3), (1 - p) / 2, np.float32)
    found[:, label] = p
    return found


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"overlays": OVERLAYS / 255}, "expected overlays uint8"),
        ({"overlays": OVERLAYS[0]}, "expected overlays uint8"),
        ({"overlays": OVERLAYS[:0]}, "expected overlays uint8"),
        ({"overlay_labels": LABELS[:5]}, "one for each of 6 overlays"),
        ({"overlay_labels": LABELS / 2}, "expected whole overlay_labels"),
        ({"sides": ()}, "each at least half of the one before"),
        ({"sides": (0.4, 0.3)}, "each at least half of the one before"),
        ({"sides": (0.6, 0.7)}, "each at least half of the one before and no more"),
        ({"sides": (0.6, np.nan)}, "each at least half of the one before"),
        ({"stages": ()}, "expected increasing stages"),
        ({"stages": (3, 1)}, "expected increasing stages"),
        ({"stages": (0, 3)}, "expected increasing stages"),
        ({"stages": (1.0, 3.0)}, "expected increasing stages"),
        ({"kept": (2,)}, "after each of 2 steps"),
        ({"kept": (2, 0)}, "after each of 2 steps"),
        ({"slack": (0.1, 0.0)}, "one slack >= 0 for each of 3 steps"),
        ({"slack": (-0.1, 0.1, 0.0)}, "one slack >= 0"),
        ({"slack": (np.nan, 0.1, 0.0)}, "one slack >= 0"),
        ({"slack": (0.1, 0.1, 0.1)}, "the last 0"),
        ({"threshold": np.nan}, "got NaN"),
    ],
)
def test_parameters_out_of_their_domain_are_refused(parameters: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidParameter, match=sentence):
        SentiNet(**(GOOD | parameters))


def test_as_it_comes_it_costs_what_its_docstring_says() -> None:
    plain = SentiNet(overlays=OVERLAYS, overlay_labels=LABELS, threshold=0.5)
    assert plain.calls_at_most == 57
    assert SentiNet(**GOOD).calls_at_most == 1 + 4 * 1 + 8 * 1 + 1 * 2


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 3), (5, 7), (28, 28), (32, 32), (33, 47)])
@pytest.mark.parametrize("sides", [(0.58, 0.36, 0.23), (0.5, 0.25), (1.0,), (0.6,)])
def test_the_windows_of_each_level_cover_those_of_the_one_before(shape: tuple[int, int], sides: tuple[float, ...]) -> None:
    found = boxes(*shape, sides)
    assert len(found) == sum(4 ** (level + 1) for level in range(len(sides))) + 1
    assert (found[:, 2:] > found[:, :2]).all()
    assert (found >= 0).all()
    assert (found[:, 2:] <= shape).all()

    def covered(windows: NDArray[np.int64]) -> NDArray[np.bool_]:
        pixels = np.zeros(shape, bool)
        for top, left, bottom, right in found[windows]:
            pixels[top:bottom, left:right] = True
        return pixels

    assert covered(np.arange(4)).all()
    for window in range(len(found) - 1 - 4 ** len(sides)):
        np.testing.assert_array_equal(covered(corners_of(np.array([window]))[0]), covered(np.array([window])))


def test_a_row_is_the_overlay_but_for_the_window() -> None:
    detector, images = SentiNet(**GOOD), noise(2, SHAPE, 1)
    rows = detector.transplant(images, np.array([0, 1]), np.array([2, 5]), np.array([0, 7]))
    inside = detector.inside(np.array([0, 7]))
    bank = OVERLAYS.astype(np.float32) / 255
    np.testing.assert_array_equal(rows, np.where(inside, images, bank[[2, 5]]))
    assert 0 < inside.sum() < inside.size


def test_the_image_itself_is_asked_first_and_no_overlay_of_its_class_after_that() -> None:
    detector, images = SentiNet(**GOOD), noise(3, SHAPE, 1)
    session = detector.begin(images, np.arange(3, dtype=np.uint64))
    np.testing.assert_array_equal(session.probe(), images)
    session.decide(sure_of(2, 3, 1.0))
    assert np.isnan(session.scores).all()
    probes = session.probe()
    bank = OVERLAYS.astype(np.float32) / 255
    for number, probe in enumerate(probes):
        inside = detector.inside(np.array([number % 4]))[0]
        on = [label for label, overlay in zip(LABELS, bank, strict=True) if (probe == overlay)[~inside[..., 0]].all()]
        assert on in ([0], [1])
        assert (probe == images[number // 4])[inside[..., 0]].all()


def test_windows_above_the_threshold_are_out_and_the_best_are_looked_into() -> None:
    session = SentiNet(**GOOD).begin(noise(2, SHAPE, 1), np.arange(2, dtype=np.uint64))
    session.probe()
    session.decide(sure_of(0, 2, 0.9))
    assert session.probe().shape == (8, *SHAPE)
    # The first image: one window with 1 - .5 - .2 <= .5; the second: none, the best has 1 - .29 - .2 = .51.
    session.decide(np.concatenate([sure_of(0, 1, p) for p in (0.1, 0.5, 0.2, 0.0, 0.29, 0.2, 0.1, 0.0)]))
    assert session.undecided.tolist() == [0]
    np.testing.assert_allclose(session.scores, [0.3, 0.51], atol=1e-6)
    probes = session.probe()
    assert len(probes) == 4
    images_in = SentiNet(**GOOD).inside(corners_of(np.array([1]))[0])
    assert images_in.shape[0] == 4
    session.decide(np.concatenate([sure_of(0, 1, p) for p in (0.6, 1.0, 0.9, 0.0)]))
    assert len(session.probe()) == 2  # one window goes on, to two more overlays
    session.decide(sure_of(0, 2, 0.4))
    assert session.undecided.size == 0
    assert session.abstained.tolist() == [True, False]
    assert session.calls.tolist() == [1 + 4 + 4 + 2, 1 + 4]
    assert session.scores[0] == pytest.approx(1 - (1.0 + 0.4 + 0.4) / 3)


def test_many_large_images_take_turns_and_are_decided_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier, images = linear(SHAPE, 3, sharpness=0.3), noise(30, SHAPE, 2)
    keys = np.arange(30, dtype=np.uint64)

    def decided() -> tuple[NDArray[np.float64], int]:
        session, most = SentiNet(**GOOD).begin(images, keys), 0
        while session.undecided.size:
            probes = session.probe()
            most = max(most, len(probes))
            session.decide(classifier.predict(probes))
        return session.scores, most

    scores, at_once = decided()
    monkeypatch.setattr(module, "_NUMBERS_PER_PROBE", 10 * int(np.prod(SHAPE)))
    in_turns, fewer = decided()
    np.testing.assert_array_equal(in_turns, scores)
    assert fewer <= 10 < at_once


def test_who_joins_later_is_decided_as_alone() -> None:
    classifier, images = linear(SHAPE, 3, sharpness=0.3), noise(8, SHAPE, 3)
    keys = np.arange(8, dtype=np.uint64)
    session = SentiNet(**GOOD | {"threshold": 1.0}).begin(images[:5], keys[:5])
    for _ in range(2):
        session.decide(classifier.predict(session.probe()))
    session.join(np.array([1, 4]), images[5:], keys[5:])
    while session.undecided.size:
        session.decide(classifier.predict(session.probe()))
    alone = SentiNet(**GOOD | {"threshold": 1.0}).begin(images[[1, 4, 5, 6, 7]], keys[[1, 4, 5, 6, 7]])
    while alone.undecided.size:
        alone.decide(classifier.predict(alone.probe()))
    np.testing.assert_allclose(session.scores, alone.scores, atol=1e-9)
    np.testing.assert_array_equal(session.calls, alone.calls)


def test_where_every_overlay_is_of_the_images_class_they_are_taken_all_the_same() -> None:
    detector = SentiNet(**GOOD | {"overlay_labels": np.zeros(6, int)})
    session = detector.begin(noise(1, SHAPE, 1), np.zeros(1, np.uint64))
    session.probe()
    session.decide(sure_of(0, 1, 1.0))
    assert session.probe().shape == (4, *SHAPE)


def labelled(classifier: Classifier, n: int, seed: int = 0) -> Dataset:
    images = noise(n, classifier.input_shape, seed)
    return Dataset(images, classifier.predict(images).argmax(axis=1))


def test_overlays_are_typical_of_their_class_and_of_every_class() -> None:
    outputs = np.concatenate([sure_of(label, 1, p) for label, p in ((0, 0.9), (0, 0.6), (0, 0.7), (2, 0.8), (1, 0.5), (1, 0.9))])
    assert sorted(_bank(outputs, 3).tolist()) == [2, 3, 4]
    assert sorted(_bank(outputs, 99).tolist()) == list(range(6))


def test_overlays_come_from_the_images_to_choose_on_and_none_of_them_is_scored() -> None:
    classifier = linear((8, 8, 1), 4, sharpness=0.5)
    parts = split(labelled(classifier, 600), rate=0.05, confidence=None, seed=0)
    fitted = fit_sentinet(classifier, parts, Terms(rate=0.05))
    overlays = fitted.arrays["overlays"]
    pictures = np.rint(parts.choosing.images[:] * 255).astype(np.uint8)
    assert len(overlays) == 64
    assert all((pictures == overlay).all(axis=(1, 2, 3)).any() for overlay in overlays)
    assert len(fitted.choosing) == len(parts.choosing) - 64
    assert len(fitted.holding) == len(parts.holding)


def test_as_many_held_images_are_refused_as_the_promise_allows_and_at_the_cost_foretold() -> None:
    classifier = linear((8, 8, 1), 4, sharpness=0.5)
    parts = split(labelled(classifier, 900), rate=0.05, confidence=None, seed=3)
    fitted = fit_sentinet(classifier, parts, Terms(rate=0.05, seed=3))
    (calibrated,) = conclude([fitted], Terms(rate=0.05))
    assert (fitted.holding <= calibrated.threshold).sum() == 30
    assert calibrated.mode == "enforce"
    assert calibrated.detector.calls_at_most == 57


def test_a_classifier_with_one_answer_for_all_leaves_nothing_to_refuse() -> None:
    same = constant([1, 0, 0], (4, 4, 1))
    parts = split(labelled(same, 400), rate=0.05, confidence=None, seed=0)
    (calibrated,) = conclude([fit_sentinet(same, parts, Terms(rate=0.05))], Terms(rate=0.05))
    assert (calibrated.mode, calibrated.threshold) == ("monitor", -np.inf)
    assert "so it only monitors" in calibrated.reason


def test_the_same_seed_calibrates_the_same_and_strip_is_fitted_as_if_it_were_alone() -> None:
    classifier = linear((8, 8, 1), 4, sharpness=0.5)
    parts = split(labelled(classifier, 600), rate=0.05, confidence=None, seed=0)
    fits = {"strip": fit_strip, "sentinet": fit_sentinet}
    first, again = (calibrate_detectors(classifier, parts, fits, Terms(rate=0.05, seed=4)) for _ in range(2))
    assert [one.threshold for one in first] == [one.threshold for one in again]
    (strip,) = calibrate_detectors(classifier, parts, {"strip": fit_strip}, Terms(rate=0.05, seed=4))
    np.testing.assert_array_equal(first[0].fitted.holding, strip.fitted.holding)
    assert first[0].threshold <= strip.threshold
    refused = (first[0].fitted.holding <= first[0].threshold) | (first[1].fitted.holding <= first[1].threshold)
    assert refused.sum() == int(0.05 * 401)
    assert all("refused by strip or sentinet on average" in one.reason for one in first)
