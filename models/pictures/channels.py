"""From the channels that a picture has to those that the classifier takes, where nothing is lost by it; else the reason why not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.pictures.errors import DamagedPicture, UnusableColours

TRANSPARENT = "Expected an opaque picture, got one with transparent pixels; paint it on a background first."
COLOURED = "Expected a grey picture, as this classifier takes one channel, got one with colours."
ANIMATED = "Expected one picture, got an animation."
DEEP = "Expected 8 bits a channel, or up to 16 in a grey picture without alpha, got {bits}."
MANY = "Expected a grey picture or RGB, got one of {channels} channels, as in CMYK."
NONE_FITS = "This classifier takes neither grey images nor RGB, and so no picture."

_OPAQUE, _WHITE, _DEEP_WHITE = 255, np.float32(255), np.float32(65535)


@dataclass(frozen=True)
class Colours:
    """What a PNG says about its pixels elsewhere.

    Args:
        bits: of a pixel's channel, as stored.
        palette: its colours, three bytes each, when the pixels are their numbers.
        transparent: alpha of the first colours of the palette, or else the one colour that is transparent, two bytes a channel.
    """

    bits: int = 8
    palette: bytes | None = None
    transparent: bytes | None = None


def plain(pixels: NDArray[Any], colours: Colours) -> NDArray[Any]:
    """Pixels uint8 or uint16 [h, w, channels], with the colours that they stand for. Raises: DamagedPicture, UnusableColours."""
    if pixels.dtype == np.bool_:
        pixels = pixels * np.uint8(_WHITE)
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if colours.palette is not None:
        return _painted(pixels[..., 0], colours.palette, colours.transparent or b"")
    if colours.transparent is not None and pixels.shape[2] in (1, 3):
        key = np.frombuffer(colours.transparent, ">u2")
        if key.size != pixels.shape[2]:
            raise DamagedPicture
        scale = 255 // ((1 << colours.bits) - 1) if colours.bits < 8 else 1
        if (pixels == key.astype(np.uint32) * scale).all(axis=2).any():
            raise UnusableColours(detail=TRANSPARENT)
    return pixels


def _painted(numbers: NDArray[Any], palette: bytes, alpha: bytes) -> NDArray[Any]:
    colours = np.frombuffer(palette, np.uint8).reshape(-1, 3)
    if numbers.max() >= len(colours) or len(alpha) > len(colours):
        raise DamagedPicture
    opacity = np.full((len(colours), 1), _OPAQUE, np.uint8)
    opacity[: len(alpha), 0] = np.frombuffer(alpha, np.uint8)
    painted: NDArray[Any] = np.hstack([colours, opacity])[numbers]
    return painted


def fitting(pixels: NDArray[Any], channels: int) -> NDArray[Any]:
    """Pixels [h, w, 1 to 4] with the classifier's channels, one or three.

    An alpha that is opaque everywhere is left out, grey becomes RGB, and RGB whose channels are equal grey. Raises: UnusableColours.
    """
    if pixels.shape[2] in (2, 4):
        if pixels[..., -1].min() < _OPAQUE:
            raise UnusableColours(detail=TRANSPARENT)
        pixels = pixels[..., :-1]
    if pixels.shape[2] < channels:
        return np.repeat(pixels, channels, axis=2)
    if pixels.shape[2] > channels and (pixels != pixels[..., :1]).any():
        raise UnusableColours(detail=COLOURED)
    return pixels[..., :channels]


def shades(pixels: NDArray[Any]) -> NDArray[Any]:
    """Numbers of 8 bits as they are, those of 16 as float32 in [0, 1], which has room for each."""
    return pixels if pixels.dtype == np.uint8 else pixels / _DEEP_WHITE
