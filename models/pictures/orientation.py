"""Which way a picture is turned: one number of its Exif, and nothing else of it."""

from __future__ import annotations

import struct
from typing import Any

from numpy.typing import NDArray

UPRIGHT = 1

_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_TAG = 0x0112
_FORMATS = {1: "B", 3: "H", 4: "I"}  # by the type of an entry: whole numbers without a sign
_ENTRY_BYTES = 12
# A camera writes a dozen; they are sorted, and this one is among the first.
_ENTRIES_AT_MOST = 256
# Turned by a quarter from here on, which swaps height and width.
_FIRST_ON_ITS_SIDE = 5
_FLIPPED_DOWN, _FLIPPED_ACROSS = frozenset((3, 4, 7, 8)), frozenset((2, 3, 6, 7))


def orientation(exif: bytes) -> int:
    """The tag Orientation, 1 to 8, in the first directory of Exif (without its "Exif" in front); 1 when it does not say.

    Exif that cannot be read says nothing, as for other readers. Cost: bounded, whatever it says.
    """
    order = _ORDERS.get(exif[:4])
    if order is None or len(exif) < 8:
        return UPRIGHT
    (at,) = struct.unpack_from(f"{order}I", exif, 4)
    if at + 2 > len(exif):
        return UPRIGHT
    (entries,) = struct.unpack_from(f"{order}H", exif, at)
    for entry in range(at + 2, at + 2 + _ENTRY_BYTES * min(entries, _ENTRIES_AT_MOST), _ENTRY_BYTES):
        if entry + _ENTRY_BYTES > len(exif):
            break
        tag, kind, count = struct.unpack_from(f"{order}HHI", exif, entry)
        if tag == _TAG and kind in _FORMATS and count == 1:
            (value,) = struct.unpack_from(f"{order}{_FORMATS[kind]}", exif, entry + 8)
            return value if value in range(1, 9) else UPRIGHT
    return UPRIGHT


def upright_size(height: int, width: int, turned: int) -> tuple[int, int]:
    """The (height, width) of a picture once it is upright."""
    return (width, height) if turned >= _FIRST_ON_ITS_SIDE else (height, width)


def upright(pixels: NDArray[Any], turned: int) -> NDArray[Any]:
    """The pixels [h, w, ...] as they are to be looked at."""
    if turned >= _FIRST_ON_ITS_SIDE:
        pixels = pixels.swapaxes(0, 1)
    down, across = (-1 if turned in flipped else 1 for flipped in (_FLIPPED_DOWN, _FLIPPED_ACROSS))
    return pixels[::down, ::across]
