"""Data sets larger than memory: images on disk that are read, checked and scaled in batches.

The arrays of a directory with images.npy and labels.npy are memory-mapped. An .npz is a zip archive, whose members cannot be mapped;
large images in it are unpacked once, as a stream.
"""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.archives import FOR_DATA, array_names, check_archive, read_arrays
from models.classifier import Images, Labels
from models.datasets import Dataset, Split, check_channels_last, labels_advice, load_dataset, load_packed
from models.errors import InvalidInput
from models.files import open_file
from models.image_rows import PackedDataset, PackedImages, Samples, blocks, unit_images

IN_MEMORY_AT_MOST = 1 << 28
"""Bytes of stored images up to which an .npz is read into memory."""

_COPIED_AT_ONCE = 1 << 22
_LABELS_AT_MOST = 1 << 32


@dataclass(frozen=True)
class StoredImages:
    """Labels, and images that are read on demand.

    Attributes:
        raw: uint8 or float [n, h, w] or [n, h, w, c], mapped or in memory.
        labels: int64 [n].
        name: name of the file, for messages.
    """

    raw: NDArray[np.generic]
    labels: Labels
    name: str

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(h, w, c) of one image."""
        h, w, *c = self.raw.shape[1:]
        return h, w, c[0] if c else 1

    def images(self, rows: NDArray[np.int64] | slice) -> Images:
        """Images float32 [m, h, w, c] in [0, 1]. Raises: InvalidInput: float values outside [0, 1] or NaN."""
        return unit_images(np.asarray(self.raw[rows]), self.name)

    def take(self, rows: slice) -> StoredImages:
        """A slice of the samples; its images stay on disk."""
        return StoredImages(self.raw[rows], self.labels[rows], self.name)

    def some(self, rows: NDArray[np.int64]) -> Dataset:
        """The samples at `rows`, in memory."""
        return Dataset(self.images(rows), self.labels[rows])


def open_images(path: Path, *, split: Split = "train", unpack_to: Path | None = None) -> StoredImages:
    """Open a data file or directory; images of more than IN_MEMORY_AT_MOST bytes stay on disk.

    Args:
        unpack_to: directory in which the images of a large .npz are unpacked, once; without it they are read into memory.

    Raises: InvalidInput: no such file, arrays missing, wrong type, shape, length or range, no space to unpack.
    """
    if path.is_dir():
        return _checked(_mapped(path / "images.npy"), _mapped(path / "labels.npy"), path.name)
    large = _large_member(path, split)
    if large is None or unpack_to is None:
        data = load_dataset(path, split=split)
        return StoredImages(data.images, data.labels, path.name)
    member, checksum = large
    images = unpack_to / f"{member}.{checksum:08x}.npy"  # another archive unpacked to the same place has images of its own
    if not images.exists():
        _unpack(path, f"{member}.npy", images)
    labels_name = "labels" if member == "images" else f"y_{split}"
    return _checked(_mapped(images), _labels_in(path, member, labels_name), path.name)


def open_samples(path: Path, *, split: Split = "train") -> Samples:
    """Open a data file or directory without making all its images float32: bytes stay bytes, and the arrays of a directory on disk.

    Raises: InvalidInput: as `load_dataset`.
    """
    if path.is_dir():
        stored = _checked(_mapped(path / "images.npy"), _mapped(path / "labels.npy"), path.name)
        packed = PackedImages(stored.raw, name=path.name)
        for block in blocks(packed):
            packed[block]  # numbers outside [0, 1] are found now, not minutes later
        return PackedDataset(packed, stored.labels)
    return load_packed(path, split=split)


def refused_when_full(directory: Path, write: Callable[[], None]) -> None:
    """Call `write`. Raises: InvalidInput when it fails with an OSError, such as a full disk."""
    try:
        write()
    except OSError as failure:
        reason = (failure.strerror or str(failure)).lower()
        raise InvalidInput(
            f"cannot write to {directory} ({reason}); make room and call again: finished work is kept"
        ) from failure


def _large_member(path: Path, split: Split) -> tuple[str, int] | None:
    """Name and CRC-32 of an .npz's array of images that is too large to read; None for smaller ones and for invalid files."""
    try:
        with open_file(path) as file, zipfile.ZipFile(file) as archive:
            check_archive(archive, path.stat().st_size, FOR_DATA)
            members = {info.filename: info for info in archive.infolist()}
    except (OSError, ValueError, zipfile.BadZipFile):
        return None
    name = "images" if "images.npy" in members else f"x_{split}"
    info = members.get(f"{name}.npy")
    return (name, info.CRC) if info is not None and info.file_size > IN_MEMORY_AT_MOST else None


def _labels_in(path: Path, member: str, name: str) -> NDArray[np.generic]:
    """The labels beside a large member."""
    try:
        with open_file(path) as file:
            held, arrays = array_names(file), read_arrays(file, room=FOR_DATA, only=(name,))
    except Exception as failure:  # damaged archives raise a dozen kinds of exceptions
        raise InvalidInput(f"expected an .npz archive of plain arrays, but {path.name} is damaged") from failure
    if not arrays:
        raise InvalidInput(f"expected {path.name} to hold {member} and {name}, got {sorted(held)}")
    return arrays[name]


def _unpack(path: Path, member: str, to: Path) -> None:
    unfinished = to.with_suffix(".part")

    def write() -> None:
        to.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path) as archive, archive.open(member) as packed, unfinished.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked, _COPIED_AT_ONCE)
        os.replace(unfinished, to)

    try:
        refused_when_full(to.parent, write)
    except zipfile.BadZipFile as failure:
        raise InvalidInput(f"expected an .npz archive of plain arrays, but {path.name} is damaged") from failure
    finally:
        unfinished.unlink(missing_ok=True)


def _mapped(path: Path) -> NDArray[np.generic]:
    if not path.is_file():
        raise InvalidInput(f"expected a directory with images.npy and labels.npy, got {path.parent}, which has no {path.name}")
    try:
        array: NDArray[np.generic] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as failure:
        raise InvalidInput(f"expected a plain array, but {path.name} cannot be read as one") from failure
    return array


def _checked(raw: NDArray[np.generic], labels: NDArray[np.generic], name: str) -> StoredImages:
    if raw.ndim not in (3, 4) or 0 in raw.shape[1:] or (raw.dtype != np.uint8 and raw.dtype.kind != "f"):
        raise InvalidInput(
            f"expected images [n, h, w] or [n, h, w, c], uint8 or float, in {name}, got {raw.dtype} {list(raw.shape)}"
        )
    check_channels_last(raw.shape, name)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) != len(raw) or not len(raw):
        raise InvalidInput(
            f"expected one integer label for each of {len(raw)} images in {name}, got {labels.dtype} {list(labels.shape)}"
            + labels_advice(labels)
        )
    indices = np.asarray(labels).astype(np.int64)
    if not 0 <= int(indices.min()) <= int(indices.max()) < _LABELS_AT_MOST:
        raise InvalidInput(f"expected labels from 0 in {name}, got {int(indices.min())} to {int(indices.max())}")
    return StoredImages(raw, indices, name)
