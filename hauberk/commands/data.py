"""What --data names, for every command: an .npz, a directory of arrays, or a folder of pictures with one sub-folder a class."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hauberk.commands.options import progress_bar
from models.datasets import Dataset, Origin, Split, has_halves, in_memory, load_dataset
from models.errors import InvalidInput
from models.image_rows import PackedDataset, PackedImages, Samples
from models.pictures.folders import PictureFolder, is_picture_folder, list_pictures, positions, read_pictures
from models.stored_images import StoredImages, open_images, open_samples

_SIDE_AT_MOST = 1 << 13
_DIGEST_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class AsPictures:
    """How the pictures of a folder are read.

    Args:
        resize: HEIGHTxWIDTH.
        labels: names of the classes in the order of the model's outputs; the folders' own, sorted, when none.

    Raises: InvalidInput on construction: no size.
    """

    resize: str | None = None
    colours: Literal["grey", "rgb"] | None = None
    labels: Sequence[str] | None = None

    def __post_init__(self) -> None:
        _ = self.size

    @property
    def size(self) -> tuple[int, int] | None:
        """(h, w)."""
        if self.resize is None:
            return None
        found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", self.resize.strip())
        h, w = map(int, found.groups()) if found else (0, 0)
        if not (0 < h <= _SIDE_AT_MOST and 0 < w <= _SIDE_AT_MOST):
            raise InvalidInput(f"expected --resize HEIGHTxWIDTH such as 32x32, got {self.resize!r}")
        return h, w

    @property
    def as_colours(self) -> bool | None:
        """Whether pictures are read as RGB; None where they say so themselves."""
        return None if self.colours is None else self.colours == "rgb"


PLAIN = AsPictures()


def read_data(path: Path, split: Split, rows: str | None, pictures: AsPictures = PLAIN) -> Dataset:
    """The data in `path`, or its rows START:STOP, in memory."""
    if is_picture_folder(path):
        stored = _pictures(path, rows, pictures, None)
        return Dataset(stored.images(slice(None)), stored.labels)
    _check_no_pictures(path, pictures)
    data = in_memory(open_samples(path)) if path.is_dir() else load_dataset(path, split=split)
    return data if rows is None else data.take(chosen_rows(rows, len(data)))


def read_samples(path: Path, split: Split, rows: str | None, pictures: AsPictures = PLAIN) -> Samples:
    """The same, of which images stay as they are stored until they are used."""
    if is_picture_folder(path):
        stored = _pictures(path, rows, pictures, None)
        return PackedDataset(PackedImages(stored.raw, name=path.name), stored.labels)
    _check_no_pictures(path, pictures)
    data = open_samples(path, split=split)
    return data if rows is None else data.take(chosen_rows(rows, len(data)))


def open_data(path: Path, split: Split, rows: str | None, *, unpack_to: Path, pictures: AsPictures = PLAIN) -> StoredImages:
    """The same, of which large images stay on disk."""
    if is_picture_folder(path):
        return _pictures(path, rows, pictures, unpack_to)
    _check_no_pictures(path, pictures)
    stored = open_images(path, split=split, unpack_to=unpack_to)
    return stored if rows is None else stored.take(chosen_rows(rows, len(stored)))


def class_names(path: Path) -> tuple[str, ...] | None:
    """The classes of a folder of pictures, by the names of its sub-folders; None of other data."""
    return list_pictures(path).classes if is_picture_folder(path) else None


def labelled_as(path: Path, data: Dataset, names: Sequence[str]) -> Dataset:
    """The data of `path` with the labels of a classifier that has these class names: those of a folder go by its sub-folders' names."""
    classes = class_names(path)
    return data if classes is None else Dataset(data.images, positions(classes, names)[data.labels])


def sample_names(path: Path, rows: str | None) -> tuple[str, ...] | None:
    """Which file each sample of a folder of pictures is; None of other data."""
    return _rows(list_pictures(path), rows).names if is_picture_folder(path) else None


def origin(path: Path, split: Split, rows: str | None, samples: int) -> Origin:
    """Where the data came from, as the reports say it: of a file without two halves, no half."""
    return Origin(path.name, split if has_halves(path) else None, rows or f"0:{samples}")


def sha256_of(path: Path) -> str:
    """The digest of a file, hex; of a folder of pictures or a directory of arrays that of the names and contents of all."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if is_picture_folder(path):
        folder = list_pictures(path)
        names, files = folder.names, folder.files
    else:
        names = ("images.npy", "labels.npy")
        files = tuple(path / name for name in names)
    found = hashlib.sha256()
    for name, picture in zip(names, files, strict=True):
        content = hashlib.sha256()
        with picture.open("rb") as opened:
            while part := opened.read(_DIGEST_AT_ONCE):
                content.update(part)
        found.update(name.encode("utf-8", "surrogateescape") + b"\0" + content.digest())
    return found.hexdigest()


def stamp(path: Path) -> list[Any]:
    """What changes when the data do: place, size and time of change, of a folder of pictures those of all."""
    if not is_picture_folder(path):
        of_data = path if path.is_file() else path / "images.npy"
        return [str(of_data.resolve()), of_data.stat().st_size, of_data.stat().st_mtime_ns]
    folder, found = list_pictures(path), hashlib.sha256()
    for name, picture in zip(folder.names, folder.files, strict=True):
        stat = picture.stat()
        found.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return [str(path.resolve()), len(folder), found.hexdigest()]


def chosen_rows(rows: str, samples: int) -> slice:
    """The rows that --rows START:STOP chooses among so many samples. Raises: InvalidInput."""
    start, separator, stop = rows.partition(":")
    try:
        chosen = slice(int(start or 0), int(stop or samples))
    except ValueError:
        chosen = slice(0, 0)
    if not separator or not 0 <= chosen.start < chosen.stop <= samples:
        raise InvalidInput(f"expected --rows START:STOP within 0:{samples}, got {rows!r}")
    return chosen


def _pictures(path: Path, rows: str | None, pictures: AsPictures, unpack_to: Path | None) -> StoredImages:
    folder = list_pictures(path)
    if pictures.labels is not None:
        folder = folder.ordered(pictures.labels)
    with progress_bar("pictures") as progress:
        return read_pictures(
            _rows(folder, rows), size=pictures.size, colours=pictures.as_colours, unpack_to=unpack_to, progress=progress
        )


def _rows(folder: PictureFolder, rows: str | None) -> PictureFolder:
    return folder if rows is None else folder.take(chosen_rows(rows, len(folder)))


def _check_no_pictures(path: Path, pictures: AsPictures) -> None:
    if (pictures.resize, pictures.colours) != (None, None):
        raise InvalidInput(f"expected a folder of pictures with --resize and --colours, got {path.name}, whose images are arrays")
