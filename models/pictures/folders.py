"""A data set as a folder of pictures: one sub-folder a class, its name the class's.

The order of the samples is drawn from the files' names, the same on every machine: folders are sorted by class, and rows of a file sorted
by class are of one class. Pictures are decoded when they are read, into bytes; those of a large folder are written to disk and mapped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.datasets import Dataset
from models.errors import InvalidInput
from models.pictures.channels import COLOURED
from models.pictures.decoding import Size
from models.pictures.errors import UnusableColours, UnusablePicture
from models.pictures.reading import ENDINGS, read_picture, reason
from models.progress import Progress, silent
from models.stored_images import IN_MEMORY_AT_MOST, StoredImages, refused_when_full

_NAMED_AT_MOST = 5
_FEWEST_CLASSES = 2
_NOT_SEEN = frozenset({"thumbs.db", "desktop.ini"})  # what file managers leave
_COLOURS, _GREY = 3, 1
_IN_MEMORY_WITHOUT_ROOM = 1 << 30  # a quarter of what they take as float32


@dataclass(frozen=True)
class PictureFolder:
    """The pictures of a folder, none of which is read yet.

    Attributes:
        path: the folder.
        classes: names of its sub-folders, sorted.
        files: one a picture, in the order of the samples.
        labels: int64 [n], positions in `classes`.
    """

    path: Path
    classes: tuple[str, ...]
    files: tuple[Path, ...]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.files)

    @property
    def names(self) -> tuple[str, ...]:
        """CLASS/FILE of each picture."""
        return tuple(f"{file.parent.name}/{file.name}" for file in self.files)

    def take(self, rows: slice) -> PictureFolder:
        """A slice of the samples."""
        return PictureFolder(self.path, self.classes, self.files[rows], self.labels[rows])

    def ordered(self, names: Sequence[str]) -> PictureFolder:
        """The same pictures, with the labels that a classifier with these class names has.

        Raises: InvalidInput: a class that the classifier does not know.
        """
        return PictureFolder(self.path, tuple(names), self.files, positions(self.classes, names)[self.labels])


def is_picture_folder(path: Path) -> bool:
    """Whether it is a directory, and not one of arrays (images.npy, labels.npy)."""
    return path.is_dir() and not (path / "images.npy").exists()


def list_pictures(path: Path) -> PictureFolder:
    """The pictures in a folder with one sub-folder a class. Raises: InvalidInput: no such folder, or something else in it."""
    try:
        classes = sorted(one.name for one in path.iterdir() if not one.name.startswith(".") and one.is_dir())
        files = [(file, label) for label, name in enumerate(classes) for file in _files(path / name)]
    except OSError as failure:
        raise InvalidInput(f"{failure.filename} cannot be read: {(failure.strerror or str(failure)).lower()}") from failure
    if len(classes) < _FEWEST_CLASSES or not files:
        raise InvalidInput(
            f"expected a folder with one sub-folder of pictures a class, two at least, got {path} with {len(classes)} "
            f"sub-folder{'s' * (len(classes) != 1)} and {len(files)} pictures in them"
        )
    files.sort(key=lambda one: hashlib.blake2b(f"{one[0].parent.name}/{one[0].name}".encode("utf-8", "surrogateescape")).digest())
    return PictureFolder(
        path, tuple(classes), tuple(file for file, _ in files), np.array([label for _, label in files], np.int64)
    )


def read_pictures(
    folder: PictureFolder,
    *,
    size: Size | None = None,
    colours: bool | None = None,
    unpack_to: Path | None = None,
    progress: Progress = silent,
) -> StoredImages:
    """Decode every picture, to uint8.

    Args:
        size: (h, w) to resize to; when None, all have to have one size.
        colours: as RGB, or as grey; when None grey where every picture is, else RGB.
        unpack_to: directory for the images of a large folder, which are mapped from there; without it all are in memory.
        progress: told ("pictures", read, of).

    Raises: InvalidInput: pictures of different sizes, or some that cannot be read, by name; no space to unpack.
    """
    reading = _Reading(folder, size, unpack_to, progress)
    if colours is not None:
        raw = reading.of(_COLOURS if colours else _GREY)
    else:
        try:
            raw = reading.of(_GREY, only_while_grey=True)
        except _Coloured:
            raw = reading.of(_COLOURS)
    return StoredImages(raw, folder.labels, folder.path.name)


def load_pictures(
    path: Path,
    *,
    size: Size | None = None,
    colours: bool | None = None,
    labels: Sequence[str] | None = None,
    progress: Progress = silent,
) -> Dataset:
    """The pictures of a folder with one sub-folder a class, in memory.

    Args:
        size, colours: see `read_pictures`.
        labels: the classes in the order of the classifier's; the sub-folders' names, sorted, when None.

    Raises: InvalidInput, one sentence.
    """
    folder = list_pictures(path)
    stored = read_pictures(folder if labels is None else folder.ordered(labels), size=size, colours=colours, progress=progress)
    return Dataset(stored.images(slice(None)), stored.labels)


def positions(classes: Sequence[str], names: Sequence[str]) -> NDArray[np.int64]:
    """Where each of a folder's classes stands among a classifier's class names.

    A classifier without names, of whose classes are numbers, has them in the order of the folders, where there is one for each.

    Raises: InvalidInput: a class that the classifier does not know.
    """
    known = {name: at for at, name in enumerate(names)}
    if set(classes) <= known.keys():
        return np.array([known[name] for name in classes], np.int64)
    if len(classes) == len(names) and list(names) == [str(at) for at in range(len(names))]:
        return np.arange(len(classes))
    unknown = [name for name in classes if name not in known]
    raise InvalidInput(
        f"expected sub-folders named as the classes {_few(names)}, got {_few(unknown)}; rename them, or name the classes as they "
        "are, in the order of the model's outputs, with hauberk calibrate --labels or hauberk scan --labels"
    )


class _Coloured(Exception):
    """A picture has colours where all were taken for grey."""


@dataclass(frozen=True)
class _Reading:
    """Decodes the pictures of a folder, in this many channels."""

    folder: PictureFolder
    size: Size | None
    unpack_to: Path | None
    progress: Progress

    def of(self, channels: int, *, only_while_grey: bool = False) -> NDArray[np.generic]:
        """Images uint8 [n, h, w, c]. Raises: InvalidInput; _Coloured, at the first colours where it was to stop there."""
        raw: NDArray[np.uint8] | None = None
        unusable: list[str] = []
        first = ""
        for row, (file, name) in enumerate(zip(self.folder.files, self.folder.names, strict=True)):
            try:
                picture = read_picture(file, channels_wanted=channels, size=self.size)
            except (UnusablePicture, OSError) as failure:
                if only_while_grey and isinstance(failure, UnusableColours) and failure.detail == COLOURED:
                    raise _Coloured from None
                unusable.append(f"{name} ({reason(failure)})")
                continue
            if raw is None:
                raw, first = self._room(picture.shape), name
            if picture.shape != raw.shape[1:]:
                raise InvalidInput(_two_sizes((first, raw.shape[1:]), (name, picture.shape)))
            raw[row] = picture
            self.progress("pictures", row + 1, len(self.folder))
        if unusable or raw is None:
            raise InvalidInput(
                f"{len(unusable):,} of {len(self.folder):,} pictures in {self.folder.path} cannot be used: {_few(unusable, '; ')}"
            )
        return raw

    def _room(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        whole = (len(self.folder), *shape)
        size = int(np.prod(whole, dtype=np.int64))
        if size > IN_MEMORY_AT_MOST and self.unpack_to is not None:
            to = self.unpack_to
            made: list[NDArray[np.uint8]] = []

            def make() -> None:
                to.mkdir(parents=True, exist_ok=True)
                made.append(np.lib.format.open_memmap(to / "pictures.npy", mode="w+", dtype=np.uint8, shape=whole))

            refused_when_full(to, make)
            return made[0]
        if size > _IN_MEMORY_WITHOUT_ROOM:
            raise InvalidInput(
                f"expected pictures of at most {_IN_MEMORY_WITHOUT_ROOM >> 20:,} MiB decoded in {self.folder.path}, got {size >> 20:,} "
                f"MiB ({whole[0]:,} of {shape[1]} by {shape[0]}); make them smaller with --resize, or take some with --rows"
            )
        return np.empty(whole, np.uint8)


def _files(folder: Path) -> list[Path]:
    """The pictures of one class. Raises: InvalidInput: something in it that is none."""
    files = [one for one in folder.iterdir() if not one.name.startswith(".") and one.name.lower() not in _NOT_SEEN]
    others = sorted(one.name + "/" * one.is_dir() for one in files if one.is_dir() or one.suffix.lower() not in ENDINGS)
    if others:
        raise InvalidInput(
            f"expected only pictures ({', '.join(ENDINGS)}) in {folder}, got {_few(others)}; --data is the folder whose sub-folders are "
            "the classes"
        )
    return files


def _two_sizes(one: tuple[str, tuple[int, ...]], other: tuple[str, tuple[int, ...]]) -> str:
    (first, shape), (name, another) = one, other
    return (
        f"expected pictures of one size, got {first} of {shape[1]} by {shape[0]} and {name} of {another[1]} by {another[0]}; say "
        "--resize HEIGHTxWIDTH, the size that the model takes"
    )


def _few(names: Sequence[str], separator: str = ", ") -> str:
    more = len(names) - _NAMED_AT_MOST
    return separator.join(names[:_NAMED_AT_MOST]) + (f"{separator}and {more:,} more" if more > 0 else "")
