"""Pictures as PNG, from their bytes: the server writes what it shows of samples without the libraries of workers.

Format: W3C, Portable Network Graphics (PNG) Specification, third edition, https://www.w3.org/TR/png-3/.
"""

from __future__ import annotations

import struct
import zlib

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPES = {1: 0, 3: 2}  # channels -> grey, or red, green and blue
_QUICKLY = 1


def png(pixels: bytes, width: int, height: int, channels: int) -> bytes:
    """A picture of 8 bits a channel.

    Args:
        pixels: row by row, height * width * channels bytes.
        channels: 1 or 3.

    Raises: ValueError: another number of bytes or channels.
    """
    if channels not in _COLOUR_TYPES or len(pixels) != width * height * channels or not pixels:
        raise ValueError(f"expected {height} x {width} x {channels} bytes of 1 or 3 channels, got {len(pixels)}")
    stride = width * channels
    lines = b"".join(b"\0" + pixels[start : start + stride] for start in range(0, len(pixels), stride))  # 0: no filter
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, _QUICKLY)), (b"IEND", b""))
    return _SIGNATURE + b"".join(_chunk(name, content) for name, content in chunks)


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
