"""One pass over the bytes of `{"images": [...]}`: parse, check shape and range, write float32; compiled.

It knows one thing, whether a document is plain and right. Whatever is not, wrong or merely unusual (another key, an escape, a
minus sign, more than 19 digits), it leaves to `json_survey.py` and `json_numbers.py`, which decide and explain. So nothing here needs
an error message, and every number it does accept is bit for bit what a correctly rounding parser followed by a cast to float32
gives:

- m / 10^k with m <= 2^53 and k <= 22 is correctly rounded, as both are exact doubles (Clinger 1990);
- otherwise the quotient is within 2 ulp of the true value: good enough unless it lies that close to the middle of two float32
  numbers or to the bounds of the range, and then the document goes the slow way.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

UNUSUAL = -1

_POWERS = np.array([10.0**k for k in range(23)])
_EXACT_POWER = 22
_EXACT_MANTISSA = np.uint64(1 << 53)
_DIGITS_AT_MOST = 19  # what a uint64 holds
_SMALLEST_NORMAL = 1.1754944e-38  # below it float32 has fewer bits, and the middle lies elsewhere
# A double has 29 bits more than a float32: the middle of two float32 numbers is 1 followed by 28 zeros.
_BELOW_FLOAT32 = np.uint64((1 << 29) - 1)
_MIDDLE = np.int64(1 << 28)
_MARGIN = np.int64(16)
_NEAR_ONE = 1e-14

_KEY = np.frombuffer(b'"images"', np.uint8)
_TAB, _LF, _CR, _SPACE = 9, 10, 13, 32
_PLUS, _COMMA, _MINUS, _DOT, _ZERO, _NINE, _COLON = 43, 44, 45, 46, 48, 57, 58
_OPEN, _CLOSE, _BEGIN, _END = 91, 93, 123, 125
_UPPER_E, _LOWER_E = 69, 101


@njit(forceinline=True)
def _skip(text: Any, at: Any) -> Any:
    """The place of the next byte that is not white space; `text` ends in a byte that is none."""
    while text[at] <= _SPACE and (text[at] == _SPACE or text[at] == _LF or text[at] == _CR or text[at] == _TAB):
        at += 1
    return at


@njit(forceinline=True)
def _past_key(text: Any) -> Any:
    """The place after `{"images":`, or UNUSUAL."""
    at = _skip(text, 0)
    if text[at] != _BEGIN:
        return UNUSUAL
    at = _skip(text, at + 1)
    if at + _KEY.size >= text.size:
        return UNUSUAL
    for i in range(_KEY.size):
        if text[at + i] != _KEY[i]:
            return UNUSUAL
    at = _skip(text, at + _KEY.size)
    return _skip(text, at + 1) if text[at] == _COLON else UNUSUAL


@njit(forceinline=True)
def _exponent(text: Any, at: Any) -> Any:
    """(value, place after it) of what follows an `e`; the place is UNUSUAL when it is no short number."""
    negative = text[at] == _MINUS
    if negative or text[at] == _PLUS:
        at += 1
    start, value = at, 0
    while text[at] >= _ZERO and text[at] <= _NINE and at - start < 4:
        value = value * 10 + (text[at] - _ZERO)
        at += 1
    return (-value if negative else value), (at if 0 < at - start < 4 else UNUSUAL)


@njit(forceinline=True)
def _quotient(mantissa: Any, power: Any) -> Any:
    """mantissa / 10^power in [0, 1] as float32, or -1 when that is not certain to be what correct rounding gives, or outside."""
    unusual = np.float32(-1)
    if mantissa == 0:
        return np.float32(0)
    if power < 0 or power > 2 * _EXACT_POWER:
        return unusual
    value = np.float64(mantissa) / _POWERS[min(power, _EXACT_POWER)]
    if power > _EXACT_POWER:
        value /= _POWERS[power - _EXACT_POWER]
    if mantissa <= _EXACT_MANTISSA and power <= _EXACT_POWER:
        return np.float32(value) if value <= 1.0 else unusual
    if value > 1.0 - _NEAR_ONE or value < _SMALLEST_NORMAL:
        return unusual
    rest = np.int64(np.float64(value).view(np.uint64) & _BELOW_FLOAT32)
    if abs(rest - _MIDDLE) <= _MARGIN:
        return unusual
    return np.float32(value)


@njit(forceinline=True)
def read_number(text: Any, at: Any) -> Any:
    """(value in [0, 1] as float32, place after it) of the number at `at`; the place is UNUSUAL when it is none, or not plain."""
    mantissa, start, power = np.uint64(0), at, 0
    while text[at] >= _ZERO and text[at] <= _NINE and at - start < _DIGITS_AT_MOST:
        mantissa = mantissa * np.uint64(10) + np.uint64(text[at] - _ZERO)
        at += 1
    digits = at - start
    if digits == 0 or (digits > 1 and text[start] == _ZERO):
        return np.float32(0), UNUSUAL
    if text[at] == _DOT:
        at += 1
        start = at
        while text[at] == _ZERO and mantissa == 0:
            at += 1
        significant = at - (digits if mantissa != 0 else 0)
        while text[at] >= _ZERO and text[at] <= _NINE and at - significant < _DIGITS_AT_MOST:
            mantissa = mantissa * np.uint64(10) + np.uint64(text[at] - _ZERO)
            at += 1
        power = at - start
        if power == 0:
            return np.float32(0), UNUSUAL
    if text[at] == _LOWER_E or text[at] == _UPPER_E:
        exponent, at = _exponent(text, at + 1)
        if at == UNUSUAL:
            return np.float32(0), UNUSUAL
        power -= exponent
    value = _quotient(mantissa, power)
    return value, (at if value >= 0 else UNUSUAL)


@njit(forceinline=True)
def _brackets(text: Any, at: Any) -> Any:
    """How deep the array that starts at `at` goes before its first number: at most 5 are counted."""
    depth = 0
    while depth < 5 and text[at] == _OPEN:
        depth += 1
        at = _skip(text, at + 1)
    return depth


@njit(forceinline=True)
def _parse(text: Any, shape: Any, images: Any) -> Any:
    h, w, c = shape
    at = _past_key(text)
    if at == UNUSUAL:
        return UNUSUAL
    rank = _brackets(text, at)
    if not (rank == 4 or (rank == 3 and c == 1)):
        return UNUSUAL
    wanted = (images.shape[0], h, w, c)
    counts = np.zeros(4, np.int64)
    out = images.reshape(-1)
    deepest, level, written = rank - 1, -1, 0
    while True:
        # A value starts here: brackets down to the innermost level, then a number.
        while level < deepest:
            if text[at] != _OPEN:
                return UNUSUAL
            level += 1
            counts[level] = 0
            at = _skip(text, at + 1)
        if counts[level] == wanted[level] or written == out.size:
            return UNUSUAL
        out[written], at = read_number(text, at)
        if at == UNUSUAL:
            return UNUSUAL
        written += 1
        counts[level] += 1
        at = _skip(text, at)
        # A value ended: close what is full, then a comma or the end.
        while text[at] == _CLOSE:
            if level > 0 and counts[level] != wanted[level]:
                return UNUSUAL
            level -= 1
            at = _skip(text, at + 1)
            if level < 0:
                break
            counts[level] += 1
        if level < 0:
            break
        if text[at] != _COMMA:
            return UNUSUAL
        at = _skip(text, at + 1)
    if text[at] != _END:
        return UNUSUAL
    return counts[0] if _skip(text, at + 1) == text.size - 1 else UNUSUAL


@njit(cache=True)
def parse(text: Any, shape: Any, images: Any) -> Any:
    """Read `text` into `images`; returns how many there are, or UNUSUAL.

    Holds the interpreter: for a short document, giving it away and waiting to get it back takes longer than reading.

    Args:
        text: uint8 [bytes], the document followed by one NUL, which no rule of the grammar takes: no loop runs past the end.
        shape: (h, w, c) of an image; where c is 1 the innermost brackets may be missing.
        images: float32 [most, h * w * c], to write to.
    """
    return _parse(text, shape, images)


@njit(nogil=True, cache=True)
def parse_aside(text: Any, shape: Any, images: Any) -> Any:
    """`parse` for a long document: other threads go on meanwhile."""
    return _parse(text, shape, images)
