"""hauberk scan, end to end on colour images: both verdicts, the three files, resuming, other workers, and what it refuses."""

from __future__ import annotations

import json
import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attacks.backdoors.poisoning import Poisoned
from evaluation.scanning import stored_activations
from evaluation.scanning.scan_report import SCAN_REPORT
from hauberk.commands.scan import METHODS
from models.datasets import Dataset
from models.engines.keras import KerasClassifier
from tests.unit.hauberk.conftest import Command, Ran
from tests.unit.hauberk.test_main import assert_refused


@pytest.fixture(scope="module")
def poisoned_files(backdoored: tuple[Any, Poisoned], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.keras, data.npz and truth.npy of a poisoned training set."""
    directory = tmp_path_factory.mktemp("poisoned")
    model, poisoned = backdoored
    model.save(directory / "model.keras")
    _save(poisoned.data, directory / "data.npz")
    np.save(directory / "truth.npy", poisoned.is_clean)
    return directory


@pytest.fixture(scope="module")
def clean_files(undoored: tuple[Any, Dataset], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.keras and data.npz of a clean one."""
    directory = tmp_path_factory.mktemp("clean")
    model, data = undoored
    model.save(directory / "model.keras")
    _save(data, directory / "data.npz")
    return directory


def _save(data: Dataset, path: Path) -> None:
    np.savez(path, images=np.rint(data.images * 255).astype(np.uint8), labels=data.labels)


def _scan(hauberk: Command, files: Path, out: Path, *more: Any) -> Ran:
    return hauberk("scan", "--classifier", files / "model.keras", "--data", files / "data.npz", "--out", out, *more)


@pytest.fixture(scope="module")
def scanned(poisoned_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a scan of the poisoned set wrote; a directory of its own, that others compare with."""
    return tmp_path_factory.mktemp("scan")


def test_poison_is_found_written_down_and_exit_code_3(hauberk: Command, poisoned_files: Path, scanned: Path) -> None:
    ran = _scan(hauberk, poisoned_files, scanned, "--truth", poisoned_files / "truth.npy", "--labels", "red,green,blue")
    assert ran.code == 3, ran
    assert "poison in class blue" in ran.output
    truth, is_clean = np.load(poisoned_files / "truth.npy"), np.load(scanned / "is_clean.npy")
    assert is_clean.dtype == bool
    assert (~is_clean[~truth]).mean() >= 0.99
    assert (~is_clean[truth]).mean() <= 0.01
    report = SCAN_REPORT.validate_json((scanned / "report.json").read_bytes())
    assert (report.verdict, report.poisoned_classes) == ("poison", ["blue"])
    assert report.suspicious_samples == (~is_clean).sum()
    assert report.confusion is not None
    assert report.confusion.found + report.confusion.missed == (~truth).sum()
    assert report.classifier["layer"] == "hidden"
    assert [method.method for method in report.methods] == list(METHODS)
    with np.load(scanned / "clusters.npz", allow_pickle=False) as points:
        assert points["methods"].tolist() == list(METHODS)
        assert np.isfinite(points["plane"]).all()


def test_class_names_are_shown_and_not_obeyed(hauberk: Command, poisoned_files: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("red\ngreen\x1b[2J\nblue\u202e\x9b1m\x1b[1A\n", encoding="utf-8")
    ran = _scan(hauberk, poisoned_files, tmp_path, "--methods", "spectral_signatures", "--labels", names)
    assert ran.code == 3, ran
    assert "poison in class blue\\u202e\\x9b1m\\x1b[1A" in ran.output
    report, page = ((tmp_path / name).read_text(encoding="utf-8") for name in ("report.json", "report.html"))
    for text in (ran.output, report, page):
        assert all(line.isprintable() for line in text.split("\n"))
    assert json.loads(report)["poisoned_classes"] == ["blue\u202e\x9b1m\x1b[1A"]


def test_the_page_loads_nothing_and_shows_the_clusters(hauberk: Command, poisoned_files: Path, tmp_path: Path) -> None:
    _scan(hauberk, poisoned_files, tmp_path, "--methods", "activation_clustering")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page.replace('href="#', ""))
    assert page.count("data:image/png;base64,") == 6
    assert "<svg" in page


def test_a_clean_set_is_exit_code_0(hauberk: Command, clean_files: Path, tmp_path: Path) -> None:
    ran = _scan(hauberk, clean_files, tmp_path)
    assert ran.code == 0, ran
    assert "no poison found" in ran.output
    assert np.load(tmp_path / "is_clean.npy").all()
    assert json.loads((tmp_path / "report.json").read_text())["verdict"] == "clean"


@pytest.mark.parametrize("order", [[1, 2, 0], [1, 0, 2]])
def test_labels_in_another_order_never_end_as_no_poison_found(
    hauberk: Command, clean_files: Path, tmp_path: Path, order: list[int]
) -> None:
    with np.load(clean_files / "data.npz") as arrays:
        np.savez(tmp_path / "data.npz", images=arrays["images"], labels=np.array(order)[arrays["labels"]])
    ran = hauberk("scan", "--classifier", clean_files / "model.keras", "--data", tmp_path / "data.npz", "--out", tmp_path / "out")
    assert_refused(ran, "with its classes in another order it is right on")
    assert not (tmp_path / "out" / "report.json").exists()


def test_data_sorted_by_class_are_judged_by_all_classes(hauberk: Command, clean_files: Path, tmp_path: Path) -> None:
    with np.load(clean_files / "data.npz") as arrays:
        rows = np.argsort(arrays["labels"], kind="stable")
        np.savez(tmp_path / "data.npz", images=arrays["images"][rows], labels=arrays["labels"][rows])
    command = ("scan", "--classifier", clean_files / "model.keras", "--data", tmp_path / "data.npz", "--out", tmp_path / "out")
    ran = hauberk(*command, "--methods", "spectral_signatures")
    assert ran.code == 0, ran
    report = SCAN_REPORT.validate_json((tmp_path / "out" / "report.json").read_bytes())
    assert report.accuracy is not None
    assert (report.accuracy.verdict, report.accuracy.images) == ("fine", 900)
    assert report.accuracy.guessing < 0.5
    assert report.data["split"] is None  # a file with images and labels has no training half


def _verdicts(out: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return {name: value for name, value in report.items() if name not in ("created", "seconds", "data")}


def test_a_directory_of_plain_arrays_gives_the_same_verdicts(hauberk: Command, poisoned_files: Path, tmp_path: Path) -> None:
    directory = tmp_path / "arrays"
    directory.mkdir()
    with np.load(poisoned_files / "data.npz") as arrays:
        for name in ("images", "labels"):
            np.save(directory / f"{name}.npy", arrays[name])
    assert _scan(hauberk, poisoned_files, tmp_path / "a").code == 3
    ran = hauberk("scan", "--classifier", poisoned_files / "model.keras", "--data", directory, "--out", tmp_path / "b")
    assert ran.code == 3, ran
    assert _verdicts(tmp_path / "a") == _verdicts(tmp_path / "b")


def test_a_killed_scan_goes_on_where_it_was(
    hauberk: Command, poisoned_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_activations, "_ROWS_AT_ONCE", 200)
    asked: list[int] = []
    whole = KerasClassifier.activations

    def killed(self: KerasClassifier, images: Any, layer: Any = None) -> Any:
        if len(images) == 200:
            asked.append(len(images))
            if len(asked) == 4:
                raise KeyboardInterrupt
        return whole(self, images, layer)

    monkeypatch.setattr(KerasClassifier, "activations", killed)
    assert _scan(hauberk, poisoned_files, tmp_path, "--methods", "activation_clustering").code == 130
    [done] = (tmp_path / "work").glob("*/activations.done")
    assert int(done.read_text()) == 600
    assert _scan(hauberk, poisoned_files, tmp_path, "--methods", "activation_clustering").code == 3
    assert len(asked) == 6  # of 1,059 rows: three blocks of 200, one that was killed, and two more; the last is shorter
    _scan(hauberk, poisoned_files, tmp_path / "fresh", "--methods", "activation_clustering")
    assert _verdicts(tmp_path) == _verdicts(tmp_path / "fresh")


@pytest.mark.skipif(find_spec("distributed") is None, reason="needs hauberk[cluster]")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore:Sending large graph:UserWarning")
def test_a_dask_cluster_of_two_workers_gives_the_same_verdicts(hauberk: Command, poisoned_files: Path, tmp_path: Path) -> None:
    assert _scan(hauberk, poisoned_files, tmp_path / "here").code == 3
    ran = _scan(hauberk, poisoned_files, tmp_path / "there", "--backend", "dask", "--workers", "2")
    assert ran.code == 3, ran
    assert _verdicts(tmp_path / "here") == _verdicts(tmp_path / "there")


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--layer", "nowhere"], "expected one of conv2d"),
        (
            ["--methods", "crystal_ball"],
            "expected --methods of activation_clustering, statistical_contamination_analyzer, spectral_signatures",
        ),
        (["--reduction", "tsne"], "expected --reduction pca or ica"),
        (["--backend", "mainframe"], "expected --backend loky, threading, dask or ray, got 'mainframe'"),
        (["--rows", "5:2"], "expected --rows START:STOP"),
        (["--split", "half"], "expected --split train or test"),
        (["--truth", "nothing.npy"], "cannot be read"),
        (["--labels", "red,green"], "expected 3 labels"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_code_2(
    hauberk: Command, poisoned_files: Path, tmp_path: Path, more: list[str], sentence: str
) -> None:
    ran = _scan(hauberk, poisoned_files, tmp_path, *more)
    assert ran.code == 2, ran
    assert sentence in [line for line in ran.errors.splitlines() if line.startswith("hauberk: ")][-1]


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (np.zeros(40, int), "at least 2 classes"),
        (np.arange(40) % 4, "labels below 3"),
        (np.zeros(39, int), "one label per image"),
    ],
)
def test_labels_that_do_not_fit_are_one_line_and_code_2(
    hauberk: Command, poisoned_files: Path, tmp_path: Path, labels: Any, sentence: str
) -> None:
    with np.load(poisoned_files / "data.npz") as arrays:
        np.savez(tmp_path / "data.npz", images=arrays["images"][:40], labels=labels)
    command = ("scan", "--classifier", poisoned_files / "model.keras", "--data", tmp_path / "data.npz", "--out", tmp_path / "out")
    assert_refused(hauberk(*command), sentence)


def test_a_full_disk_is_one_line_and_keeps_what_is_finished(
    hauberk: Command, poisoned_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    ran = _scan(hauberk, poisoned_files, tmp_path)
    assert ran.code == 2, ran
    assert "no space left on device" in ran.errors.splitlines()[-1]
    monkeypatch.undo()
    assert (tmp_path / "work").is_dir()


@pytest.fixture(scope="module")
def small_digits(keras_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scikit-learn's clean digits of 8 x 8 pixels, where one way to write a 1 is a cluster, and a network trained on them."""
    import keras
    from keras import layers
    from sklearn.datasets import load_digits

    directory = tmp_path_factory.mktemp("small")
    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, activation="relu", padding="same"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, activation="relu", padding="same"),
            layers.Flatten(),
            layers.Dense(32, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy")
    model.fit(images[..., None], digits.target, epochs=12, batch_size=64, verbose=0)
    model.save(directory / "model.keras")
    np.savez(directory / "data.npz", images=images, labels=digits.target)
    return directory


def test_of_clean_digits_of_8_by_8_it_cannot_tell_and_says_so_with_code_2(
    hauberk: Command, small_digits: Path, tmp_path: Path
) -> None:
    ran = _scan(hauberk, small_digits, tmp_path)
    assert ran.code == 2, ran
    assert "no verdict on 1,797 samples of 10 classes" in ran.output
    assert "poison in class" not in ran.output
    last = [line for line in ran.errors.splitlines() if line.startswith("hauberk: ")][-1]
    assert "cannot tell whether" in last
    assert "images of 8 x 8 pixels are too small" in last
    report = SCAN_REPORT.validate_json((tmp_path / "report.json").read_bytes())
    assert (report.verdict, report.poisoned_classes, report.suspicious_samples) == ("cannot tell", [], 0)
    assert np.load(tmp_path / "is_clean.npy").all()
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "cannot be told" in page
    assert "No poison found" not in page


def test_classes_of_too_few_samples_are_named_and_alone_give_no_verdict(
    hauberk: Command, clean_files: Path, tmp_path: Path
) -> None:
    with np.load(clean_files / "data.npz") as arrays:
        images, labels = arrays["images"], arrays["labels"]
    some = np.concatenate([np.flatnonzero(labels != 2), np.flatnonzero(labels == 2)[:5]])
    for name, rows in (("some", some), ("few", np.concatenate([np.flatnonzero(labels == at)[:5] for at in range(3)]))):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "data.npz", images=images[rows], labels=labels[rows])
    model = ("--classifier", clean_files / "model.keras")
    ran = hauberk("scan", *model, "--data", tmp_path / "some" / "data.npz", "--out", tmp_path / "a")
    assert ran.code == 0, ran
    assert "not judged: class 2: 5 samples are too few to split" in ran.output
    ran = hauberk("scan", *model, "--data", tmp_path / "few" / "data.npz", "--out", tmp_path / "b")
    assert ran.code == 2, ran
    assert "cannot tell whether" in ran.errors
