"""From a PNG or JPEG picture to its pixels, or to the reason why not.

Pillow decodes, and only its PNG and JPEG decoders are reached. Before it sees a picture the size is compared with the one wanted, or
with `PIXELS_AT_MOST`, so that a small file never becomes a large array, and everything that is not pixels is left out: texts, profiles,
Exif and previews, whose parsers and decompressors are most of what a hostile picture can reach. One number of Exif is read here, the
orientation (`orientation.py`), and the picture turned upright: a phone stores what its sensor saw and how it was held.

What a picture holds beside the channels that are wanted is left out where it says nothing, and nowhere else (`channels.py`).

libjpeg paints what a scan has no data for, without an error that Pillow would pass on. So a JPEG is decoded twice, with different
bytes after each scan and restart interval: whoever has all data never reads them. The lack of the last byte or two may go unnoticed,
and a progressive file whose last scans are left out altogether is a whole one of less detail.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from models.pictures import channels
from models.pictures.channels import Colours
from models.pictures.errors import DamagedPicture, UnusableColours, UnusablePicture, UnusableSize
from models.pictures.orientation import UPRIGHT, orientation, upright, upright_size

PNG, JPEG = b"image/png", b"image/jpeg"
PIXELS_AT_MOST = 1 << 26
"""Of a picture of which no size is known beforehand: more than any camera's."""

Size = tuple[int, int]
"""(height, width)."""

_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_HEADER_BYTES = 33  # signature and the IHDR chunk
_PNG_PALETTE = 3
# By colour type: channels as they are stored; and by it and the bits of each, for those that are read: the mode that Pillow decodes to.
_PNG_CHANNELS = {0: 1, 2: 3, _PNG_PALETTE: 1, 4: 2, 6: 4}
_PNG_MODES = {(0, 1): "1", (0, 2): "L", (0, 4): "L", (0, 8): "L", (0, 16): "I;16", (2, 8): "RGB", (4, 8): "LA", (6, 8): "RGBA"}
_PNG_MODES |= {(_PNG_PALETTE, bits): "P" for bits in (1, 2, 4, 8)}
_PNG_KEPT = frozenset((b"IHDR", b"PLTE", b"IDAT", b"IEND"))
_PNG_NOTED = frozenset((b"PLTE", b"tRNS", b"eXIf", b"acTL"))
_ONE_FRAME = b"\0\0\0\1"
# The seven passes of an interlaced picture: first row, first column, and how far it is to the next of each (PNG, 8.2).
_PNG_PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))

_JPEG_START = b"\xff\xd8\xff"
_JPEG_COMMENT, _JPEG_SCAN, _JPEG_ADOBE, _JPEG_EXIF = 0xFE, 0xDA, 0xEE, 0xE1
_JPEG_MODES = {1: "L", 3: "RGB"}  # by channels
_EXIF = b"Exif\0\0"
_JPEG_METADATA = frozenset((*range(0xE1, 0xF0), _JPEG_COMMENT)) - {_JPEG_ADOBE}  # Adobe's says how colours are coded
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_END, _JPEG_RESTARTS = 0xD9, range(0xD0, 0xD8)
_NO_FILL_BYTE = re.compile(rb"[^\xff]")
_FILLS = (bytes.fromhex("5a3c96e10f7bd2481d8ee4a7364fb059"), bytes.fromhex("a5c3691ef0842db7e2711b58c9b04fa6"))
# Each scan of a progressive JPEG visits every pixel; encoders write a dozen.
_SCANS_AT_MOST = 32
# Beside restarts, of which there is one a block at most: itself, tables, a comment.
_MARKERS_PER_SCAN = 12
# Before the first scan, beside metadata: the frame and tables; encoders write half a dozen.
_JPEG_TABLES_AT_MOST = 32


def _parts_at_most(body: bytes) -> int:
    """Chunks of a PNG, or segments of a JPEG before its first scan: encoders make them of 8 KiB and more where there are many."""
    return 256 + len(body) // 4096


def pixels(body: bytes, media_type: bytes, size: Size | None) -> NDArray[Any]:
    """Pixels uint8 or uint16 [h, w, channels] of a PNG or JPEG file, upright; colour profiles are ignored.

    Args:
        media_type: as declared; b"" takes either.
        size: (h, w) that it has to have; any of at most PIXELS_AT_MOST when None.

    Raises: DamagedPicture, UnusableSize, UnusableColours.
    """
    try:
        return _pixels(body, media_type, size)
    except UnusablePicture:
        raise
    except Exception:  # noqa: BLE001  # a damaged picture makes decoders raise a dozen different things
        raise DamagedPicture from None


