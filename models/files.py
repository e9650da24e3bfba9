"""Files that people name: opened without waiting, and only what is a file, up to a size.

Opening a named pipe waits for somebody at its other end, and a device may have no end: a start that reads one would hang. Here both are
refused. What is opened is looked at afterwards, so that nothing can be put in its place between the look and the reading.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class NotAFile(OSError):
    """What has this name is no regular file, or one that is too long; `strerror` says which."""


def open_file(path: Path) -> BufferedReader:
    """Open a regular file, or a link to one, for reading. Raises: OSError whose `strerror` is the reason; NotAFile."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as failure:
        if failure.errno == errno.ENXIO:  # a socket, or a device without a driver
            raise NotAFile(failure.errno, "it is a socket or a device, expected a file", str(path)) from failure
        raise
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = next((kind for test, kind in _KINDS if test(mode)), "something else")
        raise NotAFile(errno.EINVAL, f"it is {kind}, expected a file", str(path))
    return os.fdopen(descriptor, "rb")


def read_file(path: Path, *, at_most: int) -> bytes:
    """The content of a regular file of `at_most` bytes. Raises: OSError; NotAFile, also when the file is longer."""
    with open_file(path) as file:
        content = file.read(at_most + 1)
    if len(content) > at_most:
        raise NotAFile(errno.EFBIG, f"it has more than {at_most} bytes", str(path))
    return content
