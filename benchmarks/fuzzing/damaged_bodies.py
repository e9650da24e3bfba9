"""Mutations of the bodies of valid requests: a function from a random generator and a body to a damaged one."""

from __future__ import annotations

import random
import re
import struct
import zlib
from collections.abc import Callable


def flipped(rng: random.Random, body: bytes) -> bytes:
    damaged = bytearray(body)
    for _ in range(rng.randint(1, 8) if body else 0):
        damaged[_place(rng, len(body))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def _place(rng: random.Random, size: int) -> int:
    """A random position, with probability 1/2 among the first 128 bytes, where headers and keys are."""
    return rng.randrange(min(size, 128) if rng.random() < 0.5 else size)


def truncated(rng: random.Random, body: bytes) -> bytes:
    return body[: rng.randrange(len(body) + 1)]


def inserted(rng: random.Random, body: bytes) -> bytes:
    at = rng.randrange(len(body) + 1)
    return body[:at] + (rng.choice(_MORSELS) if rng.random() < 0.7 else rng.randbytes(rng.randint(1, 64))) + body[at:]


_MORSELS = (
    *(
        b"[",
        b"]",
        b"{",
        b"}",
        b",",
        b":",
        b'"',
        b"\\",
        b"\\u0000",
        b'"\\ud800"',
        b"null",
        b"true",
        b"NaN",
        b"-Infinity",
        b"//",
        b" ",
    ),
    *(b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xc0\xaf", b"\xed\xa0\x80", b'"images":', b'"__proto__":{},', b'"\\u0069mages":[],'),
    *(b"IDAT", b"IEND", b"\xff\xda", b"\xff\xc0", b"\x93NUMPY", b"(1,28,28)", b"'shape'", b"'|O'", b"\x80\x04\x95.", b"\r\n\r\n"),
)


def cut_out(rng: random.Random, body: bytes) -> bytes:
    start = rng.randrange(len(body) + 1)
    return body[:start] + body[start + rng.randint(1, 200) :]


def repeated(rng: random.Random, body: bytes) -> bytes:
    start = rng.randrange(len(body) + 1)
    end = start + rng.randint(1, 400)
    return body[:end] + body[start:end] * rng.choice((1, 2, 50)) + body[end:]


_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_MONSTERS = (
    *(
        b"1e400",
        b"-1e400",
        b"1e-400",
        b"1e39",
        b"-0",
        b"-0.0",
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"nan",
        b"1e",
        b".5",
        b"5.",
        b"+1",
    ),
    *(b"9" * 400, b"9" * 5000, b"-" + b"9" * 40, b"0." + b"3" * 2000, b"1" + b"0" * 19, b"18446744073709551616", b"0x1p3", b"00"),
    *(b"1.0000001", b"256", b"-1", b"2147483648", b"null", b"true", b'"0.5"', b"[0.5]", b"{}", b"[]", b'""', b"\xe2\x88\x9e"),
)


def _monstrous(rng: random.Random, body: bytes) -> bytes:
    for _ in range(rng.randint(1, 3)):
        found = _NUMBER.search(body, _place(rng, len(body)) if body else 0)
        if found:
            body = body[: found.start()] + rng.choice(_MONSTERS) + body[found.end() :]
    return body


def _nested(rng: random.Random, body: bytes) -> bytes:
    depth = rng.choice((10, 500, 1023, 1024, 1025, 5000, 100_000))
    opened, closed = rng.choice(((b"[", b"]"), (b'{"images":', b"}"), (b'[{"a":', b"}]")))
    inside = rng.choice((b"", b"0", body[:2000]))
    return opened * depth + inside + closed * rng.choice((depth, depth - 1, 0))


def _damaged_text(rng: random.Random, body: bytes) -> bytes:
    at = rng.randrange(len(body) + 1)
    return (
        body[:at]
        + rng.choice((b"\xff", b"\x80", b"\xc3", b"\xf4\x90\x80\x80", b"\xed\xbf\xbf", b"\0", b"\xe2\x28"))
        + body[at + 1 :]
    )


def _noise(rng: random.Random, body: bytes) -> bytes:
    return rng.randbytes(rng.choice((0, 1, 2, 7, 64, 1000, 20_000)))


def _renamed(rng: random.Random, body: bytes) -> bytes:
    old = rng.choice(
        (b"images", b"inputs", b"datatype", b"shape", b"data", b"FP32", b"descr", b"fortran_order", b"<f4", b"IHDR", b"id")
    )
    return body.replace(old, rng.choice((old * 2, b"", b"x", b"parameters", b"images", b"|O", b"<f8", b"BYTES", old.upper())), 1)


_COSTLY = (
    b"{}",
    b"[]",
    b"[[],[]]",
    b'{"":0}',
    b'"":0',
    b"[0]",
    b"[0,0]",
    b'""',
    b"null",
    b"-0",
    b"0",
    b"1e-5",
    b"0." + b"3" * 30,
    b'"\\u0041"',
)
_AROUND = ((b"{", b"}"), (b"[", b"]"), (b'{"x":1,"images":[', b"]}"), (b'{"images":[', b"]}"), (b'{"images":[[[', b"]]]}"))
_OF_DATA = b'{"inputs":[{"name":"images","datatype":"FP32","shape":[1,28,28],"data":[', b"]}]}"


def _costly(rng: random.Random, body: bytes) -> bytes:
    """Many small values: work for whoever makes an object of each."""
    unit, (head, tail) = rng.choice(_COSTLY), rng.choice((*_AROUND, _OF_DATA))
    size = rng.choice((1000, 60_000, 260_000))
    last = rng.choice((b"", b"," + unit, b",x", b',"images":[]', b"]"))
    return head + b",".join([unit] * (size // (len(unit) + 1))) + last + tail


_ORIENTATION = b"\x01\x12\x00\x03\x00\x00\x00\x01", b"\x12\x01\x03\x00\x01\x00\x00\x00"


def _exif(rng: random.Random, body: bytes) -> bytes:
    """Exif in front of what else a picture holds: the entries, the orders and the offsets at random."""
    order = rng.choice((b"MM\0*", b"II*\0", b"XX*\0"))
    where = struct.pack(">I" if order[:1] == b"M" else "<I", rng.choice((8, 8, 8, 0, 7, 2**31, 2**32 - 1)))
    count = rng.choice((b"\x00\x01", b"\x01\x00", b"\xff\xff"))
    value = rng.choice((b"\x00\x06", b"\x06\x00", b"\x00\x09")) + b"\0\0"
    said = order + where + count + rng.choice(_ORIENTATION) + value * rng.choice((1, 1, 2000))
    if body.startswith(b"\xff\xd8"):
        return body[:2] + b"\xff\xe1" + struct.pack(">H", len(said) + 8) + b"Exif\0\0" + said + body[2:]
    return body[:33] + struct.pack(">I", len(said)) + b"eXIf" + said + struct.pack(">I", zlib.crc32(b"eXIf" + said)) + body[33:]


def _too_long(rng: random.Random, body: bytes) -> bytes:
    return body + b" " * rng.choice((300_000, 1_400_000))


BODIES: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "bits flipped": flipped,
    "truncated": truncated,
    "inserted": inserted,
    "cut out": cut_out,
    "repeated": repeated,
    "monstrous numbers": _monstrous,
    "deep nesting": _nested,
    "broken text": _damaged_text,
    "noise": _noise,
    "renamed": _renamed,
    "many small values": _costly,
    "exif": _exif,
    "too long": _too_long,
}
"""Every kind, by its name."""
