"""Other ways in which a model may want its images: the usual input ranges, standardised pixels, swapped channels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.classifier import Images

Range = tuple[float, float]

# Published means and standard deviations of training sets that everybody's normalisation copies.
_DIGITS = (0.1307, 0.3081)
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CAFFE_MEAN = (103.939, 116.779, 123.68)
_COLOURS = 3


@dataclass(frozen=True)
class Reading:
    """One way to read images.

    Attributes:
        name: in words, as in "right on 97 % of the images with NAME".
        values: images float32 [n, h, w, c] in [0, 1] -> what the model is given.
        input_range: the values of black and white, where the reading is just that.
    """

    name: str
    values: Callable[[Images], Images]
    input_range: Range | None = None


def readings(images: Images) -> Iterator[Reading]:
    """The readings worth trying for images like these, those with an input range first, in the order of what is usual."""
    tried: set[Range] = set()
    for name, (low, high) in _ranges(images):
        if (rounded := (round(low, 2), round(high, 2))) not in tried:
            tried.add(rounded)
            yield Reading(name, partial(_affine, scale=high - low, offset=low), (low, high))
    yield Reading("black and white exchanged", partial(_affine, scale=-1.0, offset=1.0))
    if images.shape[-1] == _COLOURS:
        yield Reading("red and blue exchanged (BGR)", _reversed)
        yield Reading("each channel standardised as for ImageNet", partial(_standardised, _IMAGENET))
        yield Reading("Caffe's preparation (BGR, 0 to 255, less the mean)", _caffe)


def _ranges(images: Images) -> Iterator[tuple[str, Range]]:
    for low, high in ((0.0, 1.0), (-1.0, 1.0)):
        yield f"pixels from {low:g} to {high:g}", (low, high)
    if images.shape[-1] == 1:
        yield "pixels standardised as MNIST usually is", _range_of(*_DIGITS)
    if images.std() > 0:
        yield "pixels standardised by their own mean and deviation", _range_of(float(images.mean()), float(images.std()))
    for low, high in ((-0.5, 0.5), (0.0, 255.0)):
        yield f"pixels from {low:g} to {high:g}", (low, high)


def _range_of(mean: float, deviation: float) -> Range:
    return round(-mean / deviation, 3), round((1 - mean) / deviation, 3)


def _affine(images: Images, *, scale: float, offset: float) -> Images:
    return images * np.float32(scale) + np.float32(offset)


def _reversed(images: Images) -> Images:
    return images[..., ::-1]


def _standardised(statistics: tuple[tuple[float, ...], tuple[float, ...]], images: Images) -> Images:
    mean, deviation = (np.array(values, np.float32) for values in statistics)
    scaled: NDArray[Any] = (images - mean) / deviation
    return scaled


def _caffe(images: Images) -> Images:
    return images[..., ::-1] * np.float32(255) - np.array(_CAFFE_MEAN, np.float32)
