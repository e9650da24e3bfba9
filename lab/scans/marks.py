"""What a person says of single samples of a scan, over what the scan says: `is_clean.npy` with some of its values turned.

The server reads no data with NumPy; of the one file that a scan writes it needs the place of a byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from lab.errors import Refused

IS_CLEAN = "is_clean.npy"
SAMPLES_AT_MOST = 64 << 20
MARKS_AT_MOST = 10_000
_HEADER_AT_MOST = 10 + (1 << 16)
_MAGIC = b"\x93NUMPY\x01\x00"  # version 1.0, then two bytes with the length of the header


def is_suspicious(path: Path, row: int) -> bool:
    """Whether a scan holds the sample of this row for poison. Raises: Refused: the file is none of a scan, or has no such row."""
    with _opened(path) as file:
        begin = _begin(file.read(_HEADER_AT_MOST))
        if not 0 <= row < path.stat().st_size - begin:
            raise Refused("row", f"expected a row below {path.stat().st_size - begin:,}")
        file.seek(begin + row)
        return file.read(1) == b"\0"


def suspicious(result: Mapping[str, Any], marks: Mapping[int, bool]) -> int:
    """How many samples are suspicious with these marks, all of which say otherwise than the scan."""
    return int(result["suspicious"]) + sum(1 if poison else -1 for poison in marks.values())


def is_clean(path: Path, marks: Mapping[int, bool]) -> bytes:
    """The file of a scan in which marked rows say what was marked.

    Args:
        marks: whether a sample is poison, by row.

    Raises: Refused: the file is none of a scan, or has no such rows.
    """
    with _opened(path) as file:
        content = bytearray(file.read())
    begin = _begin(content)
    for row, poison in marks.items():
        if not 0 <= row < len(content) - begin:
            raise Refused("row", f"expected a row below {len(content) - begin:,}")
        content[begin + row] = not poison
    return bytes(content)


def _opened(path: Path) -> BinaryIO:
    if path.is_symlink() or not path.is_file() or path.stat().st_size > SAMPLES_AT_MOST:
        raise Refused("", "expected the result of a scan")
    return path.open("rb")


def _begin(content: bytes | bytearray) -> int:
    """Where the booleans begin."""
    begin = 10 + int.from_bytes(content[8:10], "little")
    if content[:8] != _MAGIC or b"'|b1'" not in content[10:begin]:
        raise Refused("", "expected the result of a scan, booleans as NumPy writes them")
    return begin