def _pixels(body: bytes, media_type: bytes, size: Size | None) -> NDArray[Any]:
    """As `pixels`; raises also whatever a decoder raises."""
    if body.startswith(_PNG_START) and media_type in (PNG, b""):
        png = _png(body, size)
        stored = _decoded(PngImageFile(io.BytesIO(png.file)), png.size, png.mode)
        return upright(channels.plain(stored, png.colours), png.turned)
    if body.startswith(_JPEG_START) and media_type in (JPEG, b""):
        jpeg = _jpeg(body, size)
        markers = _markers(jpeg.scans)
        files = (jpeg.head + _filled_up(jpeg.scans, markers, fill, jpeg.size) for fill in _FILLS)
        one, other = (_decoded(JpegImageFile(io.BytesIO(file)), jpeg.size, jpeg.mode) for file in files)
        if np.array_equal(one, other):
            return upright(channels.plain(one, Colours()), jpeg.turned)
    raise DamagedPicture


def _decoded(picture: ImageFile, size: tuple[int, int], mode: str) -> NDArray[Any]:
    # What Pillow is about to decode, whatever was checked before.
    if (picture.size[::-1], picture.mode) != (size, mode):
        raise DamagedPicture
    return np.asarray(picture)


def _check_stored(stored: Size, size: Size | None) -> None:
    """Before it is known how the picture is turned. Raises: UnusableSize."""
    if size is not None and sorted(stored) != sorted(size):
        _check_size(stored, size, UPRIGHT)
    if size is None and math.prod(stored) > PIXELS_AT_MOST:
        raise UnusableSize(detail=f"Expected a picture of at most {PIXELS_AT_MOST:,} pixels, got {stored[1]} by {stored[0]}.")


def _check_size(stored: Size, size: Size | None, turned: int) -> None:
    """Raises: UnusableSize, unless the picture has this size (h, w) once it is upright."""
    if size is None:
        return
    h, w = upright_size(*stored, turned)
    if (h, w) != size:
        raise UnusableSize(detail=f"Expected a picture {size[1]} pixels wide and {size[0]} high, got {w} and {h}.")


class _Png(NamedTuple):
    """A file without its metadata, and what it says: stored size (h, w), mode, colours, and how it is turned."""

    file: bytes
    size: tuple[int, int]
    mode: str
    colours: Colours
    turned: int


def _png(body: bytes, size: Size | None) -> _Png:
    """Raises: DamagedPicture, UnusableSize, UnusableColours."""
    if len(body) < _PNG_HEADER_BYTES or body[8:16] != b"\0\0\0\rIHDR":
        raise DamagedPicture
    width, height, bits, colour_type = struct.unpack_from(">IIBB", body, 16)
    _check_stored((height, width), size)
    mode = _PNG_MODES.get((colour_type, bits))
    if mode is None:
        raise UnusableColours(detail=channels.DEEP.format(bits=bits))
    kept, notes = _png_chunks(body)
    turned = orientation(notes.get(b"eXIf", b""))
    _check_size((height, width), size, turned)
    if notes.get(b"acTL", _ONE_FRAME)[:4] != _ONE_FRAME:
        raise UnusableColours(detail=channels.ANIMATED)
    palette = notes[b"PLTE"] if colour_type == _PNG_PALETTE else None
    data = [part[8:-4] for part in kept[1:] if part[4:8] == b"IDAT"]
    _check_pixels(data, (height, width), bits * _PNG_CHANNELS[colour_type], interlaced=body[28] == 1)
    return _Png(b"".join(kept), (height, width), mode, Colours(bits, palette, notes.get(b"tRNS")), turned)


def _png_chunks(body: bytes) -> tuple[list[bytes], dict[bytes, bytes]]:
    """The signature and the chunks of pixels, and the data of the chunks that say something about these. Raises: DamagedPicture."""
    kept, notes, at, kind = [body[:8]], dict[bytes, bytes](), 8, b""
    for _ in range(_parts_at_most(body)):
        (length,) = struct.unpack_from(">I", body, at)
        kind, end = body[at + 4 : at + 8], at + 12 + length
        if end > len(body) or kind in notes or (kind == b"IHDR" and at != 8):
            raise DamagedPicture
        if kind in _PNG_NOTED:
            notes[kind] = body[at + 8 : end - 4]
            if zlib.crc32(body[at + 4 : end - 4]) != int.from_bytes(body[end - 4 : end]):
                raise DamagedPicture
        if kind in _PNG_KEPT:
            kept.append(body[at:end])
        at = end
        if kind == b"IEND":
            break
    if kind != b"IEND" or at != len(body):
        raise DamagedPicture
    return kept, notes


