"""hauberk calibrate: what it refuses, and a colour model end to end."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attacks.attack import Goal
from attacks.evasion.gradient import FastGradient
from defences.assembly import assemble, check
from models.bundle import Bundle, read_bundle
from models.classifier import ActivationClassifier
from models.engines.bundle_classifier import classifier_of
from models.engines.keras import KerasClassifier
from models.engines.keras_export import exported
from tests.fakes import squares
from tests.poisoned import small_network
from tests.unit.hauberk.conftest import Command, Ran, process
from tests.unit.hauberk.test_main import assert_refused


@pytest.fixture(scope="module")
def calibrated(keras_file: Path, clean_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Ran, Path]:
    """A bundle calibrated by a process of its own."""
    out = tmp_path_factory.mktemp("bundles") / "squares-v1"
    options = ["--labels", "red,green,blue", "--false-abstention-rate", "0.05", "--threads", "2"]
    return process("calibrate", "--classifier", keras_file, "--data", clean_data, "--out", out, *options), out


@pytest.fixture(scope="module")
def bundle(calibrated: tuple[Ran, Path]) -> Bundle:
    return read_bundle(calibrated[1])


def test_a_colour_model_is_calibrated_and_the_summary_says_how(calibrated: tuple[Ran, Path], bundle: Bundle) -> None:
    ran, out = calibrated
    assert ran.code == 0, ran.errors
    assert f"bundle squares-v1 {bundle.version} written to {out}" in ran.output
    assert f"serve it: hauberk serve --bundle {out}" in ran.output
    assert re.search(r"^  total_variation +(enforce|monitor): ", ran.output, re.M)
    for line in (r"strip +enforce: ", r"reverse_sigmoid +enforce$", r"test split \(60\): "):
        assert re.search(f"^  {line}", ran.output, re.M), line


def test_the_bundle_declares_the_classifier_and_all_defences(bundle: Bundle) -> None:
    assert bundle.input_shape == (16, 16, 3)
    assert bundle.labels == ("red", "green", "blue")
    assert bundle.settings["classifier"]["outputs"] == "probabilities"
    assert [defence["name"] for defence in bundle.settings["defences"]] == [
        "total_variation",
        "strip",  # 420 images are too few to try others
        "reverse_sigmoid",
    ]


def test_the_bundle_serves_what_the_card_says_it_measured(bundle: Bundle) -> None:
    classifier = classifier_of(bundle, threads=1)
    test = squares(60, seed=11)
    found = assemble(bundle, classifier, secret=b"").classify(test.images)
    measured = bundle.card["measured"]["test_split"]
    assert measured["images"] == 60
    assert measured["undefended_accuracy"] == pytest.approx(
        (classifier.predict(test.images).argmax(axis=1) == test.labels).mean()
    )
    assert measured["abstained"] == pytest.approx(found.abstained.mean())
    assert measured["accuracy_abstention_counted_wrong"] == pytest.approx((found.labels == test.labels).mean())
    assert measured["accuracy_on_answered"] > 0.9
    assert (bundle.card["accuracy"]["verdict"], bundle.card["accuracy"]["reason"]) == ("fine", "")


def test_the_card_holds_every_number_the_choices_rest_on(bundle: Bundle, clean_data: Path) -> None:
    card = bundle.card
    assert card["calibration"]["data"]["sha256"] == hashlib.sha256(clean_data.read_bytes()).hexdigest()
    assert card["calibration"]["data"]["images"] == 420
    assert (card["calibration"]["false_abstention_rate"], card["calibration"]["confidence"]) == (0.05, None)
    assert card["purifier"]["trials"]
    assert card["strip"]["trials"]
    assert card["strip"]["held_images"] == 280 == len(bundle.calibration["strip_clean_scores"])
    threshold = float(bundle.calibration["strip_threshold"])
    assert card["strip"]["threshold"] == threshold
    assert (bundle.calibration["strip_clean_scores"] <= threshold).mean() <= 0.05


def test_the_model_in_the_bundle_answers_as_the_one_given(bundle: Bundle, keras_model: Any) -> None:
    images = squares(30, seed=12).images
    np.testing.assert_allclose(
        KerasClassifier.from_bundle(bundle).predict(images), KerasClassifier(keras_model).predict(images), atol=1e-6
    )


def test_the_example_is_an_image_that_is_answered(bundle: Bundle) -> None:
    example = np.array(json.loads((bundle.directory / "example.json").read_text())["images"], np.float32)
    assert example.shape == (1, 16, 16, 3)
    assert not assemble(bundle, classifier_of(bundle, threads=1), secret=b"").classify(example).abstained.any()


def test_calibrating_again_replaces_a_bundle_and_leaves_nothing_beside_it(
    hauberk: Command, keras_file: Path, clean_data: Path, calibrated: tuple[Ran, Path], tmp_path: Path
) -> None:
    out = shutil.copytree(calibrated[1], tmp_path / "squares-v1")
    options = ["--name", "other", "--false-abstention-rate", "0.05", "--confidence", "0.9", "--rows", "20:420"]
    ran = hauberk("calibrate", "--classifier", keras_file, "--data", clean_data, "--out", out, *options)
    assert ran.code == 0, ran.errors
    assert read_bundle(out).name == "other"
    assert read_bundle(out).card["calibration"]["confidence"] == 0.9
    assert os.listdir(out.parent) == [out.name]


@pytest.fixture
def workplace(tmp_path: Path, keras_file: Path, clean_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a model and data under short names."""
    (tmp_path / "squares.keras").symlink_to(keras_file)
    (tmp_path / "squares.npz").symlink_to(clean_data)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def calibrate(hauberk: Command, **changes: Any) -> Ran:
    options = {"classifier": "squares.keras", "data": "squares.npz", "out": "bundle"} | changes
    return hauberk("calibrate", *(f"--{name.replace('_', '-')}={value}" for name, value in options.items()))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no classifier": ({"classifier": "none.keras"}, "none.keras, which does not exist; docs/formats.md says how to save one"),
    "another format": (
        {"classifier": "squares.npz"},
        "got squares.npz, which is an archive of arrays (.npz), damaged perhaps; docs/formats.md says how",
    ),
    "a model that does not load": (
        {"classifier": "broken.keras"},
        "torch.export, TorchScript or skops model, got broken.keras; docs/formats.md says how",
    ),
    "no data": ({"data": "none.npz"}, "none.npz, which does not exist"),
    "too few labels": ({"labels": "red,green"}, "expected 3 labels, one per class of the model, got 2"),
    "a label twice": ({"labels": "red,green,red"}, "expected --labels to be different names"),
    "labels from no text file": ({"labels": "broken.keras"}, "expected --labels to be names or a text file in UTF-8"),
    "hundreds of labels": ({"labels": ",".join(f"class number {i}" for i in range(100))}, "expected 3 labels"),
    "a range of nothing": ({"input_range": "1,1"}, "expected --input-range LOW,HIGH such as 0,255, got '1,1'"),
    "a range in words": ({"input_range": "bytes"}, "expected --input-range LOW,HIGH"),
    "a range of three": ({"input_range": "0,1,2"}, "expected --input-range LOW,HIGH"),
    "a range to infinity": ({"input_range": "0,inf"}, "expected --input-range LOW,HIGH"),
    "unknown outputs": ({"outputs": "scores"}, "expected --outputs probabilities or logits, got 'scores'"),
    "logits that are none": ({"outputs": "logits"}, "every output is a distribution already; say --outputs probabilities"),
    "too few images": ({"rows": "0:299"}, "expected at least 300 clean images to calibrate on, got 299"),
    "too few for the promise": ({"confidence": 0.95}, "expected at least 449 clean images"),
    "no share": ({"false_abstention_rate": 1.5}, "expected a false abstention rate in (0, 1), got 1.5"),
    "no confidence": ({"confidence": 1}, "expected a confidence in (0, 1), got 1.0"),
    "an unknown detector": ({"detectors": "strip,moat"}, "each once, got 'strip,moat'"),
    "a detector twice": ({"detectors": "strip,strip"}, "each once, got 'strip,strip'"),
    "no detector": ({"detectors": ""}, "expected detectors (--detectors) from strip"),
    "a directory of somebody else": ({"out": "theirs"}, "theirs, which holds something else"),
    "a file in the way": ({"out": "squares.npz"}, "squares.npz, which holds something else"),
    "nowhere to write": ({"out": "squares.npz/bundle"}, "cannot write to squares.npz"),
    "a name that is no name": ({"out": "my bundle"}, "got 'my bundle'; give another one (--name)"),
    "a name with a path": ({"name": "../mnist"}, "expected a name of letters"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_calibrate_refuses_in_one_line(hauberk: Command, workplace: Path, what: str) -> None:
    changes, sentence = REFUSED[what]
    (workplace / "broken.keras").write_bytes(b"\xff\xfe no model")
    (workplace / "theirs").mkdir()
    (workplace / "theirs" / "card.json").write_text("somebody else's card")
    (workplace / "theirs" / "thesis.tex").write_text("years of work")
    assert_refused(calibrate(hauberk, **changes), sentence)
    assert (workplace / "theirs" / "thesis.tex").read_text() == "years of work"
    assert not (workplace / "bundle").exists()


def test_labels_in_the_data_beyond_the_classes_of_the_model_are_refused(hauberk: Command, workplace: Path) -> None:
    data = squares(300, seed=1)
    np.savez(workplace / "seven.npz", images=data.images, labels=data.labels + 5)
    assert_refused(calibrate(hauberk, data="seven.npz"), "expected labels below 3, the classes of the model, got 7")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"x_test": np.zeros((60, 8, 8, 3), np.uint8)},
            "expected images of the model's shape (16, 16, 3) in the test split, got (8, 8, 3)",
        ),
        ({"y_test": np.full(60, 7)}, "expected labels below 3, the classes of the model, in the test split, got 7"),
        ({"y_test": np.zeros(7, int)}, "expected one label per image in half.npz, got 60 images and 7 labels"),
    ],
)
def test_a_test_half_that_cannot_be_measured_on_is_refused_before_the_work(
    hauberk: Command, workplace: Path, clean_data: Path, changes: dict[str, Any], sentence: str
) -> None:
    with np.load(clean_data) as whole:
        np.savez(workplace / "half.npz", **{**whole, **changes})
    assert_refused(calibrate(hauberk, data="half.npz", false_abstention_rate=0.05), sentence)


