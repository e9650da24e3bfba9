"""From the file of a picture on this machine to bytes of one size: PNG, JPEG, WebP and BMP.

PNG and JPEG are decoded as the service decodes them (`decoding.py`). WebP and BMP, which the service does not take, are decoded by
Pillow's own decoders, with the same rules: upright, opaque, no animation, 8 bits a channel.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.files import NotAFile, read_file
from models.pictures import channels
from models.pictures.decoding import PIXELS_AT_MOST, Size, pixels
from models.pictures.errors import DamagedPicture, UnusableColours, UnusablePicture, UnusableSize
from models.pictures.orientation import orientation, upright

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
"""Of the files that are read, in small letters."""

_BYTES_AT_MOST = 1 << 28
_EXIF = b"Exif\0\0"
_RGB, _RGBA = "RGB", "RGBA"
# By the mode that Pillow says: the one to convert to, without loss.
_MODES = {"1": "L", "L": "L", "LA": "LA", "P": _RGBA, "PA": _RGBA, _RGB: _RGB, "RGBX": _RGB, _RGBA: _RGBA}


def read_picture(path: Path, *, channels_wanted: int, size: Size | None = None) -> NDArray[np.uint8]:
    """The pixels uint8 [h, w, c] of a picture, upright; 16 bits of grey are rounded to 8.

    Args:
        channels_wanted: 1 or 3.
        size: (h, w) to resize to, bilinear with a filter as wide as the scale; as it is when None.

    Raises: UnusablePicture; OSError.
    """
    body = read_file(path, at_most=_BYTES_AT_MOST)
    fitting = channels.fitting(_pixels(body), channels_wanted)
    if fitting.dtype != np.uint8:
        fitting = np.rint(channels.shades(fitting) * np.float32(255)).astype(np.uint8)
    return np.ascontiguousarray(fitting if size is None or fitting.shape[:2] == size else _resized(fitting, size))


def _pixels(body: bytes) -> NDArray[Any]:
    if body[:4] == b"RIFF" and body[8:12] == b"WEBP":
        return _webp(body)
    if body[:2] == b"BM":
        return _bmp(body)
    return pixels(body, b"", None)


def _webp(body: bytes) -> NDArray[Any]:
    from PIL.WebPImagePlugin import WebPImageFile

    try:
        picture = WebPImageFile(io.BytesIO(body))
        frames = int(getattr(picture, "n_frames", 1))
    except Exception:  # noqa: BLE001  # a damaged picture makes decoders raise a dozen different things
        raise DamagedPicture from None
    if frames != 1:
        raise UnusableColours(detail=channels.ANIMATED)
    return upright(_decoded(picture), orientation(picture.info.get("exif", b"").removeprefix(_EXIF)))


def _bmp(body: bytes) -> NDArray[Any]:
    from PIL.BmpImagePlugin import BmpImageFile

    try:
        picture = BmpImageFile(io.BytesIO(body))
    except Exception:  # noqa: BLE001
        raise DamagedPicture from None
    return _decoded(picture)


def _decoded(picture: Any) -> NDArray[Any]:
    """Pixels [h, w, channels] of an opened picture, of which nothing is decoded yet."""
    if math.prod(picture.size) > PIXELS_AT_MOST:
        w, h = picture.size
        raise UnusableSize(detail=f"Expected a picture of at most {PIXELS_AT_MOST:,} pixels, got {w} by {h}.")
    if picture.mode not in _MODES:
        raise UnusableColours(detail=f"Expected a grey picture or RGB, got one of mode {picture.mode}.")
    try:
        found = np.asarray(picture if picture.mode == _MODES[picture.mode] else picture.convert(_MODES[picture.mode]))
    except Exception:  # noqa: BLE001
        raise DamagedPicture from None
    return found.reshape(*found.shape[:2], -1)


def _resized(fitting: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    from PIL import Image

    h, w = size
    grey = fitting.shape[2] == 1
    picture = Image.fromarray(fitting[..., 0] if grey else fitting)
    resized: NDArray[np.uint8] = np.asarray(picture.resize((w, h), Image.Resampling.BILINEAR))
    return resized.reshape(h, w, -1)


def reason(failure: UnusablePicture | OSError) -> str:
    """Why a picture cannot be used, a clause."""
    if isinstance(failure, UnusablePicture):
        return failure.detail[0].lower() + failure.detail[1:].rstrip(".")
    return failure.strerror or str(failure) if isinstance(failure, NotAFile) else (failure.strerror or str(failure)).lower()
