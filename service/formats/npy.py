"""From the bytes of a .npy file to images, or to the reason why not.

The header is read by one regular expression, not evaluated: numpy's own reader runs it through Python's parser. Whatever it says
is checked before anything is allocated, and the numbers are copied once.

    400 malformed_npy                  no .npy file, another version than 1 to 3, a header that lies about the length of the rest
    422 wrong_datatype                 objects, records, texts, other numbers than float32 (either byte order) and uint8
    422 wrong_shape                    not n×h×w×c; either memory order is taken
    422 no_images, too_many_images     none, or more than a request may hold
    422 out_of_range                   outside [0, 1], NaN included
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np

from models.classifier import Images
from service.errors import MalformedNpy, WrongDatatype
from service.formats.arrays import Tensors

MEDIA_TYPE = b"application/x-npy"

_MAGIC = b"\x93NUMPY"
# By version: where the header begins, after a length that takes the bytes between 8 and there.
_HEADER_AT = {b"\x01\x00": 10, b"\x02\x00": 12, b"\x03\x00": 12}
_HEADER_AT_MOST = 4096
_ITEM = rb"'(descr|fortran_order|shape)'\s*+:\s*+('[^'\\]*+'|True|False|\([\d, ]*+\)|\[[^\[\]{}]*+\])"
_HEADER = re.compile(rb"\s*+\{\s*+(?:" + _ITEM + rb"\s*+(?:,\s*+|(?=\})))+\}\s*+")
_ITEMS = re.compile(_ITEM)
_SHAPE = re.compile(rb"\((?:\d{1,18}, *+)*+(?:\d{1,18})?+\)")
# What is told by its name when it comes, of what numpy saves.
_NAMES = {
    **{code: f"float{8 * int(code[1:])}" for code in (b"f2", b"f8")},
    **{code: f"{'u' * (code[:1] == b'u')}int{8 * int(code[1:])}" for code in (b"i1", b"i2", b"i4", b"i8", b"u2", b"u4", b"u8")},
    b"b1": "bool",
    b"O": "objects",
}
_DATATYPES: dict[bytes, np.dtype[Any]] = {b"'<f4'": np.dtype("<f4"), b"'>f4'": np.dtype(">f4"), b"'|u1'": np.dtype("u1")}


class _Header(NamedTuple):
    datatype: bytes
    fortran_order: bool
    shape: tuple[int, ...]
    data_at: int


def read(body: bytes, tensors: Tensors) -> Images:
    """The images in a .npy file. Raises: MalformedNpy, Unprocessable."""
    header = _header(body)
    datatype = _DATATYPES.get(header.datatype)
    if datatype is None:
        got = _NAMES.get(header.datatype.strip(b"'<>|"), "another")
        raise WrongDatatype(
            detail=f"Expected numbers of type float32, in [0, 1], or uint8, where 0 to 255 mean the same, got {got}."
        )
    numbers = tensors.numbers_in(header.shape)
    if len(body) - header.data_at != numbers * datatype.itemsize:
        raise MalformedNpy
    values = np.frombuffer(body, datatype, numbers, header.data_at)
    return tensors.images(values.reshape(header.shape, order="F" if header.fortran_order else "C"))


def _header(body: bytes) -> _Header:
    start = _HEADER_AT.get(body[6:8])
    if body[:6] != _MAGIC or start is None or len(body) < start:
        raise MalformedNpy
    length = int.from_bytes(body[8:start], "little")
    if length > min(_HEADER_AT_MOST, len(body) - start):
        raise MalformedNpy
    text = body[start : start + length]
    items = _ITEMS.findall(text) if _HEADER.fullmatch(text) else []
    values = dict(items)
    if len(items) != 3 or len(values) != 3 or values[b"fortran_order"] not in (b"True", b"False"):
        raise MalformedNpy
    shape = values[b"shape"]
    if not _SHAPE.fullmatch(shape) or values[b"descr"][:1] not in (b"'", b"["):
        raise MalformedNpy
    dims = tuple(int(size) for size in re.findall(rb"\d+", shape))
    return _Header(values[b"descr"], values[b"fortran_order"] == b"True", dims, start + length)
