"""Calibration of larger pictures: bounded in memory and in minutes, announced, and without a trace when it is interrupted."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from defences.calibration.calibrate import calibrate, measure
from defences.calibration.plan import CalibrationPlan
from models.bundle import read_bundle
from models.datasets import Dataset
from models.engines.keras import KerasClassifier
from models.image_rows import PackedDataset, PackedImages, Rows
from service.settings import read_settings
from tests.fakes import constant

SIDE, IMAGES = 128, 300
BLOCK_BYTES = 64 << 20


class Reading(PackedImages):
    """Packed images that remember the largest block read of them."""

    largest = 0

    def __getitem__(self, rows: Rows) -> Any:
        found = super().__getitem__(rows)
        Reading.largest = max(Reading.largest, found.nbytes)
        return found


@pytest.fixture(scope="module")
def clean() -> PackedDataset:
    """Noise with a colour cast, which is the class."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, IMAGES)
    pictures = rng.integers(0, 156, (IMAGES, SIDE, SIDE, 3), np.uint8)
    pictures[np.arange(IMAGES), :, :, labels] += 100
    return PackedDataset(Reading(pictures), labels)


@pytest.fixture(scope="module")
def classifier() -> KerasClassifier:
    """The colour with the highest mean, with some doubt."""
    import keras

    layers: list[Any] = [keras.Input((SIDE, SIDE, 3)), keras.layers.GlobalAveragePooling2D()]
    model = keras.Sequential([*layers, keras.layers.Dense(3, activation="softmax", use_bias=False)])
    model.layers[-1].set_weights([np.eye(3, dtype=np.float32) * 6])
    return KerasClassifier(model)


def test_a_budget_of_minutes_is_announced_written_down_and_served_by(
    classifier: KerasClassifier, clean: PackedDataset, tmp_path: Path
) -> None:
    said: list[str] = []
    plan = CalibrationPlan(false_abstention_rate=0.05, minutes=1e-3, image_s=1e-9, threads=1)
    calibrated = calibrate(classifier, clean, out=tmp_path / "bundle", plan=plan, announce=said.append)
    assert said[0].startswith("converting the classifier and comparing both on 300 images takes about ")
    assert said[0].endswith(" s, the export not counted")
    assert said[1].startswith("calibrating takes about ")
    assert "left out to keep within about 1 s (--minutes): " in said[1]
    card, bundle = calibrated.bundle.card, calibrated.bundle
    assert len(card["effort"]["left_out"]) >= 4
    assert len(bundle.calibration["strip_overlays"]) <= card["effort"]["overlays"] == 16
    assert len(card["strip"]["trials"]) == card["effort"]["overlay_trials"] == 1
    assert card["effort"]["mean_overlays"] == 0  # no way to lay over is within that time, and there is one all the same
    assert card["measured"]["calibration_images"]["images"] == card["effort"]["measured_images"] == 100
    assert bundle.seconds_per_call == card["speed"]["seconds_per_call"] > 0
    assert bundle.images_per_request is not None
    assert read_settings({}).for_bundle(bundle.images_per_request).max_images == bundle.images_per_request
    assert Reading.largest <= BLOCK_BYTES
    assert read_bundle(bundle.directory).images_per_request == bundle.images_per_request


@pytest.mark.parametrize("at", ["overlays", "measuring"])
def test_an_interruption_leaves_nothing_and_what_was_there(
    classifier: KerasClassifier, clean: PackedDataset, tmp_path: Path, at: str
) -> None:
    (tmp_path / "bundle").mkdir()

    def interrupted(what: str, done: int, of: int) -> None:
        if what == at:
            raise KeyboardInterrupt

    plan = CalibrationPlan(false_abstention_rate=0.05, minutes=1e-3, threads=1)
    with pytest.raises(KeyboardInterrupt):
        calibrate(classifier, clean, out=tmp_path / "bundle", plan=plan, progress=interrupted)
    assert os.listdir(tmp_path) == ["bundle"]
    assert os.listdir(tmp_path / "bundle") == []


def test_a_share_of_refusals_at_the_rate_is_not_counted_as_one_above_it() -> None:
    shape = (4, 4, 1)
    images = np.zeros((400, *shape), np.float32)
    images[:4] = 1

    class _RefusesWhite:
        def classify(self, images: Any) -> Any:
            white = images.reshape(len(images), -1).min(axis=1) == 1
            return SimpleNamespace(labels=np.where(white, -1, 0), trace=SimpleNamespace(model_calls=len(images)))

    refusing: Any = _RefusesWhite()
    assert measure(refusing, constant([1.0, 0.0], shape), Dataset(images, np.zeros(400, np.int64))).abstained == 0.01


def test_the_minutes_begin_with_the_command_and_not_when_the_classifier_is_open(
    classifier: KerasClassifier, clean: PackedDataset, tmp_path: Path
) -> None:
    said: list[str] = []
    plan = CalibrationPlan(false_abstention_rate=0.05, minutes=10, spent_s=599.9, threads=1)
    calibrated = calibrate(classifier, clean, out=tmp_path / "bundle", plan=plan, announce=said.append)
    assert "until here, and" in said[1]
    assert "calibrating takes about 10 minutes at most: about 10 minutes until here" in said[1]
    assert len(calibrated.bundle.card["effort"]["left_out"]) >= 4


def test_what_was_judged_before_is_not_judged_again(classifier: KerasClassifier, clean: PackedDataset) -> None:
    class Silent(KerasClassifier):
        def predict(self, images: Any) -> Any:
            raise AssertionError("asked again")

    judged = CalibrationPlan(false_abstention_rate=0.05).judged(classifier, clean)
    again = CalibrationPlan(false_abstention_rate=0.05, accuracy=judged).judged(Silent(classifier.model), clean)
    assert again is judged


def test_a_bundle_behind_a_link_is_replaced_by_a_whole_one(
    classifier: KerasClassifier, clean: PackedDataset, tmp_path: Path
) -> None:
    plan = CalibrationPlan(false_abstention_rate=0.05, minutes=1e-3, threads=1)
    calibrate(classifier, clean, out=tmp_path / "first", plan=plan)
    (tmp_path / "linked").symlink_to(tmp_path / "first")
    calibrate(classifier, clean, out=tmp_path / "linked", plan=plan, name="linked")
    assert read_bundle(tmp_path / "linked").name == "linked"
    assert read_bundle(tmp_path / "first").name == "first"
    assert sorted(os.listdir(tmp_path)) == ["first", "linked"]