def test_a_directory_of_arrays_is_calibrated_on_as_an_archive_is(hauberk: Command, workplace: Path, clean_data: Path) -> None:
    (workplace / "arrays").mkdir()
    with np.load(clean_data) as whole:
        np.save(workplace / "arrays" / "images.npy", whole["x_train"])
        np.save(workplace / "arrays" / "labels.npy", whole["y_train"])
    ran = calibrate(hauberk, data="arrays", false_abstention_rate=0.05)
    assert ran.code == 0, ran.errors
    data = read_bundle(workplace / "bundle").card["calibration"]["data"]
    assert (data["file"], data["images"], len(data["sha256"])) == ("arrays", 420, 64)


def test_images_of_one_class_are_refused_with_the_likely_reason(hauberk: Command, workplace: Path) -> None:
    data = squares(1000, seed=1)
    order = np.argsort(data.labels, kind="stable")
    np.savez(workplace / "sorted.npz", images=data.images[order], labels=data.labels[order])
    sentence = (
        "expected clean images of at least 2 classes to calibrate on, got only class 0; rows of a file that is sorted by class"
    )
    assert_refused(calibrate(hauberk, data="sorted.npz", rows="0:300"), sentence)


def test_images_of_another_shape_are_refused(hauberk: Command, workplace: Path) -> None:
    np.savez(workplace / "grey.npz", images=np.zeros((300, 16, 16), np.uint8), labels=np.arange(300) % 3)
    assert_refused(calibrate(hauberk, data="grey.npz"), "expected images of the model's shape (16, 16, 3), got (16, 16, 1)")


