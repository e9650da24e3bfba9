"""From the bytes of a request to images float32 [n, h, w, c] in [0, 1], or to the reason why not.

Everything is checked here, before anything is queued: a bad request never meets its neighbours. Two ways lead through, both compiled,
and the tests hold them to the answers of orjson and a walk over Python objects:

- the plain document (what clients send) is parsed, checked and converted in one pass, `json_kernel.py`;
- whatever that pass does not take is surveyed (`json_survey.py`), and then its array is read number by number (`json_numbers.py`),
  which costs three times as much and can say what is wrong.

Neither makes an object of what a client sent, so that the work is linear in the bytes of any body.

Which problem is reported, by example:

    400 malformed_json                 text that is no JSON, NaN, 1e400, nested 100,000 deep, a key named twice
    422 wrong_document                 [], {}, another key than "images"
    422 wrong_type                     strings, booleans and nulls for numbers
    422 wrong_shape                    ragged, or another shape
    422 out_of_range                   outside [0, 1]
    422 no_images, too_many_images     none, or more than a request may hold
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from models.classifier import Images
from service.errors import (
    PLACES_AT_MOST,
    NoImages,
    OutOfRange,
    Place,
    TooManyImages,
    Unprocessable,
    WrongDocument,
    WrongShape,
    WrongType,
)
from service.formats import json_kernel as kernel
from service.formats.json_numbers import MORE, NO_ARRAY, NO_NUMBER, OTHER_LENGTH, ArrayFault, numbers_at
from service.formats.json_survey import outline, path_of

# Reading this many bytes, good or bad, takes a millisecond at most: not worth handing them to another thread and back.
SHORT_BYTES = 1 << 16

_IMAGES = path_of("images")
_NUMBERS = frozenset((int, float))
_KINDS = {
    bool: "a boolean",
    str: "a string",
    type(None): "null",
    dict: "an object",
    list: "an array",
    int: "a number",
    float: "a number",
}
# By the first byte of a value; any other begins a number.
_KINDS_IN_TEXT = {ord('"'): str, ord("t"): bool, ord("f"): bool, ord("n"): type(None), ord("{"): dict, ord("["): list}

# That the first pixel of the first image is an array of channels.
_FOUR_DEEP = re.compile(rb"(?:\[[ \t\n\r]*+){4}")

Fault = tuple[type[Unprocessable], Place]


class Admission:
    """Lets images of one shape in.

    Args:
        input_shape: (h, w, c) of one image. Where c is 1, n×h×w is taken as well as n×h×w×1.
        images_at_most: in one request.
    """

    def __init__(self, input_shape: tuple[int, int, int], images_at_most: int) -> None:
        self._shape = input_shape
        self._pixels = int(np.prod(input_shape))
        self._most = images_at_most

    def images(self, body: bytes) -> Images:
        """The images in a JSON body. Raises: MalformedJson, Unprocessable."""
        # A number and its comma take two bytes at least: a short body never makes a large array.
        most = min(self._most, len(body) // (2 * self._pixels) + 1)
        images = np.empty((most, self._pixels), np.float32)
        parse = kernel.parse if len(body) <= SHORT_BYTES else kernel.parse_aside
        text = np.frombuffer(body + b"\0", np.uint8)
        count = parse(text, self._shape, images)
        return images[:count].reshape(count, *self._shape) if count > 0 else self._thoroughly(text)

    def warm_up(self) -> None:
        """Compile every pass, or load it, before the first request."""
        text = orjson.dumps({"images": [np.zeros(self._shape).tolist()]})
        for body in (text, text + b" " * SHORT_BYTES):
            self.images(body)
        self._thoroughly(np.frombuffer(text + b"\0", np.uint8))

    def _thoroughly(self, text: NDArray[np.uint8]) -> Images:
        document = outline(text, root_keys_at_most=1)
        found = None if document is None else document.find(_IMAGES)
        if document is None or found is None:
            raise WrongDocument
        if not document.begins_with(b"[", found.start):
            raise WrongType([_expected_array("/images", _kind_in_text(int(text[found.start])))])
        h, w, c = self._shape
        dims = (h, w) if c == 1 and not _FOUR_DEEP.match(text.data, found.start) else (h, w, c)
        numbers = numbers_at(document, found.start, (self._most, *dims))
        if numbers.count == 0:
            raise NoImages
        if numbers.count == MORE:
            raise TooManyImages(self._most)
        _refuse(_fault_in_text(fault, dims) for fault in numbers.faults)
        return numbers.values.reshape(numbers.count, *self._shape)

    def images_in(self, document: Any) -> Images:
        """The images in a document of a caller in the same process. Raises: Unprocessable."""
        if type(document) is not dict or list(document) != ["images"]:
            raise WrongDocument
        images = document["images"]
        if type(images) is not list:
            raise WrongType([_expected_array("/images", _KINDS.get(type(images)))])
        if not images:
            raise NoImages
        if len(images) > self._most:
            raise TooManyImages(self._most)
        _refuse(islice(self._faults(images), PLACES_AT_MOST))
        values = np.array(images, np.float32).reshape(len(images), *self._shape)
        if not np.isfinite(values).all():
            raise OutOfRange  # JSON cannot say NaN, but a caller in the same process can
        return values

    def _faults(self, images: list[Any]) -> Iterator[Fault]:
        h, w, c = self._shape
        flat = c == 1 and _first_pixel_is_a_number(images)
        dims = (h, w) if flat else (h, w, c)
        for i, image in enumerate(images):
            yield from _faults(image, dims, f"/images/{i}")


def _refuse(found: Iterator[Fault]) -> None:
    """One kind of problem an answer: that of the first place, with the places that share it."""
    faults = list(found)
    if faults:
        kind = faults[0][0]
        raise kind([place for of, place in faults if of is kind])


def _kind_in_text(first: int) -> str:
    return _KINDS[_KINDS_IN_TEXT.get(first, int)]


def _fault_in_text(fault: ArrayFault, dims: tuple[int, ...]) -> Fault:
    """What `_faults` says of the same fault in Python objects."""
    pointer = "/images/" + "/".join(map(str, fault.place))
    if fault.what == OTHER_LENGTH:
        return WrongShape, Place(pointer, f"expected {dims[len(fault.place) - 1]} entries, got {fault.got}")
    kind = _kind_in_text(fault.got)
    if fault.what == NO_ARRAY:
        return (WrongShape if kind == _KINDS[int] else WrongType), _expected_array(pointer, kind)
    if fault.what == NO_NUMBER:
        return (WrongShape if kind == _KINDS[list] else WrongType), _expected_number(pointer, kind)
    return OutOfRange, _out_of_range(pointer)


def _first_pixel_is_a_number(images: list[Any]) -> bool:
    pixel: Any = images
    for _ in range(3):
        if type(pixel) is not list or not pixel:
            return True
        pixel = pixel[0]
    return type(pixel) is not list


def _faults(value: Any, dims: tuple[int, ...], pointer: str) -> Iterator[Fault]:
    """The faults of an array of these dimensions; rows without one are passed at the speed of C."""
    if type(value) is not list:
        kind: type[Unprocessable] = WrongShape if type(value) in _NUMBERS else WrongType
        yield kind, _expected_array(pointer, _KINDS.get(type(value)))
    elif len(value) != dims[0]:
        yield WrongShape, Place(pointer, f"expected {dims[0]} entries, got {len(value)}")
    elif len(dims) > 1:
        for i, entry in enumerate(value):
            yield from _faults(entry, dims[1:], f"{pointer}/{i}")
    elif not (_NUMBERS.issuperset(map(type, value)) and min(value) >= 0 and max(value) <= 1):
        for i, number in enumerate(value):
            yield from _number_faults(number, f"{pointer}/{i}")


def _number_faults(value: Any, pointer: str) -> Iterator[Fault]:
    if type(value) not in _NUMBERS:
        yield (WrongShape if type(value) is list else WrongType), _expected_number(pointer, _KINDS.get(type(value)))
    elif not 0 <= value <= 1:
        yield OutOfRange, _out_of_range(pointer)


def _expected_array(pointer: str, kind: str | None) -> Place:
    return Place(pointer, f"expected an array, got {kind or 'something else'}")


def _expected_number(pointer: str, kind: str | None) -> Place:
    return Place(pointer, f"expected a number, got {kind or 'something else'}")


def _out_of_range(pointer: str) -> Place:
    return Place(pointer, "expected a number in [0, 1]")
