"""From the bytes of a request to images float32 [n, h, w, c] in [0, 1], or to the reason why not.

Everything is checked here, before anything is queued: a bad request never meets its neighbours. Two ways lead through, and the
tests hold them to the same answers:

- the plain document (what clients send) is parsed, checked and converted in one compiled pass, `admission_kernel.py`;
- whatever that pass does not take is parsed by orjson and looked at value by value, which costs more and can say what is wrong.

Which problem is reported, by example:

    400 malformed_json                 text that is no JSON, NaN, 1e400, nested 100,000 deep, a key named twice
    422 wrong_document                 [], {}, another key than "images"
    422 wrong_type                     strings, booleans and nulls for numbers
    422 wrong_shape                    ragged, or another shape
    422 out_of_range                   outside [0, 1]
    422 no_images, too_many_images     none, or more than a request may hold
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import orjson

from models.classifier import Images
from service.errors import (
    PLACES_AT_MOST,
    MalformedJson,
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

# Reading this many bytes takes less time than handing them to another thread and back.
SHORT_BYTES = 1 << 18

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

Finding = tuple[type[Unprocessable], Place]


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
        count = parse(np.frombuffer(body + b"\0", np.uint8), self._shape, images)
        if count > 0:
            return images[:count].reshape(count, *self._shape)
        return self.images_in(document_in(body))

    def warm_up(self) -> None:
        """Compile both ways, or load them, before the first request."""
        text = orjson.dumps({"images": [np.zeros(self._shape).tolist()]})
        for body in (text, text + b" " * SHORT_BYTES):
            self.images(body)

    def images_in(self, document: Any) -> Images:
        """The images in a decoded document. Raises: Unprocessable."""
        if type(document) is not dict or list(document) != ["images"]:
            raise WrongDocument
        images = document["images"]
        if type(images) is not list:
            raise WrongType([_expected_array("/images", images)])
        if not images:
            raise NoImages
        if len(images) > self._most:
            raise TooManyImages(self._most)
        findings = list(islice(self._findings(images), PLACES_AT_MOST))
        if findings:
            # One kind of problem an answer: that of the first place, with the places that share it.
            kind = findings[0][0]
            raise kind([place for found, place in findings if found is kind])
        values = np.array(images, np.float32).reshape(len(images), *self._shape)
        if not np.isfinite(values).all():
            raise OutOfRange  # JSON cannot say NaN, but a caller in the same process can
        return values

    def _findings(self, images: list[Any]) -> Iterator[Finding]:
        h, w, c = self._shape
        flat = c == 1 and _first_pixel_is_a_number(images)
        dims = (h, w) if flat else (h, w, c)
        for i, image in enumerate(images):
            yield from _findings(image, dims, f"/images/{i}")


def document_in(body: bytes) -> Any:
    """Decode strictly. Raises: MalformedJson.

    orjson keeps the last of two equal keys, so a document with more than one key is looked at again.
    """
    try:
        document = orjson.loads(body)
        if body.count(b'"') > 2:
            json.loads(body, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise MalformedJson from None
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if any(count > 1 for count in Counter(key for key, _ in pairs).values()):
        raise ValueError
    return dict(pairs)


def _first_pixel_is_a_number(images: list[Any]) -> bool:
    pixel: Any = images
    for _ in range(3):
        if type(pixel) is not list or not pixel:
            return True
        pixel = pixel[0]
    return type(pixel) is not list


def _findings(value: Any, dims: tuple[int, ...], pointer: str) -> Iterator[Finding]:
    """The faults of an array of these dimensions; rows without one are passed at the speed of C."""
    if type(value) is not list:
        yield _not_an_array(value, pointer)
    elif len(value) != dims[0]:
        yield WrongShape, Place(pointer, f"expected {dims[0]} entries, got {len(value)}")
    elif len(dims) > 1:
        for i, entry in enumerate(value):
            yield from _findings(entry, dims[1:], f"{pointer}/{i}")
    elif not (_NUMBERS.issuperset(map(type, value)) and min(value) >= 0 and max(value) <= 1):
        for i, number in enumerate(value):
            yield from _number_findings(number, f"{pointer}/{i}")


def _not_an_array(value: Any, pointer: str) -> Finding:
    kind: type[Unprocessable] = WrongShape if type(value) in _NUMBERS else WrongType
    return kind, _expected_array(pointer, value)


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "something else")


def _expected_array(pointer: str, value: Any) -> Place:
    return Place(pointer, f"expected an array, got {_kind(value)}")


def _number_findings(value: Any, pointer: str) -> Iterator[Finding]:
    if type(value) is list:
        yield WrongShape, Place(pointer, "expected a number, got an array")
    elif type(value) not in _NUMBERS:
        yield WrongType, Place(pointer, f"expected a number, got {_kind(value)}")
    elif not 0 <= value <= 1:
        yield OutOfRange, Place(pointer, "expected a number in [0, 1]")
