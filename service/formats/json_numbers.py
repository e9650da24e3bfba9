"""Nested arrays of numbers, from the text of a document that is known to be JSON: all of them, or what is wrong with them; compiled.

`json_kernel.py` reads the plain document in one pass and gives up on any other. This pass never gives up: it takes every number that
JSON has, and notes the first five faults with their places. It makes no Python object but for numbers whose float32 is not certain
(more than 19 digits, the middle of two): their text is left to orjson.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import orjson
from numba import njit
from numpy.typing import NDArray

from service.errors import PLACES_AT_MOST
from service.formats.json_kernel import read_number
from service.formats.json_survey import Outline, compare, measure, skip_space

NO_ARRAY, OTHER_LENGTH, NO_NUMBER, OUT_OF_RANGE, NOT_WHOLE = range(5)
"""What may be wrong at a place."""

MORE = -1
"""A count of entries beyond the first dimension."""

_LEVELS_AT_MOST = 4
_BRIGHTEST = 255
_UNSURE = np.float32(np.nan)  # JSON cannot say it
_NONE = -1
# From here on a double is above 1: half of what lies between 1 and the next.
_ABOVE_ONE = np.frombuffer(str(((1 << 53) + 1) * 5**53).encode(), np.uint8)
# Up to here a double is zero, and minus it is not below zero: half of the smallest.
_TINY = np.frombuffer(str(5**1075).encode(), np.uint8)
_TINY_POWER = _TINY.size - 1 - 1075

_QUOTE, _COMMA, _MINUS, _DOT, _ZERO, _NINE = 34, 44, 45, 46, 48, 57
_OPEN, _BACKSLASH, _CLOSE, _BEGIN, _END = 91, 92, 93, 123, 125
_UPPER_E, _LOWER_E = 69, 101


@njit
def _past(text: Any, at: Any) -> Any:
    """The place after any value of a document that is JSON."""
    depth, inside = 0, False
    while True:
        byte = text[at]
        if inside:
            at += byte == _BACKSLASH
            inside = byte != _QUOTE
        elif byte == _QUOTE:
            inside = True
        elif byte in (_OPEN, _BEGIN):
            depth += 1
        elif byte in (_CLOSE, _END):
            if depth == 0:
                return at
            depth -= 1
        elif depth == 0 and byte == _COMMA:
            return at
        at += 1
        if depth == 0 and not inside and (byte in (_CLOSE, _END, _QUOTE)):
            return at


@njit
def _fraction(text: Any, at: Any) -> Any:
    """(value as float32, or NaN where that is not certain; place after it; whether it is in [0, 1] as a double)."""
    value, end = read_number(text, at)
    if end >= 0 and not (_ZERO <= text[end] <= _NINE):  # else it has more digits than were read
        return value, end, True
    end, first, power = measure(text, at)
    if text[at] == _MINUS:
        fine = compare(text, first, power, _TINY, _TINY_POWER) <= 0
        return np.float32(0), end, fine
    return _UNSURE, end, compare(text, first, power, _ABOVE_ONE, 0) <= 0


@njit
def _level(text: Any, at: Any) -> Any:
    """(a whole number from 0 to 255, or negative: -1 for another whole number, -2 for what is not written as one; place after it)."""
    end, first, power = measure(text, at)
    for i in range(at, end):
        if text[i] == _DOT or text[i] == _LOWER_E or text[i] == _UPPER_E:
            return -2, end
    if first < 0:
        return 0, end
    if text[at] == _MINUS or power > 2:
        return -1, end
    value = 0
    for i in range(at, end):
        value = value * 10 + (text[i] - _ZERO)
    return (value if value <= _BRIGHTEST else -1), end


@njit
def _note(places: Any, found: Any, what: Any, level: Any, got: Any, counts: Any) -> Any:
    """Write a fault down while there is room; returns how many there are."""
    if found == places.shape[0]:
        return found
    places[found, 0], places[found, 1], places[found, 2] = what, level, got
    for i in range(level):
        places[found, 3 + i] = counts[i]
    return found + 1


@njit(nogil=True, cache=True)
def gather(text: Any, at: Any, dims: Any, whole: Any, out: Any, places: Any, unsure: Any) -> Any:
    """Read the array at `at`; returns (entries of the outermost array or MORE, faults, bytes written to `unsure`).

    Args:
        text: uint8 [bytes], JSON, followed by one NUL.
        dims: int64 [levels], the lengths of the arrays; the outermost may be shorter.
        whole: whether the numbers are whole ones from 0 to 255, else numbers in [0, 1].
        out: float32 [numbers], to write to, as long as there are no faults; NaN where the number is left to `unsure`.
        places: int64 [most, 7], to write faults to: what, level, what came (its first byte, or a length), and the place.
        unsure: uint8 [bytes], to write the text of numbers to, each with a comma.
    """
    counts, marks = np.zeros((2, _LEVELS_AT_MOST), np.int64)
    deepest, level, found, written, left = dims.size - 1, 0, 0, 0, 0
    at = skip_space(text, at + 1)
    while True:
        if text[at] == _CLOSE:
            if level > 0 and counts[level] != dims[level]:
                # What is wrong inside an array of another length is beside the point.
                found = _note(places, marks[level], OTHER_LENGTH, level, counts[level], counts)
            level -= 1
            at = skip_space(text, at + 1)
            if level < 0:
                return counts[0], found, left
        elif level == 0 and counts[0] == dims[0]:
            return MORE, found, left
        elif level < deepest:
            if text[at] == _OPEN:
                level += 1
                counts[level], marks[level] = 0, found
                at = skip_space(text, at + 1)
                continue
            found = _note(places, found, NO_ARRAY, level + 1, text[at], counts)
            at = skip_space(text, _past(text, at))
        elif text[at] != _MINUS and (text[at] < _ZERO or text[at] > _NINE):
            found = _note(places, found, NO_NUMBER, level + 1, text[at], counts)
            at = skip_space(text, _past(text, at))
        else:
            start, value = at, np.float32(0)
            if whole:
                number, at = _level(text, at)
                value = np.float32(number)
                if number < 0:
                    found = _note(places, found, OUT_OF_RANGE if number == -1 else NOT_WHOLE, level + 1, text[start], counts)
            else:
                value, at, fine = _fraction(text, at)
                if not fine:
                    found = _note(places, found, OUT_OF_RANGE, level + 1, text[start], counts)
            if found == 0 and written < out.size:
                out[written] = value
                if np.isnan(value):
                    size = at - start
                    unsure[left : left + size] = text[start:at]
                    unsure[left + size] = _COMMA
                    left += size + 1
            written += 1
            at = skip_space(text, at)
        counts[level] += 1
        if text[at] == _COMMA:
            at = skip_space(text, at + 1)


class ArrayFault(NamedTuple):
    """One fault: what it is, what came instead (the first byte of a value, or a length), and where, as positions in the arrays."""

    what: int
    got: int
    place: tuple[int, ...]


@dataclass(frozen=True)
class Numbers:
    """What an array holds: how many entries, and either its numbers, float32 one after the other, or the first faults."""

    count: int
    values: NDArray[np.float32]
    faults: list[ArrayFault]


def numbers_at(outline: Outline, at: int, dims: tuple[int, ...], *, whole: bool = False) -> Numbers:
    """Read the array at a place of a document.

    Args:
        dims: the lengths of the arrays; the outermost may be shorter, and if it is longer the count is `MORE`.
        whole: whether the numbers are whole ones from 0 to 255, else numbers in [0, 1].
    """
    text = outline.text
    # A number and its comma take two bytes at least: a short document never makes a large array.
    out = np.empty(min(math.prod(dims), text.size // 2), np.float32)
    places = np.empty((PLACES_AT_MOST, 3 + _LEVELS_AT_MOST), np.int64)
    unsure = np.empty(text.size, np.uint8)
    count, found, left = gather(text, at, np.array(dims, np.int64), whole, out, places, unsure)
    values = out[: max(count, 0) * math.prod(dims[1:])]
    if found == 0 and left and count != MORE:
        values[np.isnan(values)] = orjson.loads(b"[%s]" % unsure[: left - 1].tobytes())
    faults = [ArrayFault(what, got, tuple(place[:level])) for what, level, got, *place in places[:found].tolist()]
    return Numbers(count, values, faults)
