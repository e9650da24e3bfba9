"""The fit of PatchCleanser: what it measures, when it enforces, and that other detectors keep their rate."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from defences.calibration.calibrate import fit_detectors
from defences.calibration.effort import FULL, Task, estimate
from defences.calibration.fits import chosen_fits, with_masks
from defences.calibration.patch_cleanser import COST_AT_MOST, fit_patch_cleanser
from defences.calibration.plan import CalibrationPlan
from defences.calibration.split import Terms, split
from defences.detectors.patch_cleanser import LEAD, PatchCleanser
from defences.errors import InvalidInput
from models.datasets import Dataset
from tests.fakes import FakeClassifier, linear, noise, softmax

SHAPE = (12, 12, 3)
PATCH = (3, 3)


def coloured(n: int, seed: int, *, local: float) -> Dataset:
    """Images of a tint all over, whose class it is; a share `local` of them shows theirs in the upper left corner only."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    images = rng.uniform(0.3, 0.5, (n, *SHAPE))
    everywhere = rng.random(n) >= local
    images[np.flatnonzero(everywhere), :, :, labels[everywhere]] += 0.2
    images[np.flatnonzero(~everywhere), :3, :3, labels[~everywhere]] += 0.5
    return Dataset(images.astype(np.float32), labels)


def by_colour() -> FakeClassifier:
    return FakeClassifier(lambda images: softmax(80.0 * images.mean(axis=(1, 2), dtype=np.float64)), SHAPE, 3)


def plan(*detectors: str, patch: tuple[int, int] | None = PATCH) -> CalibrationPlan:
    return CalibrationPlan(detectors=detectors, patch=patch, false_abstention_rate=0.05)


@pytest.mark.parametrize(("local", "mode"), [(0.0, "enforce"), (0.2, "monitor")])
def test_it_enforces_where_few_right_answers_are_refused_and_else_says_what_it_would_cost(local: float, mode: str) -> None:
    (found,) = fit_detectors(by_colour(), coloured(600, 1, local=local), plan=plan("patch_cleanser"))
    card = found.card()
    assert found.mode == card["mode"] == mode
    assert (card["lost"] <= COST_AT_MOST) == (mode == "enforce")
    assert card["certified"] == pytest.approx(1 - local, abs=0.08)
    assert f"{100 * card['certified']:.1f} % of {card['images']} held images are certified" in found.reason
    assert ("hauberk train --masked --patch 3x3" in found.reason) == (mode == "monitor")
    assert found.settings() == {"name": "patch_cleanser", "mode": mode, "patch": [3, 3], "middle": 0.22}
    assert found.mean_calls == 9


def test_the_shares_of_the_card_are_those_of_the_detector_on_the_held_images() -> None:
    data, classifier, terms = coloured(600, 2, local=0.1), by_colour(), Terms(rate=0.05, patch=PATCH)
    parts = split(data, rate=0.05, confidence=None, seed=0)
    fitted = fit_patch_cleanser(classifier, parts, terms)
    detector = fitted.at(LEAD)
    assert isinstance(detector, PatchCleanser)
    images, labels = parts.holding.images[:], parts.holding.labels
    answers = classifier.predict(images).argmax(axis=1)
    under = classifier.predict(detector.under_masks(images)).argmax(axis=1).reshape(len(images), 9)
    agree = (under == answers[:, None]).all(axis=1)
    assert fitted.card["refused"] == pytest.approx((~agree).mean(), abs=0.01)
    assert fitted.card["certified"] == pytest.approx((under == labels[:, None]).all(axis=1).mean(), abs=0.01)
    assert fitted.card["lost"] == pytest.approx((~agree & (answers == labels)).mean(), abs=0.01)
    assert 0 < fitted.card["refused"] < 0.5


def test_the_colour_is_the_one_that_loses_fewest_right_answers() -> None:
    data = coloured(600, 3, local=0.0)
    darker = Dataset(data.images * np.float32(0.3), data.labels)
    sure = FakeClassifier(lambda images: softmax(90.0 * (images.mean(axis=(1, 2)) - [0.0, 0.03, 0.0])), SHAPE, 3)
    (found,) = fit_detectors(sure, darker, plan=plan("patch_cleanser"))
    by_name = {trial["name"]: trial for trial in found.card()["colours"]}
    assert set(by_name) == {"mean", "grey"}
    best = min(by_name.values(), key=lambda trial: trial["lost"])
    assert found.arrays()["patch_cleanser_colour"].tolist() == pytest.approx(best["colour"])


def test_other_detectors_share_the_rate_as_they_do_without_it() -> None:
    data, classifier = Dataset(noise(600, SHAPE, 4), np.arange(600) % 4), linear(SHAPE, 4, sharpness=0.5)
    alone = fit_detectors(classifier, data, plan=plan("strip", patch=None))
    beside = {each.name: each for each in fit_detectors(classifier, data, plan=plan("strip", "patch_cleanser"))}
    assert list(beside) == ["strip", "patch_cleanser"]
    assert beside["strip"].threshold == alone[0].threshold
    assert "of clean images refused by strip on average" in beside["strip"].reason


def test_a_size_and_the_detector_are_asked_for_together() -> None:
    for wrong, got in ((("patch_cleanser", None), "the detector alone"), (("strip", PATCH), "a size alone")):
        with pytest.raises(InvalidInput, match=f"--patch 5x5.* together, got {got}"):
            plan(wrong[0], patch=wrong[1])
    assert list(with_masks(chosen_fits("strip"), PATCH)) == ["strip", "patch_cleanser"]
    assert list(with_masks(chosen_fits("strip,patch_cleanser"), None)) == ["strip", "patch_cleanser"]
    with pytest.raises(InvalidInput, match="at most half of the image's height and width, 12x12, got 7x1"):
        plan("patch_cleanser", patch=(7, 1)).check_clean(coloured(400, 5, local=0.0))


def test_its_model_calls_are_counted_before_it_begins() -> None:
    classifier, data = by_colour(), coloured(600, 6, local=0.0)
    task = Task(clean=600, test=0, needed=300, detectors=("patch_cleanser",))
    parts = split(data, rate=0.05, confidence=None, seed=0)
    fit_patch_cleanser(classifier, parts, dataclasses.replace(plan("patch_cleanser").terms(lambda *_: None)))
    assert sum(classifier.calls) == estimate(FULL, task).calls["masks"]
