"""From a PNG or JPEG picture to one image, or to the reason why not.

Pillow decodes, and only its PNG and JPEG decoders are reached. Before it sees a picture the size is compared with the classifier's,
so that a small file never becomes a large array, and everything that is not pixels is left out: texts, profiles, Exif and previews,
whose parsers and decompressors are most of what a hostile picture can reach.

libjpeg paints what a scan has no data for, without an error that Pillow would pass on. So a JPEG is decoded twice, with different
bytes after each scan and restart interval: whoever has all data never reads them. The lack of the last byte or two may go unnoticed,
and a progressive file whose last scans are left out altogether is a whole one of less detail.

    400 malformed_picture    no whole PNG or JPEG image, or not of the declared type
    422 wrong_shape          another size
    422 wrong_mode           palette, alpha, 16 bits, CMYK, or other channels than the classifier's
"""

from __future__ import annotations

import io
import math
import re
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from models.classifier import Images
from service.errors import MalformedPicture, WrongMode, WrongShape
from service.formats.arrays import Tensors
from service.formats.json_images import SHORT_BYTES

PNG, JPEG = b"image/png", b"image/jpeg"
MEDIA_TYPES = frozenset((PNG, JPEG))

_MODES = {1: "L", 3: "RGB"}  # by channels
_CHANNELS = {"L": 1, "RGB": 3}

_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_HEADER_BYTES = 33  # signature and the IHDR chunk
_PNG_COLOUR_TYPES = {"L": 0, "RGB": 2}
_PNG_KEPT = frozenset((b"IHDR", b"IDAT", b"IEND"))
# The seven passes of an interlaced picture: first row, first column, and how far it is to the next of each (PNG, 8.2).
_PNG_PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))

_JPEG_START = b"\xff\xd8\xff"
_JPEG_COMMENT, _JPEG_SCAN, _JPEG_ADOBE = 0xFE, 0xDA, 0xEE
_JPEG_METADATA = frozenset((*range(0xE1, 0xF0), _JPEG_COMMENT)) - {_JPEG_ADOBE}  # Adobe's says how colours are coded
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_END, _JPEG_RESTARTS = 0xD9, range(0xD0, 0xD8)
# Within a scan 0xFF is followed by 0 where it is data, and filled up with itself where it is none.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff]")
_FILLS = (bytes.fromhex("5a3c96e10f7bd2481d8ee4a7364fb059"), bytes.fromhex("a5c3691ef0842db7e2711b58c9b04fa6"))
# Each scan of a progressive JPEG visits every pixel; encoders write a dozen.
_SCANS_AT_MOST = 32
# Beside restarts, of which there is one a block at most: itself, tables, a comment.
_MARKERS_PER_SCAN = 12


def bytes_at_most(input_shape: tuple[int, int, int]) -> int:
    """How long a file of one picture of this shape may be: its numbers four times over, and room for metadata."""
    return 4 * math.prod(input_shape) + SHORT_BYTES


def read(body: bytes, media_type: bytes, tensors: Tensors) -> Images:
    """The picture as float32 [1, h, w, c] in [0, 1], as its pixels are stored: orientation and profiles are ignored.

    Args:
        media_type: as declared; b"" takes either.

    Raises: MalformedPicture, WrongShape, WrongMode.
    """
    h, w, c = tensors.input_shape
    mode = _MODES.get(c)
    if mode is None:
        raise WrongMode
    try:
        pixels = _pixels(body, media_type, (h, w), mode)
    except (WrongShape, WrongMode):
        raise
    except Exception:  # noqa: BLE001  # a damaged picture makes decoders raise a dozen different things
        raise MalformedPicture from None
    return tensors.images(pixels.reshape(1, h, w, c))


def _pixels(body: bytes, media_type: bytes, size: tuple[int, int], mode: str) -> NDArray[Any]:
    """Raises: MalformedPicture, WrongShape, WrongMode, and whatever a decoder raises."""
    if body.startswith(_PNG_START) and media_type in (PNG, b""):
        return _decoded(PngImageFile(io.BytesIO(_png(body, size, mode))), size, mode)
    if body.startswith(_JPEG_START) and media_type in (JPEG, b""):
        head, scans = _jpeg(body, size, mode)
        one, other = (_decoded(JpegImageFile(io.BytesIO(head + _filled_up(scans, fill, size))), size, mode) for fill in _FILLS)
        if np.array_equal(one, other):
            return one
    raise MalformedPicture


