"""The MNIST bundles that ship: whole, small, and as good as their cards say."""

from __future__ import annotations

import io
import json
import zipfile

import h5py
import numpy as np
import pytest

from attacks.attack import Goal
from attacks.evasion.gradient import ProjectedGradientDescent
from defences.assembly import assemble
from defences.table import DEFENCES
from models.bundle import Bundle, default_bundle_directory, read_bundle, standard_bundle_directory
from models.datasets import MNIST, MNIST_SHA256, Dataset, load_dataset
from models.engines.keras import KerasClassifier

FIRST = 1000


@pytest.fixture(scope="module", params=[default_bundle_directory, standard_bundle_directory], ids=["mnist", "mnist-standard"])
def bundle(request: pytest.FixtureRequest) -> Bundle:
    return read_bundle(request.param())


@pytest.fixture(scope="module")
def classifier(bundle: Bundle, keras_model: object) -> KerasClassifier:
    return KerasClassifier.from_bundle(bundle)


def test_it_tells_ten_digits_apart_behind_a_defence_of_every_kind(bundle: Bundle) -> None:
    assert bundle.labels == tuple("0123456789")
    assert bundle.input_shape == (28, 28, 1)
    declared = [defence["name"] for defence in bundle.settings["defences"]]
    assert declared == ["total_variation", "strip", "reverse_sigmoid"]
    assert declared == [name for name in DEFENCES if name in declared]
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


def test_it_is_as_right_on_the_test_digits_as_its_card_says_and_as_it_has_to_be(
    bundle: Bundle, classifier: KerasClassifier
) -> None:
    test = load_dataset(MNIST, split="test")
    accuracy = float((classifier.predict(test.images).argmax(axis=1) == test.labels).mean())
    assert accuracy >= (0.985 if bundle.name == "mnist" else 0.99)  # hardening has its price
    assert bundle.card["measured"]["test_split"]["undefended_accuracy"] == pytest.approx(accuracy, abs=2e-4)


def test_its_defences_cost_next_to_no_accuracy_and_refuse_few(
    bundle: Bundle, classifier: KerasClassifier, digits: Dataset
) -> None:
    few = digits.take(slice(0, FIRST))
    found = assemble(bundle, classifier, secret=b"a secret of the tests").classify(few.images)
    answered = ~found.abstained
    undefended = (classifier.predict(few.images).argmax(axis=1) == few.labels).mean()
    assert (found.labels == few.labels)[
        answered
    ].mean() >= undefended - 0.01  # half a point, known to a quarter on a thousand images
    assert found.abstained.mean() <= 0.02
    assert found.trace.detections[0].calls.mean() <= 12


def test_its_example_is_a_digit_that_is_answered(bundle: Bundle, classifier: KerasClassifier) -> None:
    images = np.array(json.loads((bundle.directory / "example.json").read_text())["images"], np.float32)[..., None]
    assert not assemble(bundle, classifier, secret=b"a secret of the tests").classify(images).abstained.any()


def test_the_default_one_withstands_an_attack_that_the_standard_one_does_not(digits: Dataset, keras_model: object) -> None:
    few = digits.take(slice(0, 200))
    attack = ProjectedGradientDescent(eps=0.3, iterations=40)
    found = {}
    for directory in (default_bundle_directory(), standard_bundle_directory()):
        alone = KerasClassifier.from_bundle(read_bundle(directory))
        attacked = attack(alone, few.images, Goal(few.labels.astype(np.int64))).images
        found[directory.name] = float((alone.predict(attacked).argmax(axis=1) == few.labels).mean())
    assert found["mnist"] >= 0.88
    assert found["mnist-standard"] <= 0.1


def test_its_card_states_its_measured_robustness(bundle: Bundle) -> None:
    measured = bundle.card["robustness"]
    assert measured["eps"] == 0.3
    assert measured["clean"] == pytest.approx(bundle.card["measured"]["test_split"]["undefended_accuracy"], abs=2e-4)
    by_ours = [measured[name] for name in ("pgd", "pgd_margin", "square")]
    assert measured["worst_case"] <= min(by_ours) + 0.02  # of fewer images than PGD
    assert (min(by_ours) > 0.85) == (bundle.name == "mnist")
    # What another implementation of the same attacks leaves cannot be far from what ours leave.
    assert min(measured["art"].values()) >= measured["worst_case"] - 0.01
