"""Data sets in memory, read from `.npz` files with `images` and `labels` or Keras's x_train, y_train, x_test, y_test; no pickles."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.archives import FOR_DATA, OutOfBounds, array_names, read_arrays
from models.classifier import Images, has_channels_first
from models.errors import InvalidInput
from models.file_kinds import kind_of
from models.files import NotAFile, open_file
from models.image_rows import ImageRows, PackedDataset, PackedImages, Samples, blocks

Split = Literal["train", "test"]

MNIST = Path(__file__).parent / "data" / "mnist.npz"
MNIST_SHA256 = "06af5dfe73b70e3bc1c36439982b18a8d76803db9b544f6fdf838a37fbb01b64"


@dataclass(frozen=True)
class Dataset:
    """Images float32 [n, h, w, c] in [0, 1] and their class indices int64 [n]."""

    images: Images
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.int64] | slice) -> Dataset:
        """The samples at `rows`, in that order."""
        return Dataset(self.images[rows], self.labels[rows])


@dataclass(frozen=True)
class Origin:
    """Where data came from, for reports.

    Attributes:
        file: name of the data file.
        split: "train" or "test", of a file with both halves; none of another.
        rows: START:STOP where only these rows were taken.
    """

    file: str = "in memory"
    split: str | None = None
    rows: str | None = None


IN_MEMORY = Origin()

_Data = TypeVar("_Data", "Dataset", PackedDataset)


def load_dataset(path: Path, *, split: Split = "train") -> Dataset:
    """Read a data file; `split` selects the train or test arrays of a file with both.

    Raises: InvalidInput: no such file, not an npz, arrays missing, wrong type, shape, length or range.
    """
    images, labels = _read(path, split)
    return _paired(Dataset(_images(images, path), _labels(labels, path)), path)


def load_packed(path: Path, *, split: Split = "train") -> Dataset | PackedDataset:
    """As `load_dataset`, but images that are stored as bytes stay bytes: a quarter of the memory. Raises: as `load_dataset`."""
    images, labels = _read(path, split)
    if images.dtype != np.uint8:
        return _paired(Dataset(_images(images, path), _labels(labels, path)), path)
    _check_shape(images.shape, path)
    return _paired(PackedDataset(PackedImages(images, name=path.name), _labels(labels, path)), path)


def _paired(data: _Data, path: Path) -> _Data:
    images, labels = data.images, data.labels
    if len(images) != len(labels):
        raise InvalidInput(f"expected one label per image in {path.name}, got {len(images)} images and {len(labels)} labels")
    if not len(images):
        raise InvalidInput(f"expected at least one image in {path.name}, got none")
    return data


def has_halves(path: Path) -> bool:
    """Whether a data file holds a training and a test half (x_train, x_test, ...); not one with images and labels only."""
    try:
        with open_file(path) as file, zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):  # a directory of arrays, or no file of data at all
        return False
    return "images.npy" not in names and {"x_train.npy", "x_test.npy"} <= set(names)


def shared_images(some: Samples, others: Samples) -> int:
    """How many of `some` images are, number for number, among the `others`."""
    known = set(_digests(others.images))
    return sum(digest in known for digest in _digests(some.images))


def in_memory(data: Samples) -> Dataset:
    """All of it as arrays; for a few images."""
    return Dataset(data.images[:], data.labels)


def digest_of(data: Samples) -> str:
    """The sha256 of all images and labels, hex."""
    digest = hashlib.sha256()
    for block in blocks(data.images):
        digest.update(data.images[block].tobytes())
    digest.update(data.labels.tobytes())
    return digest.hexdigest()


def _digests(images: ImageRows) -> Iterator[bytes]:
    for block in blocks(images):
        for image in np.ascontiguousarray(images[block]):
            yield hashlib.sha256(image).digest()


def check_channels_last(shape: tuple[int, ...], name: str) -> None:
    """Raises: InvalidInput: images [n, c, h, w], which would be read as pictures of one, three or four rows."""
    if has_channels_first(shape[1:]):
        raise InvalidInput(
            f"expected images [n, h, w, c] in {name}, got {list(shape)}, which has its channels first; store np.moveaxis(images, 1, -1)"
        )


def as_images(pictures: NDArray[np.uint8]) -> Images:
    """Convert pictures uint8 [n, h, w] or [n, h, w, c] to images float32 [n, h, w, c] in [0, 1]."""
    scaled = pictures.astype(np.float32) / np.float32(255)
    return scaled[..., None] if scaled.ndim == 3 else scaled


def _read(path: Path, split: Split) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """The images and labels of a file, as they are stored; its other arrays are not read."""
    try:
        with open_file(path) as file:
            held = array_names(file)
            names = ("images", "labels") if "images" in held else (f"x_{split}", f"y_{split}")
            arrays = read_arrays(file, room=FOR_DATA, only=names)
    except FileNotFoundError as failure:
        raise InvalidInput(f"expected a data file, got {path}, which does not exist") from failure
    except NotAFile as failure:
        what = f", which is {kind_of(path)}" if path.is_dir() else f": {failure.strerror}"
        raise InvalidInput(f"expected a data file, got {path}{what}") from failure
    except OutOfBounds as failure:
        raise InvalidInput(
            f"{path.name} {failure}; a larger data set is read from a directory with images.npy and labels.npy"
        ) from failure
    except Exception as failure:  # damaged archives raise a dozen kinds of exceptions
        kind = "an archive of Python objects, which are never loaded" if "Object arrays" in str(failure) else kind_of(path)
        raise InvalidInput(
            f"expected an .npz archive of plain arrays, but {path.name} cannot be read as one{kind and f': it is {kind}'}"
        ) from failure
    if len(arrays) < len(names):
        raise InvalidInput(f"expected {path.name} to hold images and labels (or x_{split}, y_{split}), got {sorted(held)}")
    return arrays[names[0]], arrays[names[1]]


def _labels(labels: NDArray[np.generic], path: Path) -> NDArray[np.int64]:
    if labels.ndim == 2 and labels.shape[1] == 1:  # the CIFAR files of Keras
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise InvalidInput(
            f"expected integer labels [n] in {path.name}, got {labels.dtype} {list(labels.shape)}{labels_advice(labels)}"
        )
    indices = labels.astype(np.int64)
    if len(indices) and int(indices.min()) < 0:  # or beyond int64
        raise InvalidInput(f"expected labels from 0 in {path.name}, got {int(indices.min())}")
    return indices


def labels_advice(labels: NDArray[np.generic]) -> str:
    """What to store in the place of labels that are no numbers of classes, as the end of a sentence."""
    if labels.ndim == 1 and labels.dtype.kind in "USTO":
        return "; number the classes from 0 in the order of the model's outputs"
    if labels.ndim == 1 and labels.dtype.kind == "f" and np.array_equal(labels, np.rint(labels.astype(float))):
        return "; store labels.astype(int)"
    if labels.ndim == 2:
        return "; store labels.argmax(axis=1) of one-hot labels"
    return ""


def _images(images: NDArray[np.generic], path: Path) -> Images:
    _check_shape(images.shape, path)
    if images.dtype == np.uint8:
        return as_images(images.astype(np.uint8))
    if images.dtype.kind != "f":
        raise InvalidInput(f"expected images uint8 0..255 or float 0..1 in {path.name}, got {images.dtype}")
    with np.errstate(over="ignore"):  # 1e39 becomes infinity, which the range check refuses
        scaled = images.astype(np.float32)
    if not ((scaled >= 0) & (scaled <= 1)).all():  # NaN fails both comparisons
        raise InvalidInput(f"expected float images within 0..1 in {path.name}; divide by 255, or store uint8")
    return scaled[..., None] if scaled.ndim == 3 else scaled


def _check_shape(shape: tuple[int, ...], path: Path) -> None:
    if len(shape) not in (3, 4) or 0 in shape[1:]:
        raise InvalidInput(f"expected images [n, h, w] or [n, h, w, c] in {path.name}, got {list(shape)}")
    check_channels_last(shape, path.name)