def _decoded(picture: ImageFile, size: tuple[int, int], mode: str) -> NDArray[Any]:
    # What Pillow is about to decode, whatever was checked before.
    if (picture.size[::-1], picture.mode) != (size, mode):
        raise MalformedPicture
    return np.asarray(picture)


def _png(body: bytes, size: tuple[int, int], mode: str) -> bytes:
    """The file without its metadata. Raises: MalformedPicture, WrongShape, WrongMode."""
    if len(body) < _PNG_HEADER_BYTES or body[8:16] != b"\0\0\0\rIHDR":
        raise MalformedPicture
    width, height, bits, colour_type = struct.unpack_from(">IIBB", body, 16)
    if (height, width) != size:
        raise WrongShape
    if (bits, colour_type) != (8, _PNG_COLOUR_TYPES[mode]):
        raise WrongMode
    kept, at, kind = [body[:8]], 8, b""
    while kind != b"IEND":
        (length,) = struct.unpack_from(">I", body, at)
        kind, end = body[at + 4 : at + 8], at + 12 + length
        if end > len(body) or (kind == b"IHDR" and at != 8):
            raise MalformedPicture
        if kind in _PNG_KEPT:
            kept.append(body[at:end])
        at = end
    if at != len(body):
        raise MalformedPicture
    _check_pixels([part[8:-4] for part in kept[1:] if part[4:8] == b"IDAT"], size, _CHANNELS[mode], interlaced=body[28] == 1)
    return b"".join(kept)


def _check_pixels(parts: Sequence[bytes], size: tuple[int, int], channels: int, *, interlaced: bool) -> None:
    """Pillow leaves black what a file has no pixels for. Raises: MalformedPicture, unless they are all there, and no more."""
    h, w = size
    rows = 0
    for row, column, down, right in _PNG_PASSES if interlaced else ((0, 0, 1, 1),):
        high, wide = -((row - h) // down), -((column - w) // right)
        rows += high * (1 + wide * channels) if high > 0 and wide > 0 else 0
    inflater = zlib.decompressobj()
    if len(inflater.decompress(b"".join(parts), rows + 1)) != rows or not inflater.eof:
        raise MalformedPicture


def _jpeg(body: bytes, size: tuple[int, int], mode: str) -> tuple[bytes, bytes]:
    """The file without its metadata, in two parts: up to the data of the first scan, and the rest.

    Raises: MalformedPicture, WrongShape, WrongMode.
    """
    kept, at, marker, frames = [body[:2]], 2, 0, 0
    while marker != _JPEG_SCAN:
        start = at
        while body[at : at + 2] == b"\xff\xff":  # fill bytes
            at += 1
        if body[at] != 0xFF:
            raise MalformedPicture
        marker = body[at + 1]
        (length,) = struct.unpack_from(">H", body, at + 2)
        at += 2 + length
        if length < 2 or at > len(body):
            raise MalformedPicture
        if marker in _JPEG_FRAMES:
            _check_frame(body, at - length, size, mode)
            frames += 1
        if marker not in _JPEG_METADATA:
            kept.append(body[start:at])
    scans = body[at:]
    if frames != 1 or scans.count(b"\xff\xda") >= _SCANS_AT_MOST:
        raise MalformedPicture
    return b"".join(kept), scans


def _filled_up(scans: bytes, fill: bytes, size: tuple[int, int]) -> bytes:
    """The scans of a picture, each part of their data followed by `fill` and, at its end, by restarts. Raises: MalformedPicture."""
    end = fill + b"".join(b"\xff%c%s" % (restart, fill) for restart in _JPEG_RESTARTS)
    blocks = math.prod(-(-length // 8) for length in size)
    kept, at = [], 0
    for _ in range(_SCANS_AT_MOST * (blocks + _MARKERS_PER_SCAN)):
        found = _JPEG_MARKER.search(scans, at)
        if found is None:
            break
        marker = scans[found.end() - 1]
        kept += [scans[at : found.start()].rstrip(b"\xff"), fill if marker in _JPEG_RESTARTS else end, found[0]]
        at = found.end()
        if marker == _JPEG_END:
            return b"".join(kept)
        if marker not in _JPEG_RESTARTS:
            (length,) = struct.unpack_from(">H", scans, at)
            kept.append(scans[at : at + length])
            at += length
    raise MalformedPicture


def _check_frame(body: bytes, at: int, size: tuple[int, int], mode: str) -> None:
    """Check the frame header whose length stands at `at`."""
    bits, height, width, channels = struct.unpack_from(">BHHB", body, at + 2)
    if (height, width) != size:
        raise WrongShape
    if (bits, channels) != (8, _CHANNELS[mode]):
        raise WrongMode