def test_a_model_trained_on_bytes_is_recognised_and_the_range_suggested(
    hauberk: Command, workplace: Path, keras_model: Any
) -> None:
    import keras

    for_bytes = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Rescaling(1 / 255), *keras_model.layers])
    for_bytes.save(workplace / "bytes.keras")
    # Behind the rescaling everything in 0..1 is black, where this network does not know one colour from another.
    ran = calibrate(hauberk, classifier="bytes.keras")
    assert_refused(ran, "say --input-range=0,255")
    assert "insist" not in ran.errors  # it would be refused too: it guesses
    assert_refused(calibrate(hauberk, classifier="bytes.keras", input_range="0,1"), "say --input-range=0,255")


def test_labels_in_another_order_than_the_models_are_refused_and_the_order_is_named(hauberk: Command, workplace: Path) -> None:
    data = squares(420, seed=10)
    np.savez(workplace / "turned.npz", images=data.images, labels=(data.labels + 1) % 3)
    ran = calibrate(hauberk, data="turned.npz")
    assert_refused(ran, "with its classes in another order it is right on 100.0 % of those held out from finding the order")
    assert "it answers 0 for 1, 1 for 2, 2 for 0" in ran.errors
    assert not (workplace / "bundle").exists()


def test_a_range_that_a_model_was_not_trained_with_is_warned_of_in_terminal_and_card_where_it_is_insisted_on(
    hauberk: Command, workplace: Path, keras_model: Any
) -> None:
    import keras

    dim = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Rescaling(0.02), *keras_model.layers])
    dim.save(workplace / "dim.keras")
    ran = calibrate(hauberk, classifier="dim.keras", input_range="-1,1", false_abstention_rate=0.05)
    assert ran.code == 0, ran
    accuracy = read_bundle(workplace / "bundle").card["accuracy"]
    assert (accuracy["verdict"], accuracy["cause"]) == ("doubtful", "images read otherwise")
    assert "of those held out from choosing the reading; say --" in accuracy["reason"]
    assert f"\nwarning: {accuracy['reason']}\n" in ran.output


