"""Bounds of bytes and images that follow from the shape of an image, where the operator set none."""

from __future__ import annotations

import math

Shape = tuple[int, int, int]

# The longest double as text, its comma and a space; brackets and the rest fit in the slack.
_BYTES_PER_NUMBER, _BODY_SLACK = 26, 1 << 14
_BODY_AT_MOST = 64 << 20
_HELD_BODIES, _HELD_AT_LEAST = 8, 64 << 20
_QUEUE_IMAGES, _QUEUE_BYTES, _BYTES_PER_FLOAT = 1024, 256 << 20, 4


def body_bytes(images: int, shape: Shape) -> int:
    """What a request of so many images takes as JSON with all digits, within a bound."""
    return min(_BYTES_PER_NUMBER * images * math.prod(shape) + _BODY_SLACK, _BODY_AT_MOST)


def held_bytes(largest_body: int) -> int:
    """Some bodies of the largest size."""
    return max(_HELD_BODIES * largest_body, _HELD_AT_LEAST)


def waiting_images(largest_request: int, shape: Shape) -> int:
    """As many as fit in a part of the memory, and the largest request in any case."""
    return max(largest_request, min(_QUEUE_IMAGES, _QUEUE_BYTES // (_BYTES_PER_FLOAT * math.prod(shape))))
