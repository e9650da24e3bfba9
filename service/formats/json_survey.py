"""One pass over any bytes: whether they are one JSON text (RFC 8259), and where in it each member is; compiled.

The work is linear in the bytes, whatever they say, and no Python object is made: a reader decodes by orjson only what it found to be
small. Strict as the way before it was: no NaN, no number beyond a double, no lone surrogate, no text that is not UTF-8, no key twice.

A place in a document is known by the hash of its path: `path_of("inputs", 0, "data")`. Two keys of one object whose hashes are equal
count as repeated; by chance that happens to one document in 10^15, and who makes two such keys has only their own document refused.

A function that is compiled into another module is cached there: after a change here, delete `__pycache__` of this folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from service.errors import MalformedJson

KEYS_AT_MOST = 1024
"""In all objects of a document together; no document of ours has as many."""
DEPTH_AT_MOST = 1024  # as orjson has it

MALFORMED, CROWDED = -1, -2

_NONE = -1
_SEED, _PRIME, _MASK = 0xCBF29CE484222325, 0x100000001B3, (1 << 64) - 1
_OF_KEY, _OF_INDEX = 1, 2
# From here on a double is infinite: the largest of them and half of what lies between it and the one below.
_INFINITE = np.frombuffer(str((1 << 1024) - (1 << 970)).encode(), np.uint8)
_INFINITE_POWER = 308
_EXPONENT_AT_MOST = 10**9  # more than a body has digits to make up for

_TAB, _LF, _CR, _SPACE, _QUOTE = 9, 10, 13, 32, 34
_PLUS, _COMMA, _MINUS, _DOT, _SLASH, _ZERO, _NINE, _COLON = 43, 44, 45, 46, 47, 48, 57, 58
_OPEN, _BACKSLASH, _CLOSE, _BEGIN, _END = 91, 92, 93, 123, 125
_UPPER_E, _LOWER_E, _U = 69, 101, 117
_TRUE, _FALSE, _NULL = (np.frombuffer(word, np.uint8) for word in (b"true", b"false", b"null"))


@njit(forceinline=True)
def skip_space(text: Any, at: Any) -> Any:
    """The place of the next byte that is no white space."""
    while text[at] <= _SPACE and (text[at] == _SPACE or text[at] == _LF or text[at] == _CR or text[at] == _TAB):
        at += 1
    return at


@njit(forceinline=True)
def _is_digit(byte: Any) -> Any:
    return byte >= _ZERO and byte <= _NINE


@njit
def measure(text: Any, at: Any) -> Any:
    """A number in three: the place after it, that of its first digit that is not 0, and the power of ten of that digit.

    The first is negative when there is no number, the second when it is zero.
    """
    at += text[at] == _MINUS
    start, first, power = at, _NONE, 0
    while _is_digit(text[at]) and (at == start or text[start] != _ZERO):
        at += 1
    if at == start:
        return _NONE, _NONE, 0
    if text[start] != _ZERO:
        first, power = start, at - start - 1
    if text[at] == _DOT:
        at += 1
        start = at
        while _is_digit(text[at]):
            if first < 0 and text[at] != _ZERO:
                first, power = at, start - at - 1
            at += 1
        if at == start:
            return _NONE, _NONE, 0
    if text[at] == _LOWER_E or text[at] == _UPPER_E:
        at += 1
        negative = text[at] == _MINUS
        at += negative or text[at] == _PLUS
        start, exponent = at, 0
        while _is_digit(text[at]):
            if exponent < _EXPONENT_AT_MOST:
                exponent = exponent * 10 + (text[at] - _ZERO)
            at += 1
        if at == start:
            return _NONE, _NONE, 0
        power += -exponent if negative else exponent
    return at, first, power


@njit
def compare(text: Any, first: Any, power: Any, limit: Any, limit_power: Any) -> Any:
    """-1, 0 or 1: whether a number, as measured and without its sign, is below, at or above the one with these digits."""
    if first < 0 or power < limit_power:
        return -1
    if power > limit_power:
        return 1
    i, at = 0, first
    while _is_digit(text[at]) or text[at] == _DOT:
        if text[at] != _DOT:
            digit = limit[i] if i < limit.size else _ZERO
            if text[at] != digit:
                return 1 if text[at] > digit else -1
            i += 1
        at += 1
    while i < limit.size:
        if limit[i] != _ZERO:
            return -1
        i += 1
    return 0


@njit
def _hexadecimal(text: Any, at: Any) -> Any:
    """The value of four hexadecimal digits, negative when they are none."""
    value = np.int64(0)
    for i in range(4):
        byte = np.int64(text[at + i])
        if _is_digit(byte):
            digit = byte - _ZERO
        elif 97 <= (byte | 32) <= 102:
            digit = (byte | 32) - 87
        else:
            return np.int64(_NONE)
        value = value * 16 + digit
    return value


@njit
def _escaped(text: Any, at: Any) -> Any:
    """(code point, place after it) of what follows a backslash; the place is negative when that is none."""
    byte = np.int64(text[at])
    if byte in (_QUOTE, _BACKSLASH, _SLASH):
        return byte, at + 1
    for letter, control in ((98, 8), (102, 12), (110, 10), (114, 13), (116, 9)):
        if byte == letter:
            return np.int64(control), at + 1
    point = _hexadecimal(text, at + 1) if byte == _U else np.int64(_NONE)
    if point < 0 or 0xDC00 <= point < 0xE000:
        return point, _NONE
    if point < 0xD800 or point >= 0xE000:
        return point, at + 5
    low = _hexadecimal(text, at + 7) if text[at + 5] == _BACKSLASH and text[at + 6] == _U else np.int64(_NONE)
    if low < 0xDC00 or low >= 0xE000:
        return point, _NONE
    return 0x10000 + ((point - 0xD800) << 10) + (low - 0xDC00), at + 11


@njit
def _decoded(text: Any, at: Any) -> Any:
    """(code point, place after it) of two to four bytes of UTF-8; the place is negative when they are none."""
    lead = np.int64(text[at])
    if lead < 0xC2 or lead > 0xF4:
        return lead, _NONE
    more = 1 if lead < 0xE0 else 2 if lead < 0xF0 else 3
    point = lead & (0x3F >> more)
    for i in range(1, more + 1):
        byte = np.int64(text[at + i])
        if byte & 0xC0 != 0x80:
            return point, _NONE
        point = point << 6 | byte & 0x3F
    if more == 2 and (point < 0x800 or 0xD800 <= point < 0xE000):
        return point, _NONE
    if more == 3 and (point < 0x10000 or point > 0x10FFFF):
        return point, _NONE
    return point, at + more + 1


@njit(forceinline=True)
def _stirred(digest: Any, value: Any) -> Any:
    digest = (digest ^ np.uint64(value)) * np.uint64(_PRIME)
    return digest ^ (digest >> np.uint64(29))


@njit
def _string(text: Any, at: Any) -> Any:
    """(place after the string whose quote stands at `at`, a hash of its characters); the place is negative when it is none."""
    digest = np.uint64(_SEED)
    at += 1
    while text[at] != _QUOTE:
        point = np.int64(text[at])
        if point < _SPACE:
            return _NONE, digest
        if point == _BACKSLASH:
            point, at = _escaped(text, at + 1)
        elif point < 0x80:
            at += 1
        else:
            point, at = _decoded(text, at)
        if at < 0:
            return _NONE, digest
        digest = _stirred(digest, point)
    return at + 1, digest


@njit
def _word(text: Any, at: Any, word: Any) -> Any:
    """The place after a word, or negative."""
    for i in range(word.size):
        if text[at + i] != word[i]:
            return _NONE
    return at + word.size


@njit
def _scalar(text: Any, at: Any) -> Any:
    """The place after what is neither array nor object, or negative."""
    byte = text[at]
    if byte == _QUOTE:
        return _string(text, at)[0]
    if byte == _MINUS or _is_digit(byte):
        end, first, power = measure(text, at)
        infinite = power >= _INFINITE_POWER and compare(text, first, power, _INFINITE, _INFINITE_POWER) >= 0
        return _NONE if infinite else end
    if byte == _TRUE[0]:
        return _word(text, at, _TRUE)
    if byte == _FALSE[0]:
        return _word(text, at, _FALSE)
    return _word(text, at, _NULL)


@njit
def _key(text: Any, at: Any, around: Any) -> Any:
    """(place of the value, its path) of the key at `at` in the object whose path is `around`; the place is negative when it is none."""
    if text[at] != _QUOTE:
        return _NONE, around
    at, digest = _string(text, at)
    at = skip_space(text, at) if at >= 0 else at
    if at < 0 or text[at] != _COLON:
        return _NONE, around
    return skip_space(text, at + 1), _stirred(_stirred(around, digest), _OF_KEY)


@njit(nogil=True, cache=True)
def survey(text: Any, of_root_at_most: Any, paths: Any, spans: Any) -> Any:
    """Check a document and note its keys. Returns (keys, values).

    Keys is MALFORMED when it is no JSON, and CROWDED as soon as there are more keys than `paths` has room for, or than the root may have.

    Args:
        text: uint8 [bytes], the document followed by one NUL, which no rule of the grammar takes: no loop runs past the end.
        paths: uint64 [most], to write the hashes of the paths of the first keys to.
        spans: int64 [most, 3], to write (start, end, values in it) of what these keys lead to.
    """
    opened, counts, owners = np.empty((3, DEPTH_AT_MOST), np.int64)
    around = np.empty(DEPTH_AT_MOST, np.uint64)
    depth, keys, of_root, values, owner = 0, 0, 0, 0, _NONE
    here, malformed = np.uint64(_SEED), (MALFORMED, 0)
    at = skip_space(text, 0)
    while True:
        # A value starts here; one that is not empty is entered.
        values += 1
        begins = text[at] == _BEGIN or text[at] == _OPEN
        if begins:
            if depth == DEPTH_AT_MOST:
                return malformed
            opened[depth], counts[depth], owners[depth], around[depth] = text[at], 0, owner, here
            depth += 1
            at = skip_space(text, at + 1)
        else:
            at = _scalar(text, at)
            if at < 0:
                return malformed
        # A value ended, or an array or object has just begun: close what is full.
        ends = not begins
        while True:
            if ends and owner >= 0:
                spans[owner, 1], spans[owner, 2] = at, spans[owner, 2] + values
            at = skip_space(text, at)
            if depth == 0:
                return (keys, values) if at == text.size - 1 else malformed
            if text[at] != opened[depth - 1] + 2:  # the brackets lie two apart
                break
            depth -= 1
            owner, ends = owners[depth], True
            at += 1
        if ends:
            if text[at] != _COMMA:
                return malformed
            at = skip_space(text, at + 1)
        owner = _NONE
        if opened[depth - 1] == _OPEN:
            here = _stirred(_stirred(around[depth - 1], counts[depth - 1]), _OF_INDEX)
            counts[depth - 1] += 1
            continue
        at, here = _key(text, at, around[depth - 1])
        if at < 0 or (paths[:keys] == here).any():
            return malformed
        of_root += depth == 1
        if keys == paths.size or of_root > of_root_at_most:
            return CROWDED, 0
        paths[keys], spans[keys, 0], spans[keys, 1], spans[keys, 2] = here, at, at, -values
        owner = keys
        keys += 1


def _stirred_slowly(digest: int, value: int) -> int:
    digest = (digest ^ value) * _PRIME & _MASK
    return digest ^ digest >> 29


def path_of(*steps: str | int) -> np.uint64:
    """The hash of a path from the root: keys and positions in arrays."""
    path = _SEED
    for step in steps:
        digest = step if isinstance(step, int) else _SEED
        for character in "" if isinstance(step, int) else step:
            digest = _stirred_slowly(digest, ord(character))
        path = _stirred_slowly(_stirred_slowly(path, digest), _OF_INDEX if isinstance(step, int) else _OF_KEY)
    return np.uint64(path)


class Span(NamedTuple):
    """A value in a document: its bytes, and how many values it holds, itself included."""

    start: int
    end: int
    values: int


@dataclass(frozen=True)
class Outline:
    """A document known to be JSON: its bytes and a NUL, how many values it holds, and where those are that have keys."""

    text: NDArray[np.uint8]
    values: int
    paths: NDArray[np.uint64]
    spans: NDArray[np.int64]

    def find(self, path: np.uint64) -> Span | None:
        """The value at a path that ends in a key, if there is one."""
        found = np.flatnonzero(self.paths == path)
        return Span(*self.spans[found[0]].tolist()) if found.size else None

    def begins_with(self, bracket: bytes, place: int) -> bool:
        """Whether the value at this place is an array, or an object."""
        return bool(self.text[place] == bracket[0])


def outline(text: NDArray[np.uint8], *, root_keys_at_most: int = KEYS_AT_MOST) -> Outline | None:
    """Survey a document that is followed by one NUL; None as soon as it has more keys than it may. Raises: MalformedJson."""
    paths, spans = np.empty(KEYS_AT_MOST, np.uint64), np.empty((KEYS_AT_MOST, 3), np.int64)
    keys, values = survey(text, root_keys_at_most, paths, spans)
    if keys == MALFORMED:
        raise MalformedJson
    return None if keys == CROWDED else Outline(text, values, paths[:keys], spans[:keys])