def test_independent_sigmoids_are_refused_with_what_to_say(hauberk: Command, workplace: Path) -> None:
    import keras

    sigmoids = [keras.Input((16, 16, 3)), keras.layers.Flatten(), keras.layers.Dense(3, activation="sigmoid")]
    keras.Sequential(sigmoids).save(workplace / "sigmoids.keras")
    assert_refused(calibrate(hauberk, classifier="sigmoids.keras"), "independent sigmoids are not one classification")
    assert_refused(
        calibrate(hauberk, classifier="sigmoids.keras", outputs="probabilities"), "to be a distribution that sums to 1"
    )


def test_a_model_that_answers_nan_is_refused(hauberk: Command, workplace: Path, keras_model: Any) -> None:
    import keras

    broken = keras.models.clone_model(keras_model)
    broken.set_weights([np.full_like(weights, np.nan) for weights in keras_model.get_weights()])
    broken.save(workplace / "nan.keras")
    assert_refused(calibrate(hauberk, classifier="nan.keras"), "expected finite outputs from the classifier, got NaN")


def test_a_bad_model_is_one_line_even_though_tensorflow_was_loaded_to_see_it(workplace: Path) -> None:
    with zipfile.ZipFile(workplace / "broken.keras", "w") as archive:
        archive.writestr("config.json", "{}")  # enough of a model to be opened
    command = [sys.executable, "-c", "from hauberk.main import main; main()", "calibrate"]
    options = ["--classifier=broken.keras", "--data=squares.npz", "--out=bundle", "--rows=0:300"]
    ended = subprocess.run([*command, *options], capture_output=True, text=True, timeout=120, check=False)
    assert_refused(
        Ran(ended.returncode, ended.stdout, ended.stderr),
        "expected a Keras model that Keras 3 reads, but broken.keras is none",
    )


def test_detectors_of_evasion_are_trained_calibrated_with_strip_and_served(
    hauberk: Command, keras_file: Path, clean_data: Path, tmp_path: Path
) -> None:
    names = ["strip", "binary_input_detector", "binary_activation_detector"]
    options = ["--detectors", ",".join(names), "--evasion-eps", "0.2", "--false-abstention-rate", "0.05", "--name", "watched"]
    ran = hauberk("calibrate", "--classifier", keras_file, "--data", clean_data, "--out", tmp_path / "watched", *options)
    assert ran.code == 0, ran.errors
    assert "trained on attacks of eps 0.2" in ran.output
    bundle = read_bundle(tmp_path / "watched")
    assert [defence["name"] for defence in bundle.settings["defences"]] == ["total_variation", *names, "reverse_sigmoid"]
    for name in names[1:]:
        assert {"clean", "sign noise", "shifted", "fast_gradient 0.2"} <= bundle.card[name]["trained_on"].keys()
        assert max(bundle.card[name]["alone"]["refused_harmless"].values()) <= 0.02
    check(bundle)
    classifier, test = classifier_of(bundle, threads=1), squares(60, seed=11)
    assert isinstance(classifier, ActivationClassifier)
    [layer] = [defence["layer"] for defence in bundle.settings["defences"] if "layer" in defence]
    assert layer in classifier.layers()  # it is named as what serves names it, whatever learned from whose gradients
    decided = assemble(bundle, classifier, secret=b"").classify(test.images)
    assert [detection.name for detection in decided.trace.detections] == names
    attacked = FastGradient(eps=0.2)(KerasClassifier.from_bundle(bundle), test.images, Goal(test.labels)).images
    alone = assemble(bundle, classifier, secret=b"", modes={"strip": "off", "total_variation": "off"})
    assert alone.classify(attacked).abstained.mean() > decided.abstained.mean() + 0.5


def test_what_the_classifier_can_do_is_said_and_written_into_the_card(
    hauberk: Command, onnx_file: Path, clean_data: Path, tmp_path: Path
) -> None:
    ran = hauberk(
        "calibrate",
        "--classifier",
        onnx_file,
        "--data",
        clean_data,
        "--out",
        tmp_path / "graph",
        "--false-abstention-rate",
        "0.05",
    )
    assert ran.code == 0, ran.errors
    assert "  able             ONNX: predictions, activations; no gradients, no training" in ran.output
    wanted = {"engine": "ONNX", "activations": True, "gradients": None, "training": False}
    assert read_bundle(tmp_path / "graph").card["capabilities"] == wanted


