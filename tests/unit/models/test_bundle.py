"""Bundles: they are read back as written, and an altered file is refused by name."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.bundle import Bundle, read_bundle, write_bundle
from models.errors import InvalidBundle
from tests import bundles

FILES = ("hauberk.toml", "model.keras", "calibration.npz")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return bundles.write(tmp_path / "animals")


def refused(directory: Path, sentence: str) -> None:
    with pytest.raises(InvalidBundle, match=sentence) as refusal:
        read_bundle(directory)
    assert "\n" not in str(refusal.value).strip()


def test_what_is_written_is_read_back(bundle: Bundle) -> None:
    again = read_bundle(bundle.directory)
    assert again.settings == bundles.settings(bundles.TOTAL_VARIATION, bundles.STRIP, bundles.REVERSE_SIGMOID)
    assert again.name == "animals"
    assert again.input_shape == bundles.SHAPE
    assert again.labels == ("ant", "bee", "cat", "dog")
    for name, array in bundles.calibration().items():
        np.testing.assert_array_equal(again.calibration[name], array)


def test_the_digest_is_that_of_the_card_which_holds_those_of_the_files(bundle: Bundle) -> None:
    card = bundle.directory / "card.json"
    assert bundle.digest == hashlib.sha256(card.read_bytes()).hexdigest()
    assert bundle.version == bundle.digest[:12]
    assert json.loads(card.read_text())["files"] == {
        name: hashlib.sha256((bundle.directory / name).read_bytes()).hexdigest() for name in FILES
    }


def test_hauberk_toml_begins_with_the_format(bundle: Bundle) -> None:
    assert (bundle.directory / "hauberk.toml").read_text().startswith("format = 1\n")


def test_a_bundle_without_defences_is_read_back(tmp_path: Path) -> None:
    (tmp_path / "model.keras").write_bytes(b"stands in for a model")
    written = write_bundle(tmp_path, settings=bundles.settings(), calibration={}, card={})
    assert written.settings["defences"] == []
    assert read_bundle(tmp_path).settings == bundles.settings()


def test_labels_may_be_any_text(tmp_path: Path) -> None:
    labels = ["naïve", 'a "quote"', "back\\slash", "tab\tand\nnewline", "\U0001f600", "\x7f", "名前"]
    assert bundles.write(tmp_path, labels=labels).labels == tuple(labels)


def test_an_example_is_covered_by_the_card_too(bundle: Bundle) -> None:
    bundles.replace_file(bundle.directory, "example.json", b"{}")
    assert "example.json" in read_bundle(bundle.directory).card["files"]
    (bundle.directory / "example.json").write_text("{ }")
    refused(bundle.directory, "example.json is not the file")


@pytest.mark.parametrize("name", FILES)
def test_an_altered_file_is_named(bundle: Bundle, name: str) -> None:
    path = bundle.directory / name
    path.write_bytes(path.read_bytes() + b" ")
    refused(bundle.directory, f"{re.escape(name)} is not the file")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(bundle: Bundle, name: str) -> None:
    (bundle.directory / name).unlink()
    refused(bundle.directory, f"{re.escape(name)}, which .* does not exist")


@pytest.mark.parametrize("name", FILES)
def test_a_card_has_to_list_every_file(bundle: Bundle, name: str) -> None:
    card = dict(bundle.card, files={n: d for n, d in bundle.card["files"].items() if n != name})
    (bundle.directory / "card.json").write_text(json.dumps(card))
    refused(bundle.directory, f"the digest of {re.escape(name)}")


@pytest.mark.parametrize(
    "content", ["", "hello", "[]", "3", "{}", '{"files": 3}', '{"files": [1]}', '{"files": null}', "[" * 100_000]
)
def test_what_is_no_card_is_refused(bundle: Bundle, content: str) -> None:
    (bundle.directory / "card.json").write_text(content)
    refused(bundle.directory, "card.json")


def test_a_card_that_lists_its_files_as_pairs_is_read_as_one_that_names_them(bundle: Bundle) -> None:
    card = dict(bundle.card, files=list(bundle.card["files"].items()))
    (bundle.directory / "card.json").write_text(json.dumps(card))
    assert read_bundle(bundle.directory).card["files"] == bundle.card["files"]


def test_a_directory_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "to be a bundle's card")
    refused(tmp_path / "none", "which does not exist; hauberk calibrate writes one")


@pytest.mark.parametrize(
    "trick", ["../secret", "./model.keras/../../secret", "sub/../../secret", "sub/file", ".", "..", "x" * 5000, ""]
)
def test_a_card_cannot_point_outside_its_directory(bundle: Bundle, trick: str) -> None:
    secret = bundle.directory.parent / "secret"
    secret.write_text("secret")
    (bundle.directory / "sub").mkdir()
    (bundle.directory / "sub" / "file").write_text("secret")
    listed = {**bundle.card["files"], trick: hashlib.sha256(b"secret").hexdigest()}
    (bundle.directory / "card.json").write_text(json.dumps({**bundle.card, "files": listed}))
    refused(bundle.directory, "does not exist")


def test_an_absolute_path_in_a_card_is_refused(bundle: Bundle) -> None:
    secret = bundle.directory.parent / "secret"
    secret.write_text("secret")
    listed = {**bundle.card["files"], str(secret): hashlib.sha256(b"secret").hexdigest()}
    (bundle.directory / "card.json").write_text(json.dumps({**bundle.card, "files": listed}))
    refused(bundle.directory, "does not exist")


TOML: dict[str, tuple[str, str, str]] = {
    "another format": ("format = 1", "format = 2", "format = 1, got 2"),
    "no format": ("format = 1\n", "", "format = 1, got None"),
    "a format in quotes": ("format = 1", 'format = "1"', "format = 1, got '1'"),
    "an unknown key": ("format = 1", "format = 1\nthreads = 4", "threads: Extra inputs"),
    "an unknown key of the classifier": ("[classifier]", "[classifier]\nseed = 1", r"classifier\.seed: Extra inputs"),
    "another file": ('file = "model.keras"', 'file = "../model.keras"', r"classifier\.file"),
    "unknown outputs": ('outputs = "probabilities"', 'outputs = "scores"', r"classifier\.outputs"),
    "a number as text": ("input_shape = [5, 7, 3]", 'input_shape = [5, 7, "3"]', r"classifier\.input_shape\.2"),
    "a shape of two": ("input_shape = [5, 7, 3]", "input_shape = [5, 7]", r"classifier\.input_shape"),
    "a shape without pixels": ("input_shape = [5, 7, 3]", "input_shape = [5, 0, 3]", r"classifier\.input_shape\.1"),
    "a range of one": ("input_range = [0.0, 1.0]", "input_range = [0.0]", r"classifier\.input_range"),
    "a range of nothing": ("input_range = [0.0, 1.0]", "input_range = [1.0, 1.0]", "expected finite scales other than 0"),
    "a range and a mean": (
        "input_range = [0.0, 1.0]",
        "input_range = [0.0, 1.0]\nmean = [0.5]\nstd = [0.5]",
        "expected an input range, or",
    ),
    "a mean of two": ("input_range = [0.0, 1.0]", "mean = [0.5, 0.4]\nstd = [0.5]", "one for each of 3 channels, got 2"),
    "a layout": ("input_range = [0.0, 1.0]", 'layout = "chwn"', r"classifier\.layout"),
    "one label": ('labels = ["ant", "bee", "cat", "dog"]', 'labels = ["ant"]', r"classifier\.labels"),
    "an unknown mode": ('mode = "enforce"', 'mode = "observe"', r"defences\.0\.mode"),
    "a defence without a name": ('name = "total_variation"\n', "", r"defences\.0\.name"),
    "a name with a path in it": ('name = "animals"', 'name = "../animals"', "name: String should match"),
    "broken TOML": ("format = 1", "format = ", "cannot be read as TOML"),
    "endless TOML": ("format = 1", "format = " + "[" * 100_000, "cannot be read as TOML"),
}


@pytest.mark.parametrize("what", TOML)
def test_settings_that_do_not_fit_are_refused_with_their_place(bundle: Bundle, what: str) -> None:
    before, after, sentence = TOML[what]
    text = (bundle.directory / "hauberk.toml").read_text()
    assert before in text
    bundles.replace_file(bundle.directory, "hauberk.toml", text.replace(before, after, 1).encode())
    refused(bundle.directory, sentence)


def test_settings_in_another_encoding_are_refused(bundle: Bundle) -> None:
    bundles.replace_file(bundle.directory, "hauberk.toml", 'format = 1\nname = "é"'.encode("latin-1"))
    refused(bundle.directory, "cannot be read as TOML")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04"])
def test_a_calibration_that_is_no_archive_is_refused(bundle: Bundle, content: bytes) -> None:
    bundles.replace_file(bundle.directory, "calibration.npz", content)
    refused(bundle.directory, "calibration.npz cannot be read")


def test_pickled_arrays_in_a_calibration_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "objects.npz"
    objects: Any = np.array([{"a": 1}], object)
    np.savez(path, strip_threshold=objects)
    bundles.replace_file(bundle.directory, "calibration.npz", path.read_bytes())
    refused(bundle.directory, "calibration.npz cannot be read")


def test_a_small_calibration_that_would_take_gigabytes_is_refused_before_it_does(bundle: Bundle, tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "bomb.npz", strip_threshold=np.zeros(40 << 20))
    assert (tmp_path / "bomb.npz").stat().st_size < 1 << 20
    bundles.replace_file(bundle.directory, "calibration.npz", (tmp_path / "bomb.npz").read_bytes())
    refused(bundle.directory, r"calibration\.npz would unpack to 320\.0 MiB, expected 256\.0 MiB at most")


@pytest.mark.parametrize("name", ["hauberk.toml", "card.json", "example.json"])
def test_a_file_that_is_too_long_is_refused_before_it_is_read(bundle: Bundle, name: str) -> None:
    bundles.replace_file(bundle.directory, "example.json", b"{}")
    with (bundle.directory / name).open("r+b") as file:
        file.truncate(1 << 40)
    refused(bundle.directory, re.escape(name))


@pytest.mark.parametrize("name", [*FILES, "card.json"])
def test_what_is_no_file_is_named_and_not_waited_for(bundle: Bundle, name: str) -> None:
    (bundle.directory / name).unlink()
    os.mkfifo(bundle.directory / name)
    refused(bundle.directory, re.escape(name))


def test_images_of_more_numbers_than_can_be_served_are_refused(bundle: Bundle) -> None:
    text = (bundle.directory / "hauberk.toml").read_text().replace("[5, 7, 3]", "[60000, 60000, 3]")
    bundles.replace_file(bundle.directory, "hauberk.toml", text.encode())
    refused(bundle.directory, r"classifier\.input_shape: .*expected at most 67108864 numbers an image, got 10800000000")


def test_a_bundle_that_has_to_have_a_digest_and_has_another_is_refused(bundle: Bundle) -> None:
    assert read_bundle(bundle.directory, digest=bundle.digest).digest == bundle.digest
    bundles.replace_file(bundle.directory, "model.keras", b"another model")
    with pytest.raises(InvalidBundle, match=f"to have sha256 {bundle.version}.*; a server serves the bundle that it was started"):
        read_bundle(bundle.directory, digest=bundle.digest)


def test_a_file_that_was_swapped_after_the_bundle_was_read_is_refused_when_it_is_used(bundle: Bundle) -> None:
    bundles.replace_file(bundle.directory, "example.json", b"{}")
    read = read_bundle(bundle.directory)
    assert (read.holds("example.json"), read.read("example.json")) == (True, b"{}")
    for name, content in (("example.json", b"[]"), ("model.keras", b"another model")):
        bundles.replace_file(bundle.directory, name, content)
        with pytest.raises(InvalidBundle, match=f"{re.escape(name)} is not the file"):
            read.read(name)
        with pytest.raises(InvalidBundle, match=f"{re.escape(name)} is not the file"), read.copied(name):
            pass


def test_a_copy_is_what_was_hashed_whatever_happens_to_the_file_and_is_removed(bundle: Bundle) -> None:
    before = (bundle.directory / "model.keras").read_bytes()
    with bundle.copied("model.keras") as path:
        (bundle.directory / "model.keras").write_bytes(b"another model")
        assert (path.read_bytes(), path.suffix) == (before, ".keras")
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not path.parent.exists()


def test_where_no_copy_can_be_made_one_sentence_says_what_to_set(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(bundle.directory / "none"))
    with pytest.raises(InvalidBundle, match="set TMPDIR to a directory with room"), bundle.copied("model.keras"):
        pass
