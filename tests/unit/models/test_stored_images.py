"""Images that stay on disk: mapped directories, unpacked archives, and refused files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import stored_images
from models.errors import InvalidInput
from models.stored_images import open_images

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 5, 4, 3), dtype=np.uint8)
LABELS = np.arange(12) % 3


def _directory(path: Path, images: Any = IMAGES, labels: Any = LABELS) -> Path:
    path.mkdir()
    np.save(path / "images.npy", images)
    np.save(path / "labels.npy", labels)
    return path


def test_a_directory_is_mapped_and_scaled_when_asked_for(tmp_path: Path) -> None:
    stored = open_images(_directory(tmp_path / "data"))
    assert isinstance(stored.raw, np.memmap)
    assert (len(stored), stored.shape) == (12, (5, 4, 3))
    np.testing.assert_array_equal(stored.images(np.array([7, 2])), IMAGES[[7, 2]].astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(stored.take(slice(3, 6)).images(slice(0, 1)), stored.images(slice(3, 4)))
    np.testing.assert_array_equal(stored.some(np.arange(2)).labels, LABELS[:2])


@pytest.mark.parametrize("names", [("images", "labels"), ("x_train", "y_train")])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_large_archive_is_unpacked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, str], save: Any
) -> None:
    monkeypatch.setattr(stored_images, "IN_MEMORY_AT_MOST", 100)
    save(tmp_path / "data.npz", **dict(zip(names, (IMAGES, LABELS[:, None]), strict=True)))
    for _ in range(2):
        stored = open_images(tmp_path / "data.npz", unpack_to=tmp_path / "work")
        assert isinstance(stored.raw, np.memmap)
        np.testing.assert_array_equal(stored.images(slice(0, 12)), IMAGES.astype(np.float32) / np.float32(255))
        np.testing.assert_array_equal(stored.labels, LABELS)
    (unpacked,) = (tmp_path / "work").iterdir()
    assert unpacked.name.startswith(f"{names[0]}.")


def test_a_changed_archive_is_unpacked_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_images, "IN_MEMORY_AT_MOST", 100)
    for images in (IMAGES, 255 - IMAGES):
        np.savez(tmp_path / "data.npz", images=images, labels=LABELS)
        stored = open_images(tmp_path / "data.npz", unpack_to=tmp_path / "work")
        np.testing.assert_array_equal(stored.images(slice(0, 12)), images.astype(np.float32) / np.float32(255))


def test_a_small_archive_is_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", images=IMAGES[..., 0], labels=LABELS)
    stored = open_images(tmp_path / "data.npz", unpack_to=tmp_path / "work")
    assert stored.shape == (5, 4, 1)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("images", "labels", "sentence"),
    [
        (IMAGES[:11], LABELS, "one integer label for each of 11 images"),
        (IMAGES, LABELS.astype(float), "one integer label"),
        (IMAGES, LABELS - 1, "labels from 0"),
        (IMAGES[:, 0, 0], LABELS, "images"),
        (IMAGES.astype(int), LABELS, "uint8 or float"),
    ],
)
def test_what_is_no_data_set_is_refused(tmp_path: Path, images: Any, labels: Any, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        open_images(_directory(tmp_path / "data", images, labels))


def test_a_directory_without_the_arrays_and_floats_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"no images\.npy"):
        open_images(tmp_path)
    stored = open_images(_directory(tmp_path / "data", IMAGES.astype(np.float32)))
    with pytest.raises(InvalidInput, match=r"within 0\.\.1"):
        stored.images(slice(0, 2))


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(InvalidInput, match="it is a named pipe, expected a file"):
        open_images(tmp_path / "pipe.npz", unpack_to=tmp_path / "work")


@pytest.mark.parametrize("labels", ["missing", "damaged"])
def test_a_large_archive_whose_labels_are_missing_or_damaged_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: str
) -> None:
    monkeypatch.setattr(stored_images, "IN_MEMORY_AT_MOST", 100)
    held: dict[str, Any] = {"images": IMAGES} | ({"labels": np.array([{}], object)} if labels == "damaged" else {})
    np.savez(tmp_path / "data.npz", **held)
    with pytest.raises(InvalidInput, match="hold images and labels" if labels == "missing" else "damaged"):
        open_images(tmp_path / "data.npz", unpack_to=tmp_path / "work")
