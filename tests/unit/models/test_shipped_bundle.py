"""The MNIST bundle that ships: whole, small, and as good as its card says."""

from __future__ import annotations

import io
import json
import zipfile

import h5py  # type: ignore[import-untyped]
import numpy as np
import pytest

from defences.assembly import NAMES, assemble
from models.bundle import Bundle, default_bundle_directory, read_bundle
from models.datasets import MNIST, MNIST_SHA256, Dataset, load_dataset
from models.keras_classifier import KerasClassifier

FIRST = 1000


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return read_bundle(default_bundle_directory())


@pytest.fixture(scope="module")
def classifier(bundle: Bundle, keras_model: object) -> KerasClassifier:
    return KerasClassifier.from_bundle(bundle)


def test_it_tells_ten_digits_apart_behind_every_defence(bundle: Bundle) -> None:
    assert bundle.labels == tuple("0123456789")
    assert bundle.input_shape == (28, 28, 1)
    assert [defence["name"] for defence in bundle.settings["defences"]] == list(NAMES)
    assert {defence["mode"] for defence in bundle.settings["defences"]} == {"enforce"}


def test_it_is_small_and_holds_no_optimiser(bundle: Bundle) -> None:
    assert sum(file.stat().st_size for file in bundle.directory.iterdir()) < 3 << 20
    with zipfile.ZipFile(bundle.directory / "model.keras") as archive:
        weights = h5py.File(io.BytesIO(archive.read("model.weights.h5")))
    assert "layers" in weights
    assert "vars" not in weights.get("optimizer", {})


def test_it_was_calibrated_on_training_digits_held_out_from_training(bundle: Bundle) -> None:
    data = bundle.card["calibration"]["data"]
    assert data["sha256"] == MNIST_SHA256
    assert (data["split"], data["rows"], data["images"]) == ("train", "55000:60000", 5000)
    pictures = np.rint(load_dataset(MNIST).images[55000:] * 255).astype(np.uint8)
    known = {picture.tobytes() for picture in pictures}
    assert all(overlay.tobytes() in known for overlay in bundle.calibration["strip_overlays"])


def test_it_is_right_on_99_percent_of_the_test_digits_as_the_card_says(bundle: Bundle, classifier: KerasClassifier) -> None:
    test = load_dataset(MNIST, split="test")
    accuracy = float((classifier.predict(test.images).argmax(axis=1) == test.labels).mean())
    assert accuracy >= 0.99
    assert bundle.card["measured"]["test_split"]["undefended_accuracy"] == pytest.approx(accuracy, abs=2e-4)


def test_its_defences_cost_next_to_no_accuracy_and_refuse_few(
    bundle: Bundle, classifier: KerasClassifier, digits: Dataset
) -> None:
    few = digits.take(slice(0, FIRST))
    found = assemble(bundle, classifier, secret=b"a secret of the tests").classify(few.images)
    answered = ~found.abstained
    undefended = (classifier.predict(few.images).argmax(axis=1) == few.labels).mean()
    assert (found.labels == few.labels)[answered].mean() >= undefended - 0.005
    assert found.abstained.mean() <= 0.02
    assert found.trace.detections[0].overlays.mean() <= 10


def test_its_example_is_a_digit_that_is_answered(bundle: Bundle, classifier: KerasClassifier) -> None:
    images = np.array(json.loads((bundle.directory / "example.json").read_text())["images"], np.float32)[..., None]
    assert not assemble(bundle, classifier, secret=b"a secret of the tests").classify(images).abstained.any()
