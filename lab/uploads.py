"""Uploaded files: each in a folder of its own in its session's, bounded while it comes, and deleted by age."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

from lab.access import OWN, Access
from lab.errors import Refused
from lab.limits import LabLimits

ENDINGS = {
    "model": (".keras", ".h5", ".hdf5", ".onnx", ".pt2", ".pt", ".skops", ".zip"),
    "data": (".npz", ".zip"),
}
"""What is taken, by the field of the form; a .zip is a folder: a SavedModel or a bundle, or pictures with one sub-folder a class."""
PREFIX = "upload:"
_ID = re.compile(r"[0-9a-f]{16}")
_OTHERS = re.compile(r"[^A-Za-z0-9._-]+")
_NAME_AT_MOST = 80


class Uploads:
    """The uploads of all sessions.

    Args:
        directory: with a folder for each session.
    """

    def __init__(self, directory: Path, *, limits: LabLimits, access: Access = OWN) -> None:
        self._directory, self._limits, self._access = directory, limits, access
        self._held: dict[str, int] = {}

    async def take(self, session: str, field: str, name: str, chunks: AsyncIterator[bytes]) -> tuple[str, str]:
        """Write an upload; returns what the form's field says of it, and its name. Raises: Refused."""
        if field not in ENDINGS:
            raise Refused("", "expected a model or data")
        safe = _OTHERS.sub("_", name).strip("._")[-_NAME_AT_MOST:] or field
        if not safe.lower().endswith(ENDINGS[field]):
            raise Refused(field, f"expected a file that ends in {', '.join(ENDINGS[field])}")
        place = self._directory / session / secrets.token_hex(8)
        try:
            self._access.passage(place.parent)
            self._access.workplace(place)
            await self._write(session, place / safe, field, chunks)
            self._access.readable(place / safe)
        except BaseException as failure:
            self._delete(session, place)
            if isinstance(failure, OSError):
                raise Refused(field, "the disk is full: delete something, and upload it again") from failure
            raise
        return f"{PREFIX}{place.name}", safe

    async def _write(self, session: str, path: Path, field: str, chunks: AsyncIterator[bytes]) -> None:
        size = 0
        with path.open("xb", buffering=0) as file:  # what lies on the disk is what is counted
            async for chunk in self._coming(field, chunks):
                size += len(chunk)
                if size > self._limits.upload_bytes or self._counted(session, len(chunk)) > self._limits.session_bytes:
                    most, of_all = (bound >> 20 for bound in (self._limits.upload_bytes, self._limits.session_bytes))
                    raise Refused(field, f"expected a file of at most {most:,} MiB, and {of_all:,} MiB of a session in all")
                if shutil.disk_usage(self._directory).free < self._limits.disk_left_bytes:
                    raise Refused(field, "the disk is nearly full: delete something, and upload it again")
                if file.write(chunk) < len(chunk):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if not size:
            raise Refused(field, "expected a file with something in it, got an empty one")

    async def _coming(self, field: str, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The chunks. Raises: Refused: none came for a while."""
        while True:
            try:
                async with asyncio.timeout(self._limits.still_seconds):
                    chunk = await anext(chunks, None)
            except TimeoutError as failure:
                raise Refused(field, "the upload stood still; upload it again") from failure
            if chunk is None:
                return
            yield chunk

    def _counted(self, session: str, more: int) -> int:
        """The bytes of a session with these, uploads that are still coming among them."""
        if session not in self._held:
            self._held[session] = held_bytes(self._directory / session)
        self._held[session] += more
        return self._held[session]

    def _delete(self, session: str, place: Path) -> None:
        shutil.rmtree(place, ignore_errors=True)
        self._held.pop(session, None)  # counted again at the next upload

    def path(self, session: str, field: str, given: str) -> Path:
        """The file of what a field says. Raises: Refused: none of this session's."""
        found = given.removeprefix(PREFIX)
        place = self._directory / session / found
        files = [one for one in place.iterdir() if one.is_file()] if _ID.fullmatch(found) and place.is_dir() else []
        if not files:
            raise Refused(field, "expected a file that was uploaded in this session; it may have been deleted by age")
        return files[0]

    def keep(self, session: str, directory: Path) -> Path:
        """A copy of a folder, as an upload of this session. Raises: Refused: there is no room for it."""
        home = self._directory / session
        if held_bytes(home) + held_bytes(directory) > self._limits.session_bytes:
            raise Refused("", f"expected at most {self._limits.session_bytes >> 20:,} MiB a session; delete something first")
        place = home / secrets.token_hex(8) / directory.name
        try:
            self._access.passage(home)
            self._access.workplace(place.parent)
            shutil.copytree(directory, place, symlinks=True)  # a worker wrote it: its links are never followed here
            self._access.readable(place)
        except OSError as failure:
            raise Refused("", "the disk is full: delete something first") from failure
        self._held.pop(session, None)
        return place

    def drop(self, session: str, path: Path) -> None:
        """Delete an upload of this session; a path elsewhere is nobody's upload, and stays."""
        if path.parent.parent == self._directory / session:
            self._delete(session, path.parent)

    def holds(self, path: Path) -> bool:
        """Whether this is somebody's upload."""
        return self._directory in path.parents

    def drop_session(self, session: str) -> None:
        """Delete all uploads of a session."""
        self._delete(session, self._directory / session)

    def expire(self) -> None:
        """Delete what is older than uploads may become."""
        oldest = time.time() - self._limits.keep_seconds
        for place in self._directory.glob("*/*"):
            if place.stat().st_mtime < oldest:
                self._delete(place.parent.name, place)


def held_bytes(directory: Path) -> int:
    """What the files below a folder hold."""
    return sum(file.lstat().st_size for file in directory.rglob("*") if file.is_file()) if directory.is_dir() else 0
