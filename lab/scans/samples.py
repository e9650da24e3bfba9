"""All samples of a scan, from two files of which a request reads a few bytes: any of them can be seen and marked.

    samples.index    uint32, little-endian: of each place the row, the answer and the number of its picture; then of each row its place
    samples.pixels   uint8: pictures of one size, one after the other

Samples have their places group by group: those of a class that are suspicious, and its others; by row within a group. A worker wrote both
files (`lab.work.samples`). It had opened what somebody uploaded: no number in them is believed, each is checked where it is used.
"""

from __future__ import annotations

import io
import struct
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from lab.errors import Refused

INDEX, PIXELS = "samples.index", "samples.pixels"
PIXELS_AT_MOST = 256 << 20
"""Bytes of all pictures of a scan; of more samples there is no picture."""
PICTURE_AT_MOST = 16 << 20
NO_PICTURE = 0xFFFFFFFF
A_PAGE = 96
RECORD = struct.Struct("<III")
_NUMBER = struct.Struct("<I")
_MODES = {1: "L", 3: "RGB"}
_NONE = "expected a sample of this scan"


@dataclass(frozen=True)
class ScannedSample:
    """One sample.

    Attributes:
        label, answer: names of its class and of the classifier's answer.
        suspicious: what the scan says.
        pictured: whether its picture was kept.
    """

    row: int
    label: str
    answer: str
    suspicious: bool
    pictured: bool


@dataclass(frozen=True)
class SamplePage:
    """Some samples of a group, in order.

    Attributes:
        number, pages: which page this is, from 1, and how many there are.
    """

    samples: tuple[ScannedSample, ...]
    number: int
    pages: int


class ScannedSamples:
    """The samples of a scan.

    Args:
        place: the folder of its files.
        result: of the scan, `groups` with where each starts, `names` of the classes, and the `picture` of all: height, width, channels.
    """

    def __init__(self, place: Path, result: Mapping[str, Any]) -> None:
        self._place, self._result = place, result
        self._count = int(result["samples"])
        self._starts = [int(group["start"]) for group in result["groups"]]

    def first(self, group: int, most: int) -> tuple[ScannedSample, ...]:
        """The first samples of a group. Raises: Refused."""
        found = self._group(group)
        return tuple(self._read(int(found["start"]), min(most, int(found["samples"]))))

    def page(self, group: int, number: int) -> SamplePage:
        """A page of a group; the nearest where there is none of this number. Raises: Refused."""
        found = self._group(group)
        pages = max(1, -(-int(found["samples"]) // A_PAGE))
        number = min(max(1, number), pages)
        start = (number - 1) * A_PAGE
        samples = self._read(int(found["start"]) + start, min(A_PAGE, int(found["samples"]) - start))
        return SamplePage(tuple(samples), number, pages)

    def of_row(self, row: int) -> ScannedSample:
        """The sample of a row. Raises: Refused: there is none."""
        return self._record(row)[0]

    def picture(self, row: int) -> bytes:
        """Its picture as PNG. Raises: Refused: it was not kept."""
        _, number = self._record(row)
        h, w, channels = (int(one) for one in self._result["picture"])
        size = h * w * channels
        if number == NO_PICTURE or not 0 < size <= PICTURE_AT_MOST:
            raise Refused("row", "no picture of this sample was kept")
        pixels, written = self._bytes(PIXELS, number * size, size), io.BytesIO()
        try:
            Image.frombytes(_MODES[channels], (w, h), pixels).save(written, "PNG")
        except (KeyError, ValueError) as failure:
            raise Refused("row", _NONE) from failure
        return written.getvalue()

    def _record(self, row: int) -> tuple[ScannedSample, int]:
        if not 0 <= row < self._count:
            raise Refused("row", f"expected a row below {self._count:,}")
        (place,) = _NUMBER.unpack(self._bytes(INDEX, self._count * RECORD.size + row * _NUMBER.size, _NUMBER.size))
        record = self._bytes(INDEX, place * RECORD.size, RECORD.size)
        return self._sample(place, record), RECORD.unpack(record)[2]

    def _read(self, start: int, count: int) -> Iterator[ScannedSample]:
        records = self._bytes(INDEX, start * RECORD.size, count * RECORD.size) if count > 0 else b""
        for at in range(0, len(records), RECORD.size):
            yield self._sample(start + at // RECORD.size, records[at : at + RECORD.size])

    def _sample(self, place: int, record: bytes) -> ScannedSample:
        row, answer, picture = RECORD.unpack(record)
        group, names = self._group(bisect_right(self._starts, place) - 1), self._result["names"]
        said = names[answer] if answer < len(names) else str(answer)
        return ScannedSample(row, group["class"], said, bool(group["suspicious"]), picture != NO_PICTURE)

    def _group(self, number: int) -> Mapping[str, Any]:
        groups = self._result["groups"]
        if not 0 <= number < len(groups):
            raise Refused("", _NONE)
        found: Mapping[str, Any] = groups[number]
        return found

    def _bytes(self, name: str, start: int, count: int) -> bytes:
        """A part of a file. Raises: Refused: it is not there."""
        path = self._place / name
        if path.is_symlink() or not path.is_file():
            raise Refused("row", _NONE)
        with path.open("rb") as file:
            file.seek(start)
            found = file.read(count)
        if len(found) != count:
            raise Refused("row", _NONE)
        return found
