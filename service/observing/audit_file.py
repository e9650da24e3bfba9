"""The file of the audit log: whole lines, appended, rotated by size, by one process.

    audit.jsonl -> audit.jsonl.1 -> audit.jsonl.2 -> ... -> gone

A file that somebody else renamed (logrotate, without copytruncate) is left to them and a new one begun under the name. A device, a
pipe or a symbolic link (/dev/stdout is all three) is written to, never rotated. A pipe that nobody reads is refused at the start.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from models.errors import InvalidInput

_OWNER_ONLY = 0o600


class AuditFile:
    """Open for appending until `close`.

    Args:
        path: made, for its owner only, when it is not there; one that is there keeps its mode, and so do those that follow it.
        bytes_at_most: beyond it the next line goes into a new file.
        files: how many are kept, the one that is written to included.

    Raises: InvalidInput when it cannot be opened, or another process writes to it.
    """

    def __init__(self, path: Path, *, bytes_at_most: int, files: int) -> None:
        self._path, self._bytes_at_most, self._files = path, bytes_at_most, files
        self._file, self._mode = -1, _OWNER_ONLY
        try:
            self._open()
        except OSError as failure:
            raise InvalidInput(
                f"HAUBERK_AUDIT_FILE {path} cannot be written ({_reason(failure)}); name another file, or none"
            ) from failure

    def write(self, lines: Sequence[bytes]) -> None:
        """Append lines, each ending in a newline.

        Raises: Unwritten when the disk takes no more; what is in the file stays whole lines, and the next call tries again.
        """
        done = 0
        try:
            self._follow()
            while done < len(lines):
                if self._rotates and self._size and self._size + len(lines[done]) > self._bytes_at_most:
                    self._rotate()
                upto = self._fitting(lines, done)
                self._append(b"".join(lines[done:upto]))
                done = upto
        except OSError as failure:
            raise Unwritten(done, _reason(failure)) from failure

    def close(self) -> None:
        """Hand everything to the disk, and close."""
        if self._file >= 0:
            with contextlib.suppress(OSError):  # a pipe or a device has nothing to hand on
                os.fsync(self._file)
            self._let_go()

    def _fitting(self, lines: Sequence[bytes], first: int) -> int:
        """Where the lines end that still fit into this file: at least one."""
        size, upto = self._size + len(lines[first]), first + 1
        while upto < len(lines) and (not self._rotates or size + len(lines[upto]) <= self._bytes_at_most):
            size += len(lines[upto])
            upto += 1
        return upto

    def _append(self, text: bytes) -> None:
        rest = memoryview(text)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError:
            if self._rotates:  # half a line would spoil the next one
                os.ftruncate(self._file, self._size)
            raise
        self._size += len(text)

    def _follow(self) -> None:
        """Open the file under its name when that is not ours any more, or none."""
        if self._file >= 0:
            if not self._rotates:
                return
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(self._path), os.fstat(self._file)):
                    return
        self._begin_anew()

    def _rotate(self) -> None:
        """Number the files up and begin a new one; the last of them goes."""
        for number in range(self._files - 2, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                os.replace(self._numbered(number), self._numbered(number + 1))
        if self._files > 1:
            os.replace(self._path, self._numbered(1))
        else:
            os.unlink(self._path)
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._let_go()
        self._open()

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def _open(self) -> None:
        new = not self._path.exists()
        self._file = _opened(self._path)
        try:
            if new:
                os.fchmod(self._file, self._mode)
            status = os.fstat(self._file)
            self._rotates = stat.S_ISREG(status.st_mode) and not self._path.is_symlink()
            self._size, self._mode = status.st_size, stat.S_IMODE(status.st_mode)
            if stat.S_ISREG(status.st_mode):
                self._lock()
        except OSError:
            self._let_go()
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as failure:
            if failure.errno == errno.EWOULDBLOCK:
                raise OSError(failure.errno, "another process writes to it") from failure
            # Some network file systems have no locks: nothing is lost but this check.

    def _let_go(self) -> None:
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


def _opened(path: Path) -> int:
    """Open without waiting: a pipe waits for somebody who reads it."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    try:
        file = os.open(path, flags, _OWNER_ONLY)
    except OSError as failure:
        if failure.errno == errno.ENXIO:
            raise OSError(failure.errno, "it is a pipe that nobody reads, or a socket") from failure
        raise
    os.set_blocking(file, True)
    return file


class Unwritten(OSError):
    """The disk took `written` lines and no more."""

    def __init__(self, written: int, reason: str) -> None:
        super().__init__(reason)
        self.written, self.reason = written, reason


def check(path: Path) -> None:
    """See whether the file can be opened, before a server is started. Raises: InvalidInput."""
    AuditFile(path, bytes_at_most=1, files=1).close()


def of_worker(path: Path, worker: int) -> Path:
    """Each worker writes a file of its own: the first that one, the second `audit-2.jsonl`, ..."""
    return path if worker < 2 else path.with_name(f"{path.stem}-{worker}{path.suffix}")


def _reason(failure: OSError) -> str:
    return (failure.strerror or str(failure)).lower()