def _check_pixels(parts: Sequence[bytes], size: tuple[int, int], bits: int, *, interlaced: bool) -> None:
    """Pillow leaves black what a file has no pixels for. Raises: DamagedPicture, unless they are all there, and no more.

    Args:
        bits: of a pixel.
    """
    h, w = size
    rows = 0
    for row, column, down, right in _PNG_PASSES if interlaced else ((0, 0, 1, 1),):
        high, wide = -((row - h) // down), -((column - w) // right)
        rows += high * (1 + (wide * bits + 7) // 8) if high > 0 and wide > 0 else 0
    inflater = zlib.decompressobj()
    if len(inflater.decompress(b"".join(parts), rows + 1)) != rows or not inflater.eof:
        raise DamagedPicture


class _Jpeg(NamedTuple):
    """A file without its metadata, up to the data of the first scan, and the rest; stored size (h, w), mode, and how it is turned."""

    head: bytes
    scans: bytes
    size: tuple[int, int]
    mode: str
    turned: int


def _jpeg(body: bytes, size: Size | None) -> _Jpeg:
    """Raises: DamagedPicture, UnusableSize, UnusableColours."""
    kept, at, marker = [body[:2]], 2, 0
    frames: list[tuple[int, int, str]] = []
    exif = b""
    for _ in range(_parts_at_most(body)):
        past = _NO_FILL_BYTE.search(body, at)
        if past is None or past.start() == at:
            raise DamagedPicture
        start = at = past.start() - 1
        marker = body[at + 1]
        (length,) = struct.unpack_from(">H", body, at + 2)
        at += 2 + length
        if length < 2 or at > len(body):
            raise DamagedPicture
        if marker in _JPEG_FRAMES:
            frames.append(_frame(body, at - length, size))
        if marker not in _JPEG_METADATA:
            kept.append(body[start:at])
        elif marker == _JPEG_EXIF and body.startswith(_EXIF, at - length + 2):
            exif = exif or body[at - length + 2 + len(_EXIF) : at]
        if marker == _JPEG_SCAN:
            break
    scans = body[at:]
    if marker != _JPEG_SCAN or len(frames) != 1 or len(kept) > _JPEG_TABLES_AT_MOST or _count(scans) > _SCANS_AT_MOST:
        raise DamagedPicture
    (height, width, mode), turned = frames[0], orientation(exif)
    _check_size((height, width), size, turned)
    return _Jpeg(b"".join(kept), scans, (height, width), mode, turned)


def _count(scans: bytes) -> int:
    """How many scans there are, the first included, whose header lies before."""
    return 1 + scans.count(b"\xff\xda")


class _Markers(NamedTuple):
    """Where in the scans markers may be, and where what is before each ends, without the bytes that fill up."""

    places: NDArray[np.int64]
    ends: NDArray[np.int64]


def _markers(scans: bytes) -> _Markers:
    """Within a scan 0xFF is followed by 0 where it is data, and by itself where it fills up."""
    data = np.frombuffer(scans, np.uint8)
    marks = np.flatnonzero(data[:-1] == 0xFF)
    places = marks[(data[marks + 1] != 0) & (data[marks + 1] != 0xFF)]
    others = np.concatenate([[-1], np.flatnonzero(data != 0xFF)])
    return _Markers(places, others[np.searchsorted(others, places) - 1] + 1)


def _filled_up(scans: bytes, markers: _Markers, fill: bytes, size: tuple[int, int]) -> bytes:
    """The scans of a picture, each part of their data followed by `fill` and, at its end, by restarts. Raises: DamagedPicture."""
    end = fill + b"".join(b"\xff%c%s" % (restart, fill) for restart in _JPEG_RESTARTS)
    blocks = math.prod(-(-length // 8) for length in size)
    kept, at, following = [], 0, 0
    for _ in range(_count(scans) * (blocks + _MARKERS_PER_SCAN)):
        if following == len(markers.places):
            break
        found = int(markers.places[following])
        marker = scans[found + 1]
        kept += [scans[at : markers.ends[following]], fill if marker in _JPEG_RESTARTS else end, scans[found : found + 2]]
        at, following = found + 2, following + 1
        if marker == _JPEG_END:
            return b"".join(kept)
        if marker not in _JPEG_RESTARTS:
            (length,) = struct.unpack_from(">H", scans, at)
            kept.append(scans[at : at + length])
            at += length
            following = int(np.searchsorted(markers.places, at))
    raise DamagedPicture


def _frame(body: bytes, at: int, size: Size | None) -> tuple[int, int, str]:
    """Height, width and mode of the frame whose length stands at `at`. Raises: UnusableSize, UnusableColours."""
    bits, height, width, count = struct.unpack_from(">BHHB", body, at + 2)
    _check_stored((height, width), size)
    if bits != 8:
        raise UnusableColours(detail=channels.DEEP.format(bits=bits))
    if count not in _JPEG_MODES:
        raise UnusableColours(detail=channels.MANY.format(channels=count))
    return height, width, _JPEG_MODES[count]
