"""Data files: accepted forms, and errors in one sentence for all others."""

from __future__ import annotations

import hashlib
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.datasets import MNIST, MNIST_SHA256, Dataset, Split, as_images, has_halves, load_dataset, shared_images
from models.errors import InvalidInput
from models.stored_images import open_images

GREY = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
LABELS = np.array([1, 0])


def written(directory: Path, **arrays: Any) -> Path:
    path = directory / "data.npz"
    np.savez(path, **arrays)
    return path


def test_mnist_is_the_file_the_licence_note_describes() -> None:
    assert hashlib.sha256(MNIST.read_bytes()).hexdigest() == MNIST_SHA256
    assert MNIST_SHA256 in (MNIST.parent / "README.md").read_text()


def test_the_keras_convention_gives_the_split_asked_for() -> None:
    test = load_dataset(MNIST, split="test")
    assert test.images.shape == (10000, 28, 28, 1)
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert len(load_dataset(MNIST)) == 60000


def test_images_and_labels_are_read_whatever_the_split(tmp_path: Path) -> None:
    path = written(tmp_path, images=GREY, labels=LABELS, x_test=GREY[:1], y_test=LABELS[:1])
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        data = load_dataset(path, split=split)
        assert data.images.shape == (2, 3, 4, 1)
        assert data.images.dtype == np.float32
        assert data.labels.dtype == np.int64
        np.testing.assert_allclose(data.images[..., 0], GREY / 255)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_mean_the_same_as_bytes(dtype: type, tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 3), dtype=np.uint8)
    as_bytes = load_dataset(written(tmp_path, images=colour, labels=LABELS))
    as_floats = load_dataset(written(tmp_path, images=(colour / 255).astype(dtype), labels=LABELS))
    np.testing.assert_allclose(as_floats.images, as_bytes.images, atol=1e-3 if dtype is np.float16 else 1e-7)
    assert as_floats.images.dtype == np.float32


def test_bytes_from_0_to_255_become_0_to_1() -> None:
    np.testing.assert_array_equal(as_images(np.array([[[0, 255]]], np.uint8)), [[[[0.0], [1.0]]]])


def test_labels_in_a_column_are_read_as_the_cifar_files_have_them(tmp_path: Path) -> None:
    path = written(tmp_path, x_train=GREY, y_train=LABELS[:, None].astype(np.uint8), x_test=GREY, y_test=LABELS)
    assert load_dataset(path).labels.tolist() == [1, 0]


def test_rows_are_taken_in_the_order_asked_for() -> None:
    data = Dataset(as_images(GREY), LABELS).take(np.array([1, 0, 1]))
    assert data.labels.tolist() == [0, 1, 0]
    np.testing.assert_array_equal(data.images[0], as_images(GREY)[1])


HANDED_IN: dict[str, tuple[bytes, str]] = {
    "pointer.npz": (b"version https://git-lfs.github.com/spec/v1\n", "it is a git-lfs pointer, not the file itself"),
    "page.npz": (b"<html>", "it is a web page or XML; the download went wrong"),
    "empty.npz": (b"", "it is empty"),
    "data.h5": (b"\x89HDF\r\n\x1a\n", "it is an HDF5 file"),
    "cut.npz": (b"PK\x03\x04 and then nothing", "it is cut off or damaged"),
    "one.npy": (b"\x93NUMPY", "it is one NumPy array"),
}


@pytest.mark.parametrize("name", HANDED_IN)
def test_what_is_handed_in_by_mistake_is_called_by_its_name(name: str, tmp_path: Path) -> None:
    content, sentence = HANDED_IN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInput, match=sentence):
        load_dataset(tmp_path / name)


def test_a_directory_is_not_said_not_to_exist(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="which is a directory"):
        load_dataset(tmp_path)


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (2, 1, 28, 28), (2, 4, 8, 6)])
def test_images_with_their_channels_first_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    path = written(tmp_path, images=np.zeros(shape, np.uint8), labels=LABELS)
    with pytest.raises(InvalidInput, match=r"has its channels first; store np\.moveaxis\(images, 1, -1\)"):
        load_dataset(path)
    with pytest.raises(InvalidInput, match="channels first"):
        open_images(path, unpack_to=tmp_path)
    np.save(tmp_path / "images.npy", np.zeros(shape, np.uint8))
    np.save(tmp_path / "labels.npy", LABELS)
    with pytest.raises(InvalidInput, match="channels first"):
        open_images(tmp_path)


def test_only_a_file_with_both_halves_has_a_test_split(tmp_path: Path) -> None:
    assert has_halves(MNIST)
    assert not has_halves(written(tmp_path, images=GREY, labels=LABELS, x_train=GREY, x_test=GREY))
    assert not has_halves(written(tmp_path, x_train=GREY, y_train=LABELS))
    assert not has_halves(tmp_path)
    assert not has_halves(tmp_path / "none.npz")


