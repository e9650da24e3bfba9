"""BaDExpert fitted, written into a bundle and read back; and left out, with the reason, where it cannot be had."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attacks.backdoors.poisoning import Poisoned
from defences.assembly import assemble, check, load_bundle
from defences.calibration.badexpert import fit_badexpert
from defences.calibration.calibrate import Calibrated, calibrate
from defences.calibration.plan import CalibrationPlan
from defences.calibration.split import CalibrationSplit, Terms, split
from defences.calibration.thresholds import FittedDetector, calibrate_detectors
from defences.detectors.badexpert import BaDExpert
from defences.errors import CannotBeFitted, InvalidBundle
from models.bundle import read_bundle
from models.classifier import Classifier, DifferentiableClassifier, Images
from models.engines.bundle_classifier import classifier_of
from models.engines.keras import KerasClassifier
from tests import bundles
from tests.fakes import linear, squares

CLEAN, TEST = squares(600, seed=31), squares(300, seed=32)
TERMS = Terms(rate=0.05)


@pytest.fixture(scope="module")
def calibrated(backdoored: tuple[Any, Poisoned], tmp_path_factory: pytest.TempPathFactory) -> Calibrated:
    """The network that learned a backdoor, behind BaDExpert alone."""
    out = tmp_path_factory.mktemp("bundles") / "squares"
    plan = CalibrationPlan(detectors=("badexpert",), false_abstention_rate=0.05, threads=1)
    return calibrate(KerasClassifier(backdoored[0], outputs="logits"), CLEAN, out=out, plan=plan)


def parts() -> CalibrationSplit:
    return split(CLEAN, rate=0.05, confidence=None, seed=0)


def fit_anything(classifier: Classifier, parts: CalibrationSplit, terms: Terms) -> FittedDetector:
    """A detector that every classifier can have."""
    scores = np.arange(len(parts.holding), dtype=np.float64)
    return FittedDetector(
        name="strip",
        settings={},
        arrays={},
        card={},
        choosing=scores,
        holding=scores,
        at=lambda threshold: BaDExpert(threshold=threshold),
        mean_calls=lambda threshold: 0.0,
    )


def triggered(poisoned: Poisoned) -> Images:
    """Images with the trigger, all called blue by the network."""
    return poisoned.data.images[poisoned.is_poison]


def test_a_bundle_holds_the_expert_and_refuses_what_it_agrees_with(
    calibrated: Calibrated, backdoored: tuple[Any, Poisoned]
) -> None:
    bundle = calibrated.bundle
    assert {"expert.keras"} <= bundle.card["files"].keys()
    assert bundle.holds("expert.onnx") == (bundle.engine == "onnx")
    assert bundle.card["badexpert"]["expert_accuracy"] < 0.25
    assert bundle.card["left_out"] == {}
    defended = load_bundle(bundle.directory, modes={"total_variation": "off"}, threads=1)
    assert defended.classify(triggered(backdoored[1])).abstained.mean() > 0.9
    found = defended.classify(TEST.images)
    assert found.abstained.mean() < 0.12
    assert found.trace.model_calls == 2 * len(TEST)


def test_the_expert_that_is_served_is_the_one_that_was_calibrated_with(calibrated: Calibrated) -> None:
    (fitted,) = calibrated.detectors
    mine: Any = fitted.detector
    (step,) = load_bundle(calibrated.bundle.directory, threads=1).detectors
    served: Any = step.defence
    assert isinstance(served, BaDExpert)
    np.testing.assert_allclose(served.outputs(TEST.images), mine.outputs(TEST.images), atol=1e-5)
    assert served.threshold == mine.threshold
    assert isinstance(served.expert, DifferentiableClassifier)
    odds = np.log(served.expert.predict(TEST.images[:8]) + 1e-30) - served.expert.logits(TEST.images[:8])
    np.testing.assert_allclose(odds - odds.mean(axis=1, keepdims=True), 0, atol=1e-3)


def test_an_expert_that_was_altered_or_left_behind_is_refused(calibrated: Calibrated, tmp_path: Path) -> None:
    import shutil

    altered = shutil.copytree(calibrated.bundle.directory, tmp_path / "altered")
    classifier = classifier_of(calibrated.bundle, threads=1)
    name = "expert.onnx" if calibrated.bundle.holds("expert.onnx") else "expert.keras"
    read = read_bundle(altered)
    (altered / name).write_bytes((altered / name).read_bytes() + b"more")
    with pytest.raises(InvalidBundle, match=f"{name} is not the file"):
        read_bundle(altered)
    with pytest.raises(InvalidBundle, match=f"{name} is not the file"):
        assemble(read, classifier, secret=b"")  # altered after the bundle was read
    (altered / name).unlink()
    with pytest.raises(InvalidBundle, match=r"which .* lists, but it does not exist"):
        read_bundle(altered)


def test_a_bundle_that_declares_it_without_an_expert_is_refused(calibrated: Calibrated, tmp_path: Path) -> None:
    declared = {"name": "badexpert", "mode": "enforce"}
    arrays = {key: array for key, array in calibrated.bundle.calibration.items() if key != "badexpert_threshold"}
    lacking = bundles.write(tmp_path / "lacking", declared, arrays=calibrated.bundle.calibration)
    with pytest.raises(InvalidBundle, match=r"expected the expert of badexpert in .*, expert.onnx or expert.keras"):
        check(lacking)
    (tmp_path / "holding").mkdir()
    (tmp_path / "holding" / "expert.onnx").write_bytes(b"stands in for an expert")
    with pytest.raises(InvalidBundle, match="badexpert_threshold is missing"):
        check(bundles.write(tmp_path / "holding", declared, arrays=arrays))


def test_an_expert_that_is_switched_off_is_not_loaded(calibrated: Calibrated) -> None:
    classifier = classifier_of(calibrated.bundle, threads=1)
    assert not assemble(calibrated.bundle, classifier, secret=b"", modes={"badexpert": "off"}).detectors


def test_a_model_that_cannot_be_trained_is_told_so_and_the_other_detectors_are_fitted() -> None:
    classifier = linear((16, 16, 3), 3, sharpness=0.2)
    with pytest.raises(
        CannotBeFitted, match=r"badexpert trains a copy of the model, .* which cannot be trained; take the Keras model"
    ):
        fit_badexpert(classifier, parts(), TERMS)
    fits = {"strip": fit_anything, "badexpert": fit_badexpert}
    with pytest.raises(CannotBeFitted):
        calibrate_detectors(classifier, parts(), fits, TERMS)
    told: dict[str, str] = {}
    terms = replace(TERMS, leave_out=lambda name, reason: told.update({name: str(reason)}))
    (strip,) = calibrate_detectors(classifier, parts(), fits, terms)
    assert strip.name == "strip"
    assert list(told) == ["badexpert"]
    with pytest.raises(CannotBeFitted):
        calibrate_detectors(classifier, parts(), {"badexpert": fit_badexpert}, terms)


def test_a_model_that_does_not_forget_is_told_so(keras_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.training.unlearning.RUNS", 1)
    monkeypatch.setattr("models.training.unlearning.STEPS_AT_MOST", 5)
    with pytest.raises(
        CannotBeFitted, match=r"right on fewer than 25 % of clean images, but wrong labels left this one right on \d+ %"
    ):
        fit_badexpert(KerasClassifier(keras_model), parts(), TERMS)
