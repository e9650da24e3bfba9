"""A zip of pictures, a SavedModel or a bundle as the folder it holds: bounded before anything is unpacked, never outside of its place."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from lab.errors import Refused
from lab.limits import LabLimits
from lab.subject import UNPACKED, is_zip, unpacked_place
from models.archives import Room, check_archive
from models.files import open_file
from models.progress import Progress

_NOT_SEEN = ("__MACOSX",)
_AT_ONCE = 1 << 20
_TIMES = 4  # pictures and weights are compressed already


def unpacked(path: Path, field: str, progress: Progress, *, limits: LabLimits | None = None) -> Path:
    """The folder that a .zip holds, beside it; any other path is what it is.

    Raises: Refused, in this field: no zip, one that would unpack to more than it may, or names that lead out of it.
    """
    if not is_zip(path.name) or not path.is_file():
        return path
    place = path.with_name(path.name + UNPACKED)
    if not place.is_dir():
        _unpack(path, place, field, progress, limits or LabLimits())
    return unpacked_place(path)


def _unpack(path: Path, place: Path, field: str, progress: Progress, limits: LabLimits) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="unpacking-") as scratch:
        try:
            with open_file(path) as file, zipfile.ZipFile(file) as archive:
                room = Room(min(limits.unpacked_bytes, max(_AT_ONCE, _TIMES * path.stat().st_size)), 0)
                check_archive(archive, path.stat().st_size, room)
                members = [one for one in archive.infolist() if not one.is_dir() and not _unseen(one.filename)]
                if len(members) > limits.unpacked_files:
                    raise Refused(field, f"expected a zip of at most {limits.unpacked_files:,} files, got {len(members):,}")
                for number, member in enumerate(members, 1):
                    _copy(archive, member, Path(scratch) / "all" / _safe(member.filename, field))
                    progress("unpacking", number, len(members))
        except ValueError as failure:  # OutOfBounds among them
            raise Refused(field, f"this zip cannot be taken: it {failure}") from failure
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as failure:
            raise Refused(field, "expected a zip that is whole and has no password") from failure
        (Path(scratch) / "all").mkdir(exist_ok=True)
        try:
            (Path(scratch) / "all").rename(place)
        except OSError:
            if not place.is_dir():  # else another worker was quicker
                raise


def _copy(archive: zipfile.ZipFile, member: zipfile.ZipInfo, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(member) as packed, to.open("xb") as file:
        shutil.copyfileobj(packed, file, _AT_ONCE)


def _safe(name: str, field: str) -> Path:
    """A member's name as a path below the place. Raises: Refused."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or len(parts) > 16 or any(part in ("..", "/", ".") or "\0" in part or ":" in part for part in parts):
        raise Refused(field, "this zip cannot be taken: it names files outside of itself")
    return Path(*parts)


def _unseen(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return not parts or parts[0] in _NOT_SEEN or parts[-1].startswith(".")
