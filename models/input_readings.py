"""The readings of images that are worth trying: what is usual among those who train image classifiers, and how the user says each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from models.classifier import Images
from models.errors import InvalidInput
from models.preparation import PRESETS, Channels, Layout, Preparation

# Mean and deviation of MNIST's training images, as everybody's normalisation of digits copies them.
_MNIST = (0.1307, 0.3081)
_CAFFE = PRESETS["caffe"]
_COLOURS = 3
_BYTE = 255
_DIGITS = 3  # of measured means and deviations: as many as are published of data sets


@dataclass(frozen=True)
class Reading:
    """One way to read images.

    Attributes:
        name: in words, as in "right on 97 % of the images with NAME".
        preparation: what the model is given.
    """

    name: str
    preparation: Preparation

    @property
    def options(self) -> str:
        """The options that say it, and nothing of what is usual."""
        usual = Preparation.of_range(0, _BYTE if self.preparation.dtype == "uint8" else 1)
        values_are_usual = _values_of(self.preparation) == _values_of(usual)
        rest = said(self.preparation).split(" ", 1)[1:]
        return rest[0] if values_are_usual and rest else said(self.preparation)


def readings(images: Images, declared: Preparation, *, flat: bool = False) -> Iterator[Reading]:
    """The readings worth trying for images like these, the most usual first, each only once.

    Args:
        declared: the preparation as it is; its type stays, and its layout.
        flat: the model takes a vector, whose length leaves open which layout it was made from.
    """
    colour = images.shape[-1] == _COLOURS
    layouts: Sequence[Layout] = ("nhwc", "nchw") if flat and colour else (declared.layout,)
    orders: Sequence[Channels] = ("rgb", "bgr") if colour else ("rgb",)
    tried: set[Preparation] = set()
    for layout in layouts:
        for channels in orders:
            for name, values in _values(images):
                try:
                    found = replace(values, layout=layout, channels=channels, dtype=declared.dtype)
                except InvalidInput:  # these values do not fit into bytes
                    continue
                if found not in tried:
                    tried.add(found)
                    yield Reading(_named(name, found, several_layouts=len(layouts) > 1), found)


def said(preparation: Preparation) -> str:
    """The options of the command line that say a preparation: its values, and what else is not usual."""
    parts = _values_said(preparation)
    if preparation.channels != "rgb" and not parts[0].startswith("--preset"):
        parts.append(f"--channels={preparation.channels}")
    if preparation.layout != "nhwc":
        parts.append(f"--layout={preparation.layout}")
    return " ".join(parts)


def _values_said(preparation: Preparation) -> list[str]:
    if (limits := preparation.input_range) is not None:
        return ["--input-range={:.6g},{:.6g}".format(*limits)]
    for name, preset in PRESETS.items():
        if _values_of(preset) == _values_of(preparation) and preset.channels == preparation.channels:
            return [f"--preset={name}"]
    return [f"--{name}={_listed(values)}" for name, values in zip(("mean", "std"), preparation.statistics, strict=True)]


def in_words(preparation: Preparation) -> str:
    """What the model is given, for people."""
    if (limits := preparation.input_range) is not None:
        values = "pixels from {:.6g} to {:.6g}".format(*limits)
    else:
        mean, std = preparation.statistics
        values = f"pixels less {_listed(mean)}, divided by {_listed(std)}"
    order = ", blue first (BGR)" if preparation.channels == "bgr" else ""
    layout = ", channels first" if preparation.layout == "nchw" else ""
    return values + (" as bytes" if preparation.dtype == "uint8" else "") + order + layout


def _values(images: Images) -> Iterator[tuple[str, Preparation]]:
    """The values at the model's input that are usual, in this order."""
    yield "pixels from 0 to 1", Preparation()
    yield "pixels from -1 to 1", Preparation.of_range(-1, 1)
    channels = images.shape[-1]
    if channels == 1:
        yield "MNIST's mean and deviation", Preparation.of_statistics(*_MNIST)
    if channels == _COLOURS:
        yield "ImageNet's mean and deviation", PRESETS["torch"]
    yield from _measured(images)
    yield "pixels from 0 to 255", Preparation.of_range(0, 255)
    if channels == _COLOURS:
        yield "ImageNet's mean subtracted from pixels from 0 to 255", Preparation(_CAFFE.scale, _CAFFE.offset)
    yield "pixels from -0.5 to 0.5", Preparation.of_range(-0.5, 0.5)
    for low, high in ((1, 0), (1, -1), (255, 0)):
        yield f"black and white exchanged, pixels from {low} to {high}", Preparation.of_range(low, high)


def _measured(images: Images) -> Iterator[tuple[str, Preparation]]:
    """By mean and deviation of these images: of each channel, of all together, and by the mean alone."""
    mean, std = _rounded(images.mean(axis=(0, 1, 2), dtype=float)), _rounded(images.std(axis=(0, 1, 2), dtype=float))
    if min(std) > 0 and len(mean) > 1:
        yield "each channel standardised by the images' own mean and deviation", Preparation.of_statistics(mean, std)
    (grey_mean,), (grey_std,) = _rounded(images.mean(dtype=float)), _rounded(images.std(dtype=float))
    if grey_std > 0:
        yield "pixels standardised by the images' own mean and deviation", Preparation.of_statistics(grey_mean, grey_std)
    yield "the images' own mean subtracted", Preparation.of_statistics(mean, 1)


def _rounded(values: object) -> tuple[float, ...]:
    return tuple(float(value) for value in np.round(np.atleast_1d(np.asarray(values, float)), _DIGITS))


def _named(name: str, preparation: Preparation, *, several_layouts: bool) -> str:
    order = ", red and blue exchanged (BGR)" if preparation.channels == "bgr" else ""
    layout = ", channels first" if several_layouts and preparation.layout == "nchw" else ""
    return name + order + layout


def _values_of(preparation: Preparation) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return preparation.scale, preparation.offset


def _listed(values: Sequence[float]) -> str:
    return ",".join(f"{value:.6g}" for value in (values[:1] if len({*values}) == 1 else values))