def test_detectors_that_need_gradients_name_the_twin_that_a_graph_needs(
    hauberk: Command, onnx_file: Path, clean_data: Path, tmp_path: Path
) -> None:
    small_network(seed=3).save(tmp_path / "other.keras")
    options = [
        "--data",
        clean_data,
        "--out",
        tmp_path / "none",
        "--detectors",
        "binary_input_detector",
        "--false-abstention-rate",
        "0.05",
    ]
    for more, said in (
        ([], "binary_input_detector needs gradients, and this model is ONNX, which has none; name a twin with --gradients"),
        (["--gradients", tmp_path / "other.keras"], "other.keras gives the same label on"),
    ):
        ran = hauberk("calibrate", "--classifier", onnx_file, *options, *more)
        assert ran.code == 2
        assert said in ran.errors.splitlines()[-1]  # below the bar of what was done before
        assert "Traceback" not in ran.errors
    assert not (tmp_path / "none").exists()


def test_a_twin_that_is_not_there_or_not_needed_is_refused_before_the_work(
    hauberk: Command, workplace: Path, onnx_file: Path, keras_file: Path
) -> None:
    ran = calibrate(hauberk, classifier=onnx_file, gradients="none.keras", false_abstention_rate=0.05)
    assert_refused(ran, "expected the file of a twin (--gradients), got none.keras, which does not exist")
    ran = calibrate(hauberk, gradients=keras_file, false_abstention_rate=0.05)
    assert_refused(ran, "for a model without gradients, but this one is Keras, which has its own; leave it out")


@pytest.fixture(scope="module")
def onnx_file(keras_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network as a graph from elsewhere."""
    path = tmp_path_factory.mktemp("onnx") / "squares.onnx"
    path.write_bytes(exported(KerasClassifier(keras_model)).SerializeToString())
    return path


@pytest.mark.parametrize("eps", ["0", "-0.1", "nan"])
def test_an_evasion_eps_that_is_no_size_is_refused(hauberk: Command, workplace: Path, eps: str) -> None:
    assert_refused(calibrate(hauberk, detectors="binary_input_detector", evasion_eps=eps), "expected eps > 0")


def test_two_detectors_are_calibrated_together_and_served_together(
    hauberk: Command, keras_file: Path, clean_data: Path, tmp_path: Path
) -> None:
    options = ["--detectors", "sentinet,strip", "--false-abstention-rate", "0.05"]
    ran = hauberk("calibrate", "--classifier", keras_file, "--data", clean_data, "--out", tmp_path / "both", *options)
    assert ran.code == 0, ran.errors
    assert "  sentinet         " in ran.output
    bundle = read_bundle(tmp_path / "both")
    assert [defence["name"] for defence in bundle.settings["defences"]] == [
        "total_variation",
        "strip",
        "sentinet",
        "reverse_sigmoid",
    ]
    refused = np.zeros(280, bool)
    for name in ("strip", "sentinet"):
        refused |= bundle.calibration[f"{name}_clean_scores"] <= bundle.calibration[f"{name}_threshold"]
        assert bundle.card[name]["held_images"] == 280
    assert refused.sum() <= int(0.05 * 281)
    defended = assemble(bundle, KerasClassifier.from_bundle(bundle), secret=b"", modes={"sentinet": "monitor"})
    assert [step.defence.name for step in defended.detectors] == ["strip", "sentinet"]


def test_automatic_detectors_of_few_images_are_the_usual_ones_and_the_card_says_why(
    hauberk: Command, keras_file: Path, clean_data: Path, tmp_path: Path
) -> None:
    options = ["--detectors", "auto", "--false-abstention-rate", "0.05"]
    ran = hauberk("calibrate", "--classifier", keras_file, "--data", clean_data, "--out", tmp_path / "auto", *options)
    assert ran.code == 0, ran.errors
    assert "  detectors: strip\n" in ran.output
    why = "no triggers of our own were tried: that takes 1,500 clean images, got 420"
    assert f"  {why}\n" in ran.output
    for name in ("strip", "reverse_sigmoid"):
        assert f"\n  {name:<15}  enforce" in ran.output
    bundle = read_bundle(tmp_path / "auto")
    assert [defence["name"] for defence in bundle.settings["defences"]] == ["total_variation", "strip", "reverse_sigmoid"]
    left_out = "layer_disagreement is left out: it would only monitor, and enforce with 1,500 images, got 420"
    assert bundle.card["calibration"]["choice"]["said"] == [why, left_out]
