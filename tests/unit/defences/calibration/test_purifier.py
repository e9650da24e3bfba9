"""Calibration: what is chosen, when nothing can be, and that pruning does not change the threshold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from defences.calibration.conformal import conformal_rank
from defences.calibration.purifier import ACCURACY_POINTS_AT_MOST, choose_purifier
from defences.calibration.sentinet import fit_sentinet
from defences.calibration.split import IMAGES_AT_LEAST, CalibrationSplit, Terms, split
from defences.calibration.strip import _staged_scores, fit_strip
from defences.calibration.thresholds import CalibratedDetector, conclude
from defences.detectors.strip import Strip
from defences.errors import InvalidInput
from defences.keyed import Keys, random_keys
from models.classifier import Classifier, Images, Probabilities
from models.datasets import Dataset
from tests.fakes import FakeClassifier, constant, linear, noise, softmax

SHAPE = (12, 12, 1)


def told(what: str, done: int, of: int) -> None:
    """Progress never runs past its end."""
    assert 0 <= done <= of, what


def labelled(classifier: Classifier, n: int, seed: int = 0) -> Dataset:
    """Noise, labelled as the classifier does: it is never wrong on clean data."""
    images = noise(n, classifier.input_shape, seed)
    return Dataset(images, classifier.predict(images).argmax(axis=1))


def halves(images: Images) -> Probabilities:
    """Which half is brighter: no purifier worth the name changes that."""
    difference = images[:, :, :6].mean(axis=(1, 2, 3)) - images[:, :, 6:].mean(axis=(1, 2, 3))
    return softmax(np.stack([difference, -difference], axis=1).astype(np.float64) * 10)


def half_bright(n: int, seed: int) -> Dataset:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    images = rng.random((n, *SHAPE)) * 0.1 + 0.2
    images[labels == 0, :, :6] += 0.5
    images[labels == 1, :, 6:] += 0.5
    return Dataset(images.astype(np.float32), labels)


BOARD = np.indices(SHAPE[:2]).sum(axis=0)[..., None] % 2 * 2.0 - 1


def checkers(images: Images) -> Probabilities:
    """Whether there is a checkerboard, which is one only while it is crisp: whatever smooths, blinds."""
    crispness = (images * BOARD).mean(axis=(1, 2, 3)) - 0.2
    return softmax(np.stack([-crispness, crispness], axis=1).astype(np.float64) * 100)


def test_fewer_than_300_images_are_refused() -> None:
    data = labelled(linear(SHAPE, 3), 299)
    with pytest.raises(InvalidInput, match="expected at least 300 clean images to calibrate on, got 299"):
        split(data, rate=0.1, confidence=None, seed=0)
    assert IMAGES_AT_LEAST == 300


@pytest.mark.parametrize(("rate", "confidence"), [(0.002, None), (0.01, 0.95)])
def test_images_too_few_for_the_promise_are_refused_and_the_number_stated_suffices(rate: float, confidence: float | None) -> None:
    data = labelled(linear((2, 2, 1), 3), 2000)
    with pytest.raises(InvalidInput, match=r"expected at least (\d+) clean images for a false abstention rate") as refusal:
        split(data.take(slice(0, 320)), rate=rate, confidence=confidence, seed=0)
    enough = int(str(refusal.value).split()[3])
    parts = split(data.take(slice(0, enough)), rate=rate, confidence=confidence, seed=0)
    assert conformal_rank(len(parts.holding), rate, confidence) >= 1


def test_the_parts_share_no_image_and_follow_from_the_seed() -> None:
    data = Dataset(np.arange(600, dtype=np.float32).reshape(600, 1, 1, 1), np.arange(600))
    first, again, other = (split(data, rate=0.05, confidence=None, seed=seed) for seed in (0, 0, 1))
    assert sorted([*first.choosing.labels, *first.holding.labels]) == list(range(600))
    assert len(first.choosing) == 200
    np.testing.assert_array_equal(first.choosing.labels, again.choosing.labels)
    assert (first.choosing.labels != other.choosing.labels).any()


def test_the_strongest_purifier_that_costs_next_to_nothing_is_enforced() -> None:
    choice = choose_purifier(FakeClassifier(halves, SHAPE, 2), half_bright(400, 0), progress=told)
    assert choice.mode == "enforce"
    assert choice.undefended_accuracy == 1.0
    assert len(choice.trials) == 1  # the strongest was tried first and was affordable
    assert choice.trials[0].clean.at_most <= ACCURACY_POINTS_AT_MOST
    assert choice.purifier.weight == choice.trials[0].weight == pytest.approx(2.0 / 12, abs=1e-4)


def test_a_purifier_nobody_can_afford_only_monitors_and_says_why() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    images = 0.45 + rng.random((400, *SHAPE)) * 0.1 + 0.21 * labels[:, None, None, None] * BOARD
    choice = choose_purifier(FakeClassifier(checkers, SHAPE, 2), Dataset(images.astype(np.float32), labels), progress=told)
    assert choice.undefended_accuracy == 1.0
    assert choice.mode == "monitor"
    assert "so it only monitors" in choice.reason
    assert "train the classifier on purified images" in choice.reason
    assert not any(trial.affordable for trial in choice.trials)
    weights = [trial.weight for trial in choice.trials]
    assert len(weights) > 1
    assert weights == sorted(weights, reverse=True)


def test_a_purifier_that_only_makes_noisy_images_worse_is_not_enforced() -> None:
    def trained_on_noise(images: Images) -> Probabilities:
        """Right about smooth images and about full noise, wrong about what a purifier leaves of noise."""
        roughness = np.abs(np.diff(images, axis=2)).mean(axis=(1, 2, 3))
        stranger = (roughness > 0.02) & (roughness < 0.2)
        answers = halves(images)
        answers[stranger] = answers[stranger, ::-1]
        return answers

    choice = choose_purifier(FakeClassifier(trained_on_noise, SHAPE, 2), half_bright(400, 0))
    assert choice.trials[0].clean.lost_points == 0
    assert any(trial.acts and trial.noisy.harms for trial in choice.trials)
    assert choice.mode == "monitor" or not choice.trials[-1].noisy.harms
    assert choice.purifier.weight < choice.trials[0].weight


def calibrated(classifier: Classifier, parts: CalibrationSplit, **terms: Any) -> tuple[CalibratedDetector, Strip]:
    """STRIP with its threshold, calibrated alone."""
    (found,) = conclude([fit_strip(classifier, parts, Terms(**terms))], Terms(**terms))
    assert isinstance(found.detector, Strip)
    return found, found.detector


def test_strip_on_a_classifier_that_scores_like_a_backdoor_only_monitors_and_says_why() -> None:
    trojan = constant([1, 0, 0], (2, 2, 1))
    choice, strip = calibrated(trojan, split(labelled(trojan, 400), rate=0.05, confidence=None, seed=0), rate=0.05)
    assert choice.mode == "monitor"
    assert "clean images score as low as a perfect backdoor would for any to be refused, so it only monitors" in choice.reason
    assert strip.threshold == choice.threshold == -np.inf
    assert not (choice.fitted.choosing <= choice.threshold).any()


def unwavering(images: Images, logit: float) -> Probabilities:
    """Whatever is in an image: class 0, a little less surely for a darker one."""
    margin = logit + 6 * (images.mean(axis=(1, 2, 3), dtype=np.float64) - 0.5)
    return softmax(np.stack([margin, np.zeros(len(margin)), np.zeros(len(margin))], axis=1))


@pytest.mark.parametrize("logit", [12.0, 25.0, 80.0])  # float32 rounds the last two's probabilities to 1
def test_a_classifier_that_is_too_sure_cannot_switch_off_its_own_detector(logit: float) -> None:
    sure = FakeClassifier(lambda images: unwavering(images, logit), (4, 4, 1), 3)
    parts = split(labelled(sure, 600), rate=0.05, confidence=None, seed=0)
    choice, strip = calibrated(sure, parts, rate=0.05)
    assert 0 < choice.threshold <= 1e-4
    assert choice.mode == "enforce"
    assert "distrust a classifier that is so sure" in choice.reason
    assert (choice.fitted.holding <= strip.threshold).sum() == conformal_rank(len(parts.holding), 0.05, None)
    backdoor = constant([1, 0, 0], (4, 4, 1))
    images = noise(50, (4, 4, 1), 9)
    assert refused(strip, backdoor, images, random_keys(50, np.random.default_rng(0))).all()


def test_a_classifier_that_is_sure_of_other_answers_under_overlays_is_not_like_a_backdoor() -> None:
    # Its entropies are next to none under every overlay, its changes are not.
    sure = linear((4, 4, 1), 4, sharpness=300.0)
    choice, strip = calibrated(sure, split(labelled(sure, 600), rate=0.05, confidence=None, seed=0), rate=0.05)
    assert choice.threshold > 0.05
    assert choice.mode == "enforce"
    assert "distrust" not in choice.reason
    backdoor = constant([1, 0, 0, 0], (4, 4, 1))
    images = noise(50, (4, 4, 1), 9)
    assert refused(strip, backdoor, images, random_keys(50, np.random.default_rng(0))).all()


@pytest.mark.parametrize(("rate", "confidence"), [(0.05, None), (0.05, 0.95), (0.2, None)])
def test_as_many_held_images_are_refused_as_the_promise_allows(rate: float, confidence: float | None) -> None:
    classifier = linear((4, 4, 1), 4, sharpness=2.0)
    parts = split(labelled(classifier, 900), rate=rate, confidence=confidence, seed=3)
    choice, strip = calibrated(classifier, parts, rate=rate, confidence=confidence, seed=3, progress=told)
    assert choice.mode == "enforce"
    assert (choice.fitted.holding <= strip.threshold).sum() == conformal_rank(len(parts.holding), rate, confidence)
    assert f"from {len(parts.holding)} held images" in choice.reason
    assert ("with confidence" in choice.reason) == (confidence is not None)
    assert strip.stages[-1] == len(strip.overlays) <= 32
    assert strip.statistic == "change"
    assert strip.threshold <= strip.ceiling
    card = choice.card()
    assert card["chosen"] in card["trials"]
    assert {(trial["blend"], trial["weight"]) for trial in card["trials"]} == {
        ("add", 1.0),
        ("add", 0.5),
        ("add", 0.25),
        ("mix", 0.5),
    }


def test_the_progress_of_a_work_counts_on_to_its_end_however_many_parts_it_has() -> None:
    classifier, came = linear((4, 4, 1), 4, sharpness=2.0), dict[str, list[tuple[int, int]]]()
    data = labelled(classifier, 900)
    parts = split(data, rate=0.05, confidence=None, seed=0)
    fitted: dict[str, Callable[..., object]] = {"strip": fit_strip, "sentinet": fit_sentinet}

    def told(what: str, done: int, of: int) -> None:
        came.setdefault(what, []).append((done, of))

    choose_purifier(classifier, data, progress=told)
    for fit in fitted.values():
        fit(classifier, parts, Terms(rate=0.05, progress=told))
    assert set(came) == {"purifier", "overlays", "threshold", "windows", "held windows"}
    for what, reports in came.items():
        assert len({of for _, of in reports}) == 1, what
        assert reports == sorted(reports), what
        assert reports[-1][0] == reports[-1][1], what


def test_overlays_come_from_the_images_to_choose_on_and_never_from_those_held() -> None:
    classifier = linear((4, 4, 1), 4, sharpness=2.0)
    parts = split(labelled(classifier, 600), rate=0.05, confidence=None, seed=0)
    _, strip = calibrated(classifier, parts, rate=0.05)
    pictures = np.rint(parts.choosing.images[:] * 255).astype(np.uint8)
    assert {overlay.tobytes() for overlay in strip.overlays} <= {picture.tobytes() for picture in pictures}


def test_the_same_seed_calibrates_the_same_and_another_one_otherwise() -> None:
    classifier = linear((4, 4, 1), 4, sharpness=2.0)
    parts = split(labelled(classifier, 600), rate=0.05, confidence=None, seed=0)
    first, again, other = (calibrated(classifier, parts, rate=0.05, seed=seed)[0] for seed in (0, 0, 1))
    assert first.threshold == again.threshold
    np.testing.assert_array_equal(first.fitted.holding, again.fitted.holding)
    assert (first.fitted.holding != other.fitted.holding).any()


def refused(strip: Strip, classifier: Classifier, images: Images, keys: Keys) -> NDArray[np.bool_]:
    session, answers = strip.begin(images, keys), classifier.predict(images)
    while session.undecided.size:
        session.decide(classifier.predict(session.probe()), answers)
    return session.abstained


@pytest.mark.parametrize(
    ("stages", "slack"), [((2, 4, 8, 16, 32), (0.3, 0.2, 0.1, 0.05, 0.0)), ((1, 32), (0.2, 0.0)), ((32,), (0.0,))]
)
@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.45, 0.5])
def test_the_scores_of_held_images_say_which_of_them_a_threshold_refuses(
    stages: tuple[int, ...], slack: tuple[float, ...], threshold: float
) -> None:
    classifier, images = linear((4, 4, 1), 4, sharpness=1.0), noise(800, (4, 4, 1), 2)
    bank = np.rint(noise(32, (4, 4, 1), 3) * 255).astype(np.uint8)
    strip = Strip(overlays=bank, threshold=threshold, stages=stages, slack=slack, statistic="change", ceiling=0.5)
    keys = random_keys(len(images), np.random.default_rng(7))
    scores = _staged_scores(strip, classifier, images, strip.orders(keys), lambda done, of: None)
    found = refused(strip, classifier, images, keys)
    np.testing.assert_array_equal(scores <= threshold, found)
    if threshold == 0.5:
        assert 0 < found.mean() < 1


def test_images_that_leave_are_not_looked_at_any_further() -> None:
    classifier, images = linear((4, 4, 1), 4, sharpness=1.0), noise(800, (4, 4, 1), 2)
    bank = np.rint(noise(32, (4, 4, 1), 3) * 255).astype(np.uint8)
    strip = Strip(overlays=bank, threshold=0.1, stages=(2, 4, 32), slack=(0.1, 0.1, 0.0), statistic="change", ceiling=0.1)
    order = strip.orders(random_keys(len(images), np.random.default_rng(7)))
    _staged_scores(strip, classifier, images, order, lambda done, of: None)
    assert sum(classifier.calls) < 0.5 * 800 * 32


def test_no_image_is_held_to_no_rank() -> None:
    classifier = linear((4, 4, 1), 4)
    data = labelled(classifier, 100)
    choice, _ = calibrated(classifier, CalibrationSplit(data.take(slice(0, 60)), data.take(slice(60, 100))), rate=0.01)
    assert choice.mode == "monitor"
    assert choice.threshold == -np.inf
