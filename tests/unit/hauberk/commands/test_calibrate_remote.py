"""hauberk calibrate against a model server: what it reads there, what it writes, and every server that it refuses in one sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from defences.assembly import assemble
from hauberk.commands.classifier_options import open_servable
from hauberk.commands.declaration import Declaration
from models.bundle import Bundle, read_bundle
from models.engines.bundle_classifier import classifier_of
from models.engines.remote.classifier import RemoteClassifier
from models.engines.remote.fingerprint import ANSWERS, PROBES
from models.errors import InvalidBundle, InvalidInput
from models.preparation import Preparation
from tests.bundles import replace_file
from tests.fakes import squares
from tests.model_server import Model, ModelServer, served
from tests.unit.hauberk.conftest import Command
from tests.unit.hauberk.test_main import assert_refused

SHAPE = (16, 16, 3)
WANTED = Preparation.of_range(-1, 1, layout="nchw", channels="bgr")


def logits(images: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Of the colour that a square has; 16 pixels of 25 are enough."""
    brightest = np.sort(images.astype(np.float64).reshape(len(images), -1, 3), axis=1)[:, -16:]
    return np.asarray(30 * (brightest.mean(axis=1) - 0.5))


def as_framework_has_it(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The same from rows prepared as `WANTED`."""
    return logits((rows.transpose(0, 2, 3, 1)[..., ::-1] + 1) / 2)


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    model = Model(as_framework_has_it, (3, 16, 16), name="squares", version="7", platform="onnxruntime_onnx", columns=3)
    with served(model) as running:
        yield running


@pytest.fixture
def calibrate(hauberk: Command, clean_data: Path, tmp_path: Path) -> Callable[..., Any]:
    def run(classifier: str, *options: Any) -> Any:
        return hauberk("calibrate", "--classifier", classifier, "--data", clean_data, "--out", tmp_path / "mine", *options)

    return run


OPTIONS = ("--input-range=-1,1", "--channels", "bgr", "--labels", "red,green,blue", "--false-abstention-rate", "0.05")


@pytest.fixture(scope="module")
def bundle(server: ModelServer, clean_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    from hauberk.commands.calibrate import calibrate

    out = tmp_path_factory.mktemp("remote") / "squares"
    calibrate(
        server.address(),
        clean_data,
        out,
        input_range="-1,1",
        channels="bgr",
        labels="red,green,blue",
        false_abstention_rate=0.05,
    )
    return read_bundle(out)


def test_the_bundle_says_where_the_model_is_and_holds_none(bundle: Bundle, server: ModelServer) -> None:
    assert sorted(path.name for path in bundle.directory.iterdir()) == [
        "calibration.npz",
        "card.json",
        "example.json",
        "hauberk.toml",
    ]
    classifier = bundle.settings["classifier"]
    assert (classifier["engine"], classifier["remote"], classifier["outputs"]) == ("remote", server.address(), "logits")
    assert (classifier["layout"], classifier["channels"], classifier["input_range"]) == ("nchw", "bgr", [-1.0, 1.0])


def test_the_bundle_records_what_it_was_calibrated_against(bundle: Bundle, server: ModelServer) -> None:
    assert bundle.card["remote"] == {
        "address": server.address(),
        "model": "squares",
        "version": "7",
        "platform": "onnxruntime_onnx",
        "input": "pixels (FP32 [-1, 3, 16, 16])",
        "output": "scores (FP32 [-1, 3])",
    }
    assert bundle.calibration[PROBES].shape[1:] == SHAPE
    assert bundle.calibration[ANSWERS].shape == (len(bundle.calibration[PROBES]), 3)
    assert bundle.card["accuracy"]["verdict"] == "fine"


def test_the_bundle_is_opened_where_its_model_is_served(bundle: Bundle) -> None:
    classifier = classifier_of(bundle)
    assert isinstance(classifier, RemoteClassifier)
    test = squares(60, seed=11)
    found = assemble(bundle, classifier, secret=b"").classify(test.images)
    assert (found.labels == test.labels)[~found.abstained].mean() > 0.95


def test_another_model_behind_the_address_is_refused(
    bundle: Bundle, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.model, "scores", lambda rows: as_framework_has_it(rows)[:, ::-1])
    with pytest.raises(InvalidInput, match="it is another model"):
        classifier_of(bundle)


def test_another_version_behind_the_address_is_refused(
    bundle: Bundle, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.model, "version", "8")
    with pytest.raises(InvalidInput, match="expected version '7'"):
        classifier_of(bundle)


def test_a_bundle_whose_server_is_gone_is_refused_in_one_sentence(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAUBERK_REMOTE", "v2://127.0.0.1:9/squares")
    monkeypatch.setattr("models.engines.remote.options.RemoteOptions.for_commands", classmethod(lambda cls: cls(attempts=1)))
    with pytest.raises(InvalidInput, match=r"cannot reach v2://127\.0\.0\.1:9/squares"):
        classifier_of(bundle)


@pytest.mark.parametrize("change", ["no address", "an address and a model"])
def test_a_bundle_that_contradicts_itself_is_refused(bundle: Bundle, tmp_path: Path, change: str) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(bundle.directory, copy)
    text = (copy / "hauberk.toml").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("remote =" if change == "no address" else "engine =")]
    replace_file(copy, "hauberk.toml", "\n".join(lines).encode())
    with pytest.raises(InvalidBundle, match=r"to say where the classifier is served|to list the digest of model\.keras"):
        read_bundle(copy)


def test_a_reading_that_fits_better_is_proposed(calibrate: Callable[..., Any], server: ModelServer) -> None:
    ran = calibrate(server.address(), "--labels", "red,green,blue")
    assert ran.code == 2
    assert "--channels=bgr" in ran.errors


@pytest.mark.parametrize("said", [("--input-range=-1,1", "--channels=bgr"), ("--input-range=0,1",), ()])
def test_no_image_is_asked_about_twice_in_the_same_way_until_a_classifier_is_refused(
    hauberk: Command, server: ModelServer, clean_data: Path, tmp_path: Path, said: tuple[str, ...]
) -> None:
    with np.load(clean_data) as whole:
        np.savez(tmp_path / "turned.npz", images=whole["x_train"], labels=(whole["y_train"].ravel() + 1) % 3)
    server.asked.clear()
    where = ("--classifier", server.address(), "--data", tmp_path / "turned.npz", "--out", tmp_path / "mine")
    ran = hauberk("calibrate", *where, *said, "--labels", "red,green,blue")
    assert ran.code == 2
    asked = [row.tobytes() for one in server.asked for row in one.rows if len(one.rows) > 1]  # one blank row introduces it
    assert len(asked) == len(set(asked)) >= 420


def test_tensorflow_serving_is_read_alike(server: ModelServer) -> None:
    declared = Declaration(labels="red,green,blue", input_range="-1,1", channels="bgr")
    test = squares(60, seed=11)
    found = open_servable(server.address("tfs", version="7"), test, declared=declared, threads=1).classifier
    assert isinstance(found, RemoteClassifier)
    assert (found.outputs, found.preparation, found.version) == ("logits", WANTED, "7")
    assert (found.predict(test.images).argmax(axis=1) == test.labels).mean() > 0.95


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("http://127.0.0.1/v2/models/a", "expected a model server's address, v2://"),
        ("v2://user:pw@127.0.0.1/a", "HAUBERK_REMOTE_TOKEN_FILE"),
        ("v2://127.0.0.1:9", "expected a model server's address"),
    ],
)
def test_an_address_that_is_none_is_refused(calibrate: Callable[..., Any], address: str, sentence: str) -> None:
    assert_refused(calibrate(address), sentence)


@pytest.mark.parametrize("fault", ["nan", "no_json", "fewer_rows", "redirect", "huge", "status_500"])
def test_a_server_that_answers_nonsense_is_refused_and_nothing_is_written(
    calibrate: Callable[..., Any], server: ModelServer, tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "fault", fault)
    ran = calibrate(server.address(), *OPTIONS)
    assert ran.code == 2
    assert len(ran.errors.strip().splitlines()) == 1
    assert not (tmp_path / "mine").exists()


def test_a_server_that_breaks_during_calibration_ends_it_with_one_sentence(
    calibrate: Callable[..., Any], server: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [0]

    def breaks(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        calls[0] += 1
        scores = as_framework_has_it(rows)
        return scores if calls[0] < 30 else scores * np.nan

    monkeypatch.setattr(server.model, "scores", breaks)
    ran = calibrate(server.address(), *OPTIONS)
    assert ran.code == 2
    assert "NaN" in ran.errors
    assert "Traceback" not in ran.errors
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("command", ["scan", "train"])
def test_what_needs_the_model_itself_says_so(hauberk: Command, clean_data: Path, tmp_path: Path, command: str) -> None:
    method, out = (("--adversarial", "pgd"), "out.keras") if command == "train" else ((), "out")
    ran = hauberk(command, "--classifier", "v2://127.0.0.1:9/a", "--data", clean_data, "--out", tmp_path / out, *method)
    assert_refused(ran, "a model on a server shows no layers and no gradients")
