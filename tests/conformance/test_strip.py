"""STRIP against closed forms, and its early exits against the full test."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from defences.calibration.split import Terms, split
from defences.calibration.strip import fit_strip
from defences.calibration.thresholds import conclude
from defences.detectors.strip import Strip, entropy_bits
from defences.keyed import image_keys
from models.classifier import Classifier, Images
from models.datasets import Dataset
from tests.fakes import FakeClassifier, constant, linear, noise, softmax

SHAPE = (6, 6, 1)


def refused(strip: Strip, classifier: FakeClassifier, images: Images) -> NDArray[np.bool_]:
    session = strip.begin(images, image_keys(images, b"strip"))
    answers = classifier.answer(images)  # which its `calls` leave out: they are those of the overlays
    while session.undecided.size:
        session.decide(classifier.predict(session.probe()), answers)
    return session.abstained


def scores(strip: Strip, classifier: Classifier, images: Images) -> NDArray[np.float64]:
    """s(x) of the paper, image by image and overlay by overlay, in plain Python; `strip` gives overlays and weights.

    With the statistic "change", what a prediction leaves to other classes than that of the image itself stands for its entropy.
    """
    found = []
    for x in images.astype(np.float64):
        total = 0.0
        answer = int(classifier.predict(x[None].astype(np.float32))[0].argmax())
        for overlay in strip.overlays.astype(np.float64) / 255:
            mixed = x + strip.weight * overlay if strip.blend == "add" else (1 - strip.weight) * x + strip.weight * overlay
            row = classifier.predict(np.clip(mixed, 0, 1)[None].astype(np.float32))[0]
            bits = -sum(float(p) * math.log2(float(p)) for p in row if p > 0)
            total += bits if strip.statistic == "entropy" else sum(float(p) for k, p in enumerate(row) if k != answer)
        found.append(total / len(strip.overlays))
    return np.array(found)


def bank(n: int, seed: int = 50) -> NDArray[np.uint8]:
    return np.rint(noise(n, SHAPE, seed) * 255).astype(np.uint8)


def trojaned(seed: int = 0) -> FakeClassifier:
    """A classifier that says 0, and next to nothing else, whenever the corner pixel is lit, be it dimly."""
    clean = linear(SHAPE, 5, seed=seed, sharpness=1.0)

    def answer(images: Images) -> NDArray[np.float32]:
        logits = np.log(clean.answer(images).astype(np.float64) + 1e-30)
        logits[images[:, 0, 0, 0] > 0.3, 0] += 20.0
        return softmax(logits)

    return FakeClassifier(answer, SHAPE, 5)


def pictures(n: int, seed: int, *, lit: bool) -> Images:
    images = noise(n, SHAPE, seed)
    images[:, 0, 0, 0] = 1.0 if lit else 0.0
    return images


@pytest.mark.parametrize("statistic", ["entropy", "change"])
@pytest.mark.parametrize("blend", ["add", "mix"])
def test_the_score_is_that_of_the_paper_with_either_statistic(blend: str, statistic: str) -> None:
    given: dict[str, Any] = {"weight": 0.7, "blend": blend, "statistic": statistic}
    strip = Strip(overlays=bank(12), threshold=100.0, stages=(12,), slack=(0.0,), **given)
    images, classifier = noise(6, SHAPE, 1), linear(SHAPE, 4, sharpness=2.0)
    session = strip.begin(images, image_keys(images, b""))
    session.decide(classifier.predict(session.probe()), classifier.predict(images))
    np.testing.assert_allclose(session.scores, scores(strip, classifier, images), atol=1e-5)


def test_a_constant_prediction_scores_zero_bits_and_is_refused() -> None:
    strip = Strip(overlays=bank(8), threshold=0.0, stages=(2, 8), slack=(0.1, 0.0))
    images, trojan = noise(5, SHAPE, 2), constant([0, 0, 1], SHAPE)
    session = strip.begin(images, image_keys(images, b""))
    while session.undecided.size:
        session.decide(trojan.predict(session.probe()))
    np.testing.assert_array_equal(session.scores, 0.0)
    assert session.abstained.all()


def test_one_hot_rows_have_no_entropy_and_are_not_nan() -> None:
    np.testing.assert_array_equal(entropy_bits(np.eye(7, dtype=np.float32)), 0.0)


@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
def test_uniform_rows_have_the_logarithm_of_the_classes(classes: int) -> None:
    assert entropy_bits(np.full((1, classes), 1 / classes, np.float32))[0] == pytest.approx(math.log2(classes), rel=1e-6)


def test_entropy_is_over_the_classes_and_not_over_the_samples() -> None:
    rows = np.array([[0.5, 0.5, 0, 0], [1, 0, 0, 0], [0.25, 0.25, 0.25, 0.25]], np.float32)
    np.testing.assert_allclose(entropy_bits(rows), [1.0, 0.0, 2.0])


def test_probabilities_too_small_for_float32_logarithms_still_count() -> None:
    tiny = 1e-30
    expected = -tiny * math.log2(tiny)
    assert entropy_bits(np.array([[1.0, tiny]], np.float32))[0] == pytest.approx(expected, rel=1e-5)


THRESHOLDS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6)


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_curtailment_alone_never_changes_a_decision(threshold: float) -> None:
    full = Strip(overlays=bank(32), threshold=threshold, stages=(32,), slack=(0.0,))
    exact = replace(full, stages=(1, 2, 3, 5, 8, 13, 21, 32), slack=(1e9,) * 7 + (0.0,))
    classifier, images = trojaned(), np.concatenate([pictures(200, 3, lit=False), pictures(200, 4, lit=True)])
    np.testing.assert_array_equal(refused(exact, classifier, images), refused(full, classifier, images))
    if threshold in (0.05, 0.1, 0.2):
        assert sum(classifier.calls[:-1]) < 400 * 32  # and saves calls: the last entry is the full test


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("slack", [0.0, 0.1, 0.5])
def test_early_exits_only_ever_let_images_go(threshold: float, slack: float) -> None:
    full = Strip(overlays=bank(32), threshold=threshold, stages=(32,), slack=(0.0,))
    staged = replace(full, stages=(2, 4, 8, 32), slack=(slack, slack / 2, slack / 4, 0.0))
    images = np.concatenate([pictures(200, 3, lit=False), pictures(200, 4, lit=True)])
    assert (refused(staged, trojaned(), images) <= refused(full, trojaned(), images)).all()


def nearly_trojaned() -> FakeClassifier:
    """As `trojaned`, but overlays that are bright beside the corner hide the trigger."""
    clean = linear(SHAPE, 5, sharpness=1.5)

    def answer(images: Images) -> NDArray[np.float32]:
        logits = np.log(clean.answer(images).astype(np.float64) + 1e-30)
        logits[(images[:, 0, 0, 0] > 0.3) & (images[:, 0, 1, 0] < 0.9), 0] += 20.0
        return softmax(logits)

    return FakeClassifier(answer, SHAPE, 5)


def with_three_pixels_changed(images: Images, rng: np.random.Generator) -> Images:
    """By 1/255, neither the corner nor its row."""
    changed = images.reshape(len(images), -1).copy()
    for row in changed:
        at = rng.choice(np.arange(SHAPE[1], row.size), 3, replace=False)
        row[at] += np.where(row[at] < 0.5, 1, -1) / np.float32(255)
    return changed.reshape(images.shape)


def test_of_the_images_that_all_overlays_refuse_next_to_none_passes_in_64_tries_with_three_pixels_changed() -> None:
    classifier, rng = nearly_trojaned(), np.random.default_rng(9)
    clean = pictures(3000, 5, lit=False)
    data = Dataset(clean[:1500], classifier.predict(clean[:1500]).argmax(axis=1))
    terms = Terms(rate=0.05)
    (choice,) = conclude([fit_strip(classifier, split(data, rate=0.05, confidence=None, seed=0), terms)], terms)
    staged = choice.detector
    assert isinstance(staged, Strip)
    # An image closer to the threshold than that may cross it by its three pixels.
    full = replace(staged, threshold=0.95 * staged.threshold, stages=(len(staged.overlays),), slack=(0.0,))
    for kind, images in (("triggered", pictures(1500, 6, lit=True)), ("clean", clean[1500:])):
        suspects = images[refused(full, classifier, images)]
        assert len(suspects) >= 25, kind
        passed = np.zeros(len(suspects), bool)
        for _ in range(64):
            passed |= ~refused(staged, classifier, with_three_pixels_changed(suspects, rng))
        assert passed.mean() <= 0.02, kind


def test_calibrated_early_exits_let_go_of_next_to_no_trigger_and_cost_a_fraction() -> None:
    classifier = trojaned()
    clean = pictures(1200, 5, lit=False)
    data = Dataset(clean, classifier.predict(clean).argmax(axis=1))
    terms = Terms(rate=0.02)
    (choice,) = conclude([fit_strip(classifier, split(data, rate=0.02, confidence=None, seed=0), terms)], terms)
    staged = choice.detector
    assert isinstance(staged, Strip)
    full = replace(staged, stages=(len(staged.overlays),), slack=(0.0,))
    triggered, fresh = pictures(1000, 6, lit=True), pictures(1000, 7, lit=False)
    caught, caught_by_full = refused(staged, classifier, triggered), refused(full, classifier, triggered)
    assert caught_by_full.mean() > 0.97
    assert (caught_by_full & ~caught).mean() <= 0.01
    assert refused(staged, classifier, fresh).mean() < 0.04
    classifier.calls.clear()
    refused(staged, classifier, fresh)
    assert sum(classifier.calls) / len(fresh) == pytest.approx(choice.mean_calls, rel=0.25)
    assert choice.mean_calls < len(staged.overlays) / 2
