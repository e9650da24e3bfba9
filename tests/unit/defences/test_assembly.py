"""From a bundle's settings to a defended classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from defences.assembly import assemble, calibrated_for, check, names_as_text, parse_modes
from defences.defended_classifier import DefendedClassifier, Mode
from defences.detectors.sentinet import SentiNet
from defences.detectors.strip import Strip
from defences.errors import InvalidBundle, InvalidInput
from defences.postprocessors.reverse_sigmoid import ReverseSigmoid
from defences.purifiers.total_variation import TotalVariation
from defences.table import DEFENCES
from models.bundle import Bundle
from tests import bundles
from tests.bundles import REVERSE_SIGMOID, SHAPE, STRIP, TOTAL_VARIATION
from tests.fakes import linear, noise

CLASSIFIER = linear(SHAPE, 4, sharpness=2.0)
IMAGES = noise(40, SHAPE, 1)
OF_BUNDLE = ("total_variation", "strip", "reverse_sigmoid")


def assembled(bundle: Bundle, **modes: Mode) -> DefendedClassifier:
    return assemble(bundle, CLASSIFIER, secret=b"secret", modes=modes)


def refused(bundle: Bundle, sentence: str, **modes: Mode) -> None:
    with pytest.raises(InvalidBundle, match=sentence) as refusal:
        assembled(bundle, **modes)
    assert "\n" not in str(refusal.value)
    with pytest.raises(InvalidBundle, match=sentence):
        check(bundle, modes=modes)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return bundles.write(tmp_path)


def test_every_defence_is_built_with_the_parameters_declared_and_measured(bundle: Bundle) -> None:
    defended = assemble(bundle, CLASSIFIER, secret=b"secret", threads=3)
    [purifier], [detector], [blur] = defended.preprocessors, defended.detectors, defended.postprocessors
    assert purifier.defence == TotalVariation(weight=0.1, norm=1, iterations=10, threads=3)
    assert blur.defence == ReverseSigmoid(beta=1.0, gamma=0.1)
    strip = detector.defence
    assert isinstance(strip, Strip)
    assert (strip.threshold, strip.stages, strip.slack) == (0.5, (2, 4, 8), (0.2, 0.1, 0.0))
    np.testing.assert_array_equal(strip.overlays, bundle.calibration["strip_overlays"])
    assert {step.mode for step in (purifier, detector, blur)} == {"enforce"}


def test_modes_of_the_bundle_hold_unless_replaced(tmp_path: Path) -> None:
    bundle = bundles.write(tmp_path, TOTAL_VARIATION | {"mode": "off"}, STRIP | {"mode": "monitor"}, REVERSE_SIGMOID)
    assert not assembled(bundle).preprocessors
    assert assembled(bundle).detectors[0].mode == "monitor"
    assert assembled(bundle, total_variation="monitor", strip="off").preprocessors[0].mode == "monitor"
    assert not assembled(bundle, total_variation="monitor", strip="off").detectors


def test_monitoring_leaves_the_answers_as_they_are_and_reports_all_the_same(bundle: Bundle) -> None:
    everything: dict[str, Mode] = dict.fromkeys(OF_BUNDLE, "monitor")
    monitored, enforced = (
        assembled(bundle, **everything).classify(IMAGES),
        assembled(bundle, total_variation="monitor").classify(IMAGES),
    )
    np.testing.assert_array_equal(monitored.probabilities, CLASSIFIER.predict(IMAGES))
    assert not monitored.abstained.any()
    assert (monitored.trace.purification_distance > 0).all()
    assert 0 < enforced.abstained.sum() < len(IMAGES)
    np.testing.assert_array_equal(monitored.trace.detections[0].abstained, enforced.abstained)
    assert monitored.trace.detections[0].mode == "monitor"


def test_what_is_off_is_not_computed(bundle: Bundle) -> None:
    nothing: dict[str, Mode] = dict.fromkeys(OF_BUNDLE, "off")
    found = assembled(bundle, **nothing).classify(IMAGES)
    np.testing.assert_array_equal(found.probabilities, CLASSIFIER.predict(IMAGES))
    assert found.trace.model_calls == len(IMAGES)
    assert not found.trace.detections
    assert not found.trace.purification_distance.size


def test_the_detector_decides_the_same_whatever_the_purifier_does(bundle: Bundle) -> None:
    modes: tuple[Mode, ...] = ("enforce", "monitor", "off")
    first, *others = (assembled(bundle, total_variation=mode).classify(IMAGES).abstained for mode in modes)
    assert first.any()
    for other in others:
        np.testing.assert_array_equal(first, other)


def test_a_mode_for_a_defence_the_bundle_lacks_is_refused(tmp_path: Path) -> None:
    bundle = bundles.write(tmp_path, TOTAL_VARIATION)
    with pytest.raises(InvalidInput, match="set for strip, but bundle animals declares only total_variation"):
        assembled(bundle, strip="off")


DECLARED: dict[str, tuple[tuple[dict[str, Any], ...], str]] = {
    "an unknown defence": (({"name": "moat", "mode": "enforce"},), "unknown defence 'moat'; known are total_variation, strip"),
    "a defence twice": ((STRIP, TOTAL_VARIATION, STRIP), "'strip' is declared twice"),
    "an unknown key": ((TOTAL_VARIATION | {"wait": 1},), "total_variation: unknown key 'wait'; known are iterations"),
    "a parameter of the machine": ((TOTAL_VARIATION | {"threads": 4},), "unknown key 'threads'"),
    "a threshold that was not measured": ((STRIP | {"threshold": 9.0},), "calibrated with other parameters"),
    "a missing parameter": (({"name": "total_variation", "mode": "enforce"},), "weight"),
    "a weight out of its domain": ((TOTAL_VARIATION | {"weight": -1.0},), "expected weight > 0, got -1.0"),
    "a weight as text": ((TOTAL_VARIATION | {"weight": "0.1"},), "hauberk.toml"),
    "half an iteration": ((TOTAL_VARIATION | {"iterations": 2.5},), "whole iterations"),
    "an unknown norm": ((TOTAL_VARIATION | {"norm": 3},), "expected norm"),
    "a gamma out of its domain": ((REVERSE_SIGMOID | {"gamma": 0.0},), "expected gamma > 0"),
    "stages other than calibrated": ((STRIP | {"stages": [4, 8]},), "calibrated with other parameters"),
    "a weight other than calibrated": ((STRIP | {"weight": 0.5},), "calibrated with other parameters"),
    "changed parameters of a detector that is off": (
        (STRIP | {"weight": 0.5, "mode": "off"},),
        "calibrated with other parameters",
    ),
}


@pytest.mark.parametrize("what", DECLARED)
def test_a_declaration_that_does_not_fit_is_refused_with_its_place(what: str, tmp_path: Path) -> None:
    declared, sentence = DECLARED[what]
    refused(bundles.write(tmp_path, *declared), sentence)


def test_a_calibrated_value_cannot_be_declared_even_with_a_calibration_that_claims_it(tmp_path: Path) -> None:
    declared = STRIP | {"threshold": -9.0}
    arrays = bundles.calibration(strip_calibrated_for=np.array(calibrated_for(declared)))
    refused(bundles.write(tmp_path, declared, arrays=arrays), "strip: unknown key 'threshold'")


ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "no overlays": ({"strip_overlays": None}, "strip_overlays is missing; run hauberk calibrate again"),
    "no threshold": ({"strip_threshold": None}, "strip_threshold is missing"),
    "no slack": ({"strip_slack": None}, "strip_slack is missing"),
    "no word on what it was calibrated for": ({"strip_calibrated_for": None}, "calibrated with other parameters"),
    "a threshold that is NaN": ({"strip_threshold": np.array(np.nan)}, "strip_threshold is not a number"),
    "a threshold that is a list": ({"strip_threshold": np.array([0.5])}, "strip_threshold is not a number"),
    "a threshold that is text": ({"strip_threshold": np.array("0.5")}, "strip_threshold is not a number"),
    "slack for other stages": ({"strip_slack": np.array([0.1, 0.0])}, "one slack >= 0 per stage"),
    "slack that is NaN": ({"strip_slack": np.array([np.nan, 0.1, 0.0])}, "one slack >= 0 per stage"),
    "overlays of another shape": ({"strip_overlays": np.zeros((8, 7, 5, 3), np.uint8)}, r"overlays of shape \(5, 7, 3\)"),
    "fewer overlays than stages say": ({"strip_overlays": np.zeros((7, 5, 7, 3), np.uint8)}, "end at the 7 overlays"),
    "overlays that are floats": ({"strip_overlays": np.zeros((8, 5, 7, 3))}, "expected overlays uint8"),
    "overlays that are a number": ({"strip_overlays": np.array(8, np.uint8)}, "hauberk.toml"),
}


@pytest.mark.parametrize("what", ARRAYS)
def test_a_calibration_that_does_not_fit_is_refused(what: str, tmp_path: Path) -> None:
    changes, sentence = ARRAYS[what]
    refused(bundles.write(tmp_path, arrays=bundles.calibration(**changes)), sentence)


def test_a_threshold_of_minus_infinity_refuses_nobody(tmp_path: Path) -> None:
    bundle = bundles.write(tmp_path, arrays=bundles.calibration(strip_threshold=np.array(-np.inf)))
    assert not assembled(bundle).classify(IMAGES).abstained.any()


@pytest.mark.parametrize(
    ("text", "modes"),
    [
        ("", {}),
        ("strip=monitor", {"strip": "monitor"}),
        (" strip = off , reverse_sigmoid=monitor,", {"strip": "off", "reverse_sigmoid": "monitor"}),
    ],
)
def test_modes_are_read_from_text(text: str, modes: dict[str, str]) -> None:
    assert parse_modes(text) == modes


@pytest.mark.parametrize("text", ["strip", "strip=", "strip=on", "moat=off", "=off", "strip=off=monitor", "STRIP=off"])
def test_modes_that_are_none_are_refused_with_what_could_be(text: str) -> None:
    with pytest.raises(InvalidInput, match=f"enforce, monitor, off|{', '.join(DEFENCES)}"):
        parse_modes(text)


def test_a_bundle_without_one_of_the_detectors_that_were_calibrated_together_is_refused(tmp_path: Path) -> None:
    arrays = bundles.calibration(detectors_calibrated_together=np.array(names_as_text(["strip", "moat"])))
    refused(bundles.write(tmp_path, arrays=arrays), r'calibrated together, \["moat", "strip"\], got \["strip"\]')


def test_a_detector_calibrated_alone_stays_so_in_every_mode(tmp_path: Path) -> None:
    arrays = bundles.calibration(detectors_calibrated_together=np.array(names_as_text(["strip"])))
    bundle = bundles.write(tmp_path, arrays=arrays)
    assert not assembled(bundle, strip="off").detectors
    assert assembled(bundle, strip="monitor").detectors[0].mode == "monitor"


SENTINET: dict[str, Any] = {
    "name": "sentinet",
    "mode": "enforce",
    "sides": [0.6, 0.4],
    "stages": [1, 3],
    "kept": [2, 2],
}


def with_sentinet(**changes: Any) -> dict[str, Any]:
    return (
        bundles.calibration(
            detectors_calibrated_together=np.array(names_as_text(["strip", "sentinet"])),
            sentinet_calibrated_for=np.array(calibrated_for(SENTINET)),
            sentinet_overlays=np.rint(noise(6, SHAPE, 8) * 255).astype(np.uint8),
            sentinet_overlay_labels=np.arange(6) % 4,
            sentinet_threshold=np.array(0.25),
            sentinet_slack=np.array([0.2, 0.1, 0.0]),
        )
        | changes
    )


def test_sentinet_is_built_beside_strip_with_what_was_measured(tmp_path: Path) -> None:
    bundle = bundles.write(tmp_path, STRIP, SENTINET, arrays=with_sentinet())
    detector = assembled(bundle).detectors[1].defence
    assert isinstance(detector, SentiNet)
    assert (detector.threshold, detector.slack, detector.sides, detector.kept) == (0.25, (0.2, 0.1, 0.0), (0.6, 0.4), (2, 2))
    assert assembled(bundle, sentinet="off", strip="monitor").calls_at_most == 1 + 8


def test_detectors_that_were_not_calibrated_together_are_refused_together(tmp_path: Path) -> None:
    alone = with_sentinet()
    del alone["detectors_calibrated_together"]
    refused(
        bundles.write(tmp_path / "a", STRIP, SENTINET, arrays=alone), "expected the detectors that were calibrated together, one"
    )
    refused(bundles.write(tmp_path / "b", SENTINET, arrays=with_sentinet()), r'"strip"\], got \["sentinet"\]')


def test_overlays_of_sentinet_of_another_shape_are_refused(tmp_path: Path) -> None:
    arrays = with_sentinet(sentinet_overlays=np.zeros((6, 7, 5, 3), np.uint8))
    refused(bundles.write(tmp_path, STRIP, SENTINET, arrays=arrays), r"sentinet overlays of shape \(5, 7, 3\)")
