"""hauberk train --masked and hauberk calibrate --patch: what they refuse, and both one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attacks.attack import Goal
from attacks.evasion.adaptive import AdaptiveView
from attacks.evasion.lavan import LaVAN
from defences.assembly import assemble
from defences.detectors.patch_cleanser import LEAD, PatchCleanser
from models.bundle import read_bundle
from models.engines.keras import KerasClassifier
from tests.unit.hauberk.conftest import Command, Ran
from tests.unit.hauberk.test_main import assert_refused

SIDE, CLASSES = 16, 3


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images whose class is a tint all over, which masks leave visible; the ground varies more."""
    rng = np.random.default_rng(5)
    labels = rng.integers(0, CLASSES, 700)
    images = rng.uniform(0.2, 0.6, (700, 1, 1, 3)) + rng.normal(0, 0.05, (700, SIDE, SIDE, 3))
    images[np.arange(700), ::2, :, labels] += 0.25
    path = tmp_path_factory.mktemp("stripes") / "stripes.npz"
    np.savez(path, images=np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8), labels=labels)
    return path


def train(hauberk: Command, data: Path, out: Path, *options: Any) -> Ran:
    return hauberk("train", "--data", data, "--rows", "0:300", "--out", out, "--epochs", "8", "--no-purified", *options)


def calibrate(hauberk: Command, model: Path, data: Path, out: Path, *options: Any) -> Ran:
    rate = ("--false-abstention-rate", "0.05", "--rows", "300:700")
    return hauberk("calibrate", "--classifier", model, "--data", data, "--out", out, *rate, *options)


def test_a_network_trained_on_masks_is_calibrated_with_them_and_no_patch_gets_past(
    hauberk: Command, stripes: Path, tmp_path: Path
) -> None:
    ran = train(hauberk, stripes, tmp_path / "new.keras", "--epochs", "15", "--masked", "--patch", "3x3")
    assert ran.code == 0, ran.errors
    ran = train(
        hauberk,
        stripes,
        tmp_path / "m.keras",
        "--epochs",
        "3",
        "--masked",
        "--patch",
        "3x3",
        "--classifier",
        tmp_path / "new.keras",
    )
    assert ran.code == 0, ran.errors
    ran = calibrate(hauberk, tmp_path / "m.keras", stripes, tmp_path / "m", "--patch", "3x3", "--detectors", "patch_cleanser")
    assert ran.code == 0, ran.errors
    assert ": 9 masks for any patch of up to 3x3 pixels, " in ran.output
    bundle = read_bundle(tmp_path / "m")
    assert [defence["name"] for defence in bundle.settings["defences"]][1:] == ["patch_cleanser", "reverse_sigmoid"]
    assert bundle.card["patch_cleanser"]["certified"] > 0.5
    classifier = KerasClassifier.from_bundle(bundle)
    defended = assemble(bundle, classifier, secret=b"", modes={"patch_cleanser": "enforce"})
    masks = defended.detectors[0].defence
    assert isinstance(masks, PatchCleanser)
    held = np.load(stripes)
    images, labels = held["images"][-40:].astype(np.float32) / 255, held["labels"][-40:]
    proven = masks.scores(classifier.predict(masks.under_masks(images)), labels) > LEAD
    attack = LaVAN(size=(3, 3), places=((4, 4),), locations=0, iterations=5)
    found = attack(AdaptiveView(defended, classifier, draws=1), images[proven], Goal(labels[proven]))
    assert proven.sum() > 15
    assert not found.success.any()


def test_a_network_that_masks_disturb_is_said_to_cost_too_much_and_only_watched(
    hauberk: Command, keras_file: Path, clean_data: Path, tmp_path: Path
) -> None:
    options = ("--patch", "2x2", "--detectors", "patch_cleanser", "--false-abstention-rate", "0.05")
    ran = hauberk("calibrate", "--classifier", keras_file, "--data", clean_data, "--out", tmp_path / "b", *options)
    assert ran.code == 0, ran.errors
    assert "so it only monitors; train the classifier on masked images: hauberk train --masked --patch 2x2" in ran.output
    bundle = read_bundle(tmp_path / "b")
    card = bundle.card["patch_cleanser"]
    assert (card["mode"], card["lost"] > card["cost_at_most"]) == ("monitor", True)
    assert bundle.card["measured"]["test_split"]["abstained"] == 0
    assert bundle.card["measured"]["test_split"]["mean_model_calls"] == 10


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--patch", "5"), "expected the size of a patch (--patch) as its height and width in pixels"),
        (("--patch", "0x5"), "expected the size of a patch (--patch)"),
        (("--patch", "9x2"), "expected a patch (--patch) of at most half of the image's height and width, 16x16, got 9x2"),
        (("--detectors", "patch_cleanser"), "expected the size of a patch (--patch 5x5) and the detector patch_cleanser"),
    ],
)
def test_a_size_that_cannot_be_covered_is_refused(
    hauberk: Command, keras_file: Path, clean_data: Path, tmp_path: Path, options: tuple[str, str], sentence: str
) -> None:
    ran = hauberk("calibrate", "--classifier", keras_file, "--data", clean_data, "--out", tmp_path / "b", *options)
    assert_refused(ran, sentence)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--patch", "3x3"), "expected --masked with --patch, got none"),
        (("--masked", "--patch", "x"), "expected the size of a patch (--patch)"),
        (("--masked", "--patch", "9x9"), "at most half of the image's height and width, 16x16, got 9x9"),
        (("--masked", "--adversarial", "fgm"), "expected --adversarial or --masked, got both"),
        (("--classifier", "m.keras"), "expected --adversarial fgm or pgd, or --masked, with --classifier, got none"),
    ],
)
def test_training_on_masks_that_are_none_is_refused(
    hauberk: Command, stripes: Path, tmp_path: Path, options: tuple[str, ...], sentence: str
) -> None:
    assert_refused(train(hauberk, stripes, tmp_path / "m.keras", *options), sentence)
