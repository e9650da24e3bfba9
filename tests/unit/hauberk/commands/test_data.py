"""--data as a folder of pictures, in the commands that take it: the same numbers, labels by name, and what is refused."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hauberk.commands.data import AsPictures, class_names, labelled_as, read_data, sample_names, sha256_of, stamp
from models.bundle import read_bundle
from models.datasets import Dataset
from models.engines.bundle_classifier import classifier_of
from models.engines.keras import KerasClassifier
from models.errors import InvalidInput
from models.preparation import PRESETS, Preparation
from tests.fakes import squares, tinted
from tests.unit.hauberk.conftest import Command, Ran

NAMES = ("red", "green", "blue")


def as_folder(data: Dataset, path: Path, names: tuple[str, ...] = NAMES) -> Path:
    """Every image as a PNG in the folder of its class."""
    for name in names:
        (path / name).mkdir(parents=True)
    for at, (image, label) in enumerate(zip(data.images, data.labels, strict=True)):
        Image.fromarray(np.rint(image * 255).astype(np.uint8)).save(path / names[label] / f"{at:05}.png")
    return path


def assert_refused(ran: Ran, sentence: str) -> None:
    """In the last line, behind the bar of the pictures that were read."""
    assert ran.code == 2, ran
    assert ran.output == ""
    assert sentence in ran.errors.rstrip("\n").split("\n")[-1]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return as_folder(squares(340, seed=30), tmp_path_factory.mktemp("pictures") / "squares")


def test_a_folder_is_read_as_the_array_of_its_pictures(pictures: Path) -> None:
    data = read_data(pictures, "train", None, AsPictures(labels=NAMES))
    original = squares(340, seed=30)
    rows = [int(name.split("/")[1].removesuffix(".png")) for name in sample_names(pictures, None) or ()]
    assert sorted(rows) == list(range(340))
    np.testing.assert_array_equal(data.labels, original.labels[rows])
    np.testing.assert_allclose(data.images, original.images[rows].clip(0, 1), atol=0.5 / 255 + 1e-6)
    assert data.images.dtype == np.float32


def test_rows_are_rows_of_the_same_order_and_labels_follow_the_names(pictures: Path) -> None:
    whole, part = read_data(pictures, "train", None), read_data(pictures, "train", "20:50")
    np.testing.assert_array_equal(part.images, whole.images[20:50])
    assert sample_names(pictures, "20:50") == (sample_names(pictures, None) or ())[20:50]
    assert class_names(pictures) == ("blue", "green", "red")
    as_model = labelled_as(pictures, whole, NAMES)
    np.testing.assert_array_equal(as_model.labels, np.array([2, 1, 0])[whole.labels])
    np.testing.assert_array_equal(as_model.labels, read_data(pictures, "train", None, AsPictures(labels=NAMES)).labels)
    with pytest.raises(InvalidInput, match="expected sub-folders named as the classes cat, dog"):
        labelled_as(pictures, whole, ("cat", "dog"))


def test_arrays_have_neither_names_nor_a_size_to_choose(clean_data: Path) -> None:
    assert class_names(clean_data) is None
    assert sample_names(clean_data, None) is None
    data = read_data(clean_data, "train", "0:10")
    assert labelled_as(clean_data, data, ("a", "b", "c")) is data
    with pytest.raises(InvalidInput, match=r"expected a folder of pictures with --resize and --colours, got squares.npz"):
        read_data(clean_data, "train", None, AsPictures(resize="8x8"))


@pytest.mark.parametrize("resize", ["8", "8,8", "0x8", "8x99999", "axb"])
def test_a_size_that_is_none_is_refused(resize: str) -> None:
    with pytest.raises(InvalidInput, match="expected --resize HEIGHTxWIDTH such as 32x32"):
        AsPictures(resize=resize)


def test_a_directory_of_arrays_is_read_as_an_archive_and_its_digest_changes_with_its_numbers(
    clean_data: Path, tmp_path: Path
) -> None:
    with np.load(clean_data) as whole:
        np.save(tmp_path / "images.npy", whole["x_train"])
        np.save(tmp_path / "labels.npy", whole["y_train"])
    found, wanted = read_data(tmp_path, "train", "10:50"), read_data(clean_data, "train", "10:50")
    np.testing.assert_array_equal(found.images, wanted.images)
    np.testing.assert_array_equal(found.labels, wanted.labels)
    before = sha256_of(tmp_path)
    np.save(tmp_path / "labels.npy", np.zeros(420, np.int64))
    assert sha256_of(tmp_path) != before


def test_a_changed_picture_changes_the_digest_and_the_stamp(tmp_path: Path) -> None:
    path = as_folder(squares(6, seed=1), tmp_path / "data")
    before = sha256_of(path), stamp(path)
    assert (sha256_of(path), stamp(path)) == before
    Image.new("RGB", (16, 16)).save(next((path / "red").glob("*.png"), path / "red" / "new.png"))
    assert sha256_of(path) != before[0]
    assert stamp(path) != before[1]


def test_calibrate_takes_a_folder_and_its_names_where_they_are_in_the_models_order(
    hauberk: Command, keras_file: Path, pictures: Path, tmp_path: Path
) -> None:
    given = ("calibrate", "--classifier", keras_file, "--data", pictures, "--false-abstention-rate", "0.05")
    # Folders come in the order of the alphabet, blue first; the model's first output is red. So BGR would explain it too.
    ran = hauberk(*given, "--out", tmp_path / "bundle")
    assert_refused(ran, "--channels=bgr")
    assert_refused(ran, "; or else with its classes in another order it is right on 100.0 %")
    ran = hauberk(*given, "--out", tmp_path / "bundle", "--labels", ",".join(NAMES))
    assert ran.code == 0, ran.errors
    bundle = read_bundle(tmp_path / "bundle")
    assert bundle.labels == NAMES
    assert bundle.card["calibration"]["data"]["sha256"] == sha256_of(pictures)
    assert "returns probabilities of red, green, blue" in ran.output


def test_calibrate_names_a_broken_picture_and_says_to_resize(
    hauberk: Command, keras_file: Path, pictures: Path, tmp_path: Path
) -> None:
    path = as_folder(squares(20, seed=2), tmp_path / "data")
    given = ("calibrate", "--classifier", keras_file, "--data", path, "--out", tmp_path / "bundle")
    Image.new("RGB", (20, 30)).save(path / "red" / "large.png")
    assert_refused(hauberk(*given), "say --resize HEIGHTxWIDTH")
    (path / "red" / "large.png").write_bytes(b"nothing")
    assert_refused(hauberk(*given), "1 of 21 pictures")
    assert not (tmp_path / "bundle").exists()


def test_scan_takes_a_folder_and_says_which_file_each_sample_is(
    hauberk: Command, keras_file: Path, pictures: Path, tmp_path: Path
) -> None:
    ran = hauberk("scan", "--classifier", keras_file, "--data", pictures, "--out", tmp_path, "--labels", ",".join(NAMES))
    assert ran.code in (0, 2, 3), ran
    if ran.code != 2:
        assert len(np.load(tmp_path / "is_clean.npy")) == 340
        assert (tmp_path / "files.txt").read_text().split() == list(sample_names(pictures, None) or ())


@pytest.mark.parametrize("how", ["caffe", "channels first, own statistics", "bytes"])
def test_what_was_declared_is_what_the_bundle_serves(
    hauberk: Command, tinted_network: Callable[[str | None], Any], tmp_path: Path, how: str
) -> None:
    import keras

    network = tinted_network("caffe" if how == "caffe" else None)
    inputs = {"caffe": (16, 16, 3), "bytes": (16, 16, 3)}.get(how, (3, 16, 16))
    layers: list[Any] = [keras.Input(inputs, dtype="uint8" if how == "bytes" else "float32")]
    if how == "channels first, own statistics":
        layers += [keras.layers.Permute((2, 3, 1)), keras.layers.Rescaling([0.2, 0.25, 0.5], [0.4, 0.5, 0.25])]
    if how == "bytes":
        layers += [keras.layers.Rescaling(1 / 255)]
    keras.Sequential([*layers, *network.layers]).save(tmp_path / "model.keras")
    options, declared = {
        "caffe": (["--preset", "caffe"], {"mean", "std", "channels"}),
        "channels first, own statistics": (["--mean", "0.4,0.5,0.25", "--std", "0.2,0.25,0.5"], {"mean", "std", "layout"}),
        "bytes": ([], {"input_range", "input_dtype"}),
    }[how]
    data = tinted(340, seed=31)
    np.savez(tmp_path / "data.npz", images=np.rint(data.images * 255).astype(np.uint8), labels=data.labels)
    given = ("calibrate", "--classifier", tmp_path / "model.keras", "--data", tmp_path / "data.npz", "--out", tmp_path / "bundle")
    ran = hauberk(*given, "--false-abstention-rate", "0.05", *options)
    assert ran.code == 0, ran.errors
    bundle = read_bundle(tmp_path / "bundle")
    settings = tomllib.loads((tmp_path / "bundle" / "hauberk.toml").read_text())["classifier"]
    assert declared == settings.keys() & {"input_range", "mean", "std", "layout", "channels", "input_dtype"}
    fresh = tinted(300, seed=32)
    wanted = KerasClassifier(network, preparation=PRESETS["caffe"] if how == "caffe" else Preparation(), outputs="logits")
    expected = wanted.predict(np.rint(fresh.images * 255).astype(np.float32) / np.float32(255))
    for classifier in (classifier_of(bundle, threads=1), KerasClassifier.from_bundle(bundle, threads=1)):
        found = classifier.predict(np.rint(fresh.images * 255).astype(np.float32) / np.float32(255))
        np.testing.assert_allclose(found, expected, atol=1e-3)
