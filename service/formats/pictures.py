"""From a PNG or JPEG picture to one image of the classifier's size, or to the problem document that says why not.

`models/pictures/decoding.py` says what is decoded, and how.

    400 malformed_picture    no whole PNG or JPEG image, or not of the declared type
    422 wrong_shape          another size, once it is upright
    422 wrong_mode           transparent pixels, colours for a grey classifier, 16 bits of colour, CMYK, an animation
"""

from __future__ import annotations

import math

from models.classifier import Images
from models.pictures import channels, decoding, errors
from models.pictures.decoding import JPEG, PNG
from service.errors import MalformedPicture, WrongMode, WrongShape
from service.formats.arrays import Tensors

MEDIA_TYPES = frozenset((PNG, JPEG))

_METADATA_BYTES = 1 << 18


def bytes_at_most(input_shape: tuple[int, int, int]) -> int:
    """How long a file of one picture of this shape may be: its numbers four times over, and room for metadata."""
    return 4 * math.prod(input_shape) + _METADATA_BYTES


def read(body: bytes, media_type: bytes, tensors: Tensors) -> Images:
    """The picture as float32 [1, h, w, c] in [0, 1], upright; colour profiles are ignored.

    Args:
        media_type: as declared; b"" takes either.

    Raises: MalformedPicture, WrongShape, WrongMode.
    """
    h, w, c = tensors.input_shape
    if c not in (1, 3):
        raise WrongMode(detail=channels.NONE_FITS)
    try:
        pixels = channels.fitting(decoding.pixels(body, media_type, (h, w)), c)
    except errors.DamagedPicture:
        raise MalformedPicture from None
    except errors.UnusableSize as failure:
        raise WrongShape(detail=failure.detail) from None
    except errors.UnusableColours as failure:
        raise WrongMode(detail=failure.detail) from None
    return tensors.images(channels.shades(pixels).reshape(1, h, w, c))
