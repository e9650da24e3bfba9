"""Zip archives, those of arrays (.npz) included, that may not unpack to more than their size and purpose allow.

A megabyte of zip can hold a gigabyte, and the header of an array can claim any shape. Before anything is unpacked, the directory of the
archive says how long each member will be (`zipfile` unpacks no more than that), and before an array is allocated, its header has to
claim exactly as many bytes as its member has.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

# The decompressors of the other methods cannot be told to stop.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ARRAY = ".npy"


class OutOfBounds(ValueError):
    """An archive that would unpack to too much; the text is a clause that follows the archive's name."""


@dataclass(frozen=True)
class Room:
    """How much an archive may unpack to: `bytes_at_least`, and `times` its own size where that is more."""

    bytes_at_least: int
    times: int

    def bytes_at_most(self, packed: int) -> int:
        """For an archive of `packed` bytes."""
        return max(self.bytes_at_least, self.times * packed)


FOR_BUNDLES = Room(256 << 20, 4)
"""Weights, overlays and scores hardly compress."""

FOR_DATA = Room(1 << 30, 64)
"""Pictures stored as float64 and labels compress well."""


def check_archive(archive: zipfile.ZipFile, packed: int, room: Room) -> None:
    """Refuse an archive by its directory. Raises: OutOfBounds; ValueError: doubled names, methods without a bound."""
    members = archive.infolist()
    if len({member.filename for member in members}) < len(members):
        raise ValueError("a name occurs twice")
    if any(member.compress_type not in _METHODS for member in members):
        raise ValueError("expected members that are stored or deflated")
    unpacked, most = sum(member.file_size for member in members), room.bytes_at_most(packed)
    if unpacked > most:
        raise OutOfBounds(f"would unpack to {_mib(unpacked)}, expected {_mib(most)} at most for a file of {_mib(packed)}")


def check_file(file: BinaryIO, room: Room) -> None:
    """As `check_archive`, for an open file. Raises: also zipfile.BadZipFile."""
    with zipfile.ZipFile(file) as archive:
        check_archive(archive, _size(file), room)


def read_arrays(file: BinaryIO, *, room: Room, only: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz, or `only` those of these names; no pickles.

    Raises: OutOfBounds, and for damaged archives a dozen kinds of exceptions.
    """
    with zipfile.ZipFile(file) as archive:
        check_archive(archive, _size(file), room)
        return {name: _array(archive, name) for name in _names(archive) if only is None or name in only}


def array_names(file: BinaryIO) -> list[str]:
    """The names of the arrays of an .npz. Raises: zipfile.BadZipFile."""
    with zipfile.ZipFile(file) as archive:
        return _names(archive)


def _names(archive: zipfile.ZipFile) -> list[str]:
    return [name.removesuffix(_ARRAY) for name in archive.namelist() if name.endswith(_ARRAY)]


def read_array(file: BinaryIO) -> NDArray[Any]:
    """The array of an .npy; no pickles. Raises: OutOfBounds, ValueError, EOFError."""
    size = _size(file)
    file.seek(0)
    _check_header(file, size, "")
    file.seek(0)
    return np.asarray(npy.read_array(file, allow_pickle=False))


def _array(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    member = archive.getinfo(name + _ARRAY)
    with archive.open(member) as stream:
        _check_header(stream, member.file_size, f" {name!r}")
    with archive.open(member) as stream:
        return np.asarray(npy.read_array(stream, allow_pickle=False))


def _check_header(stream: IO[bytes], size: int, name: str) -> None:
    """Whether an array's header claims as many bytes as follow it; pickles are refused by who reads it."""
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"expected an array of format 1.0 or 2.0, got {version}")
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read_header(stream)
    claimed, held = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if claimed != held and not dtype.hasobject:
        raise OutOfBounds(f"holds an array{name} whose header claims {claimed} bytes, where there are {held}")


def _size(file: BinaryIO) -> int:
    return file.seek(0, os.SEEK_END)


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.1f} MiB"