def test_images_that_two_sets_share_are_counted() -> None:
    images = np.random.default_rng(0).random((10, 2, 2, 1), np.float32)
    some, others = Dataset(images[:6], np.zeros(6, np.int64)), Dataset(images[4:], np.ones(6, np.int64))
    assert shared_images(some, others) == 2
    assert shared_images(Dataset(images[[0, 0, 5]], np.zeros(3, np.int64)), others) == 1


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no labels": ({"images": GREY}, "to hold images and labels"),
    "no images": ({"labels": LABELS}, "to hold images and labels"),
    "only a test half": ({"x_test": GREY, "y_test": LABELS}, "x_train, y_train"),
    "nothing": ({}, r"got \[\]"),
    "flat images": ({"images": np.zeros((2, 12), np.uint8), "labels": LABELS}, r"got \[2, 12\]"),
    "five dimensions": ({"images": np.zeros((2, 1, 2, 3, 4), np.uint8), "labels": LABELS}, r"got \[2, 1, 2, 3, 4\]"),
    "images without pixels": ({"images": np.zeros((2, 0, 4), np.uint8), "labels": LABELS}, r"got \[2, 0, 4\]"),
    "no rows": ({"images": GREY[:0], "labels": LABELS[:0]}, "at least one image"),
    "another length": ({"images": GREY, "labels": np.arange(3)}, "2 images and 3 labels"),
    "integers that are not bytes": ({"images": GREY.astype(np.int64), "labels": LABELS}, "got int64"),
    "boolean images": ({"images": GREY > 3, "labels": LABELS}, "got bool"),
    "complex images": ({"images": GREY.astype(complex), "labels": LABELS}, "got complex128"),
    "floats up to 255": ({"images": GREY.astype(float), "labels": LABELS}, "divide by 255"),
    "negative floats": ({"images": GREY / 255 - 0.1, "labels": LABELS}, "within 0..1"),
    "NaN": ({"images": np.full((2, 3, 4), np.nan), "labels": LABELS}, "within 0..1"),
    "infinity": ({"images": np.full((2, 3, 4), np.inf), "labels": LABELS}, "within 0..1"),
    "beyond float32": ({"images": np.full((2, 3, 4), 1e39), "labels": LABELS}, "within 0..1"),
    "float labels": ({"images": GREY, "labels": LABELS.astype(float)}, "got float64"),
    "negative labels": ({"images": GREY, "labels": np.array([0, -1])}, "got -1"),
    "labels beyond int64": ({"images": GREY, "labels": np.array([0, 2**63], np.uint64)}, "labels from 0"),
    "text labels": (
        {"images": GREY, "labels": np.array(["a", "b"])},
        r"integer labels .*; number the classes from 0 in the order of the model's outputs",
    ),
    "labels stored as floats": (
        {"images": GREY, "labels": np.array([0.0, 1.0])},
        r"integer labels .*; store labels.astype\(int\)",
    ),
    "one-hot labels": ({"images": GREY, "labels": np.eye(2)}, r"integer labels .*; store labels.argmax\(axis=1\)"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_file_is_refused_with_a_sentence_that_names_it(what: str, tmp_path: Path) -> None:
    arrays, sentence = BAD[what]
    with pytest.raises(InvalidInput, match=sentence) as refusal:
        load_dataset(written(tmp_path, **arrays))
    assert "data.npz" in str(refusal.value)
    assert "\n" not in str(refusal.value)


class Trap:
    """Unpickling it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_pickled_arrays_are_refused_and_never_opened(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    path = written(tmp_path, images=np.array([Trap(sprung), Trap(sprung)], object), labels=LABELS)
    with pytest.raises(InvalidInput, match="plain arrays"):
        load_dataset(path)
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(InvalidInput, match="plain arrays"):
        load_dataset(tmp_path / "pickle.npz")
    assert not sprung.exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 and then nothing", b"\x93NUMPY"])
def test_what_is_no_archive_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "data.npz").write_bytes(content)
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_dataset(tmp_path / "data.npz")


def test_a_single_array_under_the_name_of_an_archive_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "data.npz").open("wb") as file:
        np.save(file, GREY)
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_dataset(tmp_path / "data.npz")


def test_a_damaged_archive_is_refused_whichever_byte_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez_compressed(path, images=GREY, labels=LABELS)
    whole = path.read_bytes()
    refused = 0
    for at in range(0, len(whole), 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x5A]) + whole[at + 1 :])
        try:
            load_dataset(path)
        except InvalidInput:
            refused += 1
    assert refused > len(whole) / 3 / 2  # the rest are bytes that say nothing, such as dates


def test_a_file_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="does not exist"):
        load_dataset(tmp_path / "none.npz")


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    for path, kind in ((tmp_path / "pipe.npz", "a named pipe"), (Path("/dev/zero"), "a device")):
        with pytest.raises(InvalidInput, match=f"it is {kind}, expected a file"):
            load_dataset(path)


def test_a_small_file_that_would_take_gigabytes_is_refused_before_it_does(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("images", "labels"):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                for _ in range(600):
                    member.write(bytes(1 << 20))
    with pytest.raises(InvalidInput, match=r"data\.npz would unpack to 1,200\.0 MiB, expected 1,024\.0 MiB at most"):
        load_dataset(path)


def test_arrays_that_nobody_asked_for_are_not_read(tmp_path: Path) -> None:
    notes: Any = np.array([{"written by": "hand"}], object)
    assert len(load_dataset(written(tmp_path, images=GREY, labels=LABELS, notes=notes))) == 2
