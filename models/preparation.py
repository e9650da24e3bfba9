"""How a model wants its images: from images [n, h, w, c] in [0, 1] to the numbers, the order and the type at the model's input.

Maths: x' = x * scale + offset, one scale and offset for all channels or one a channel of the *image* (red, green, blue); then the
channels reordered, then the axes, then the type. A `Preparation` is what a bundle declares, what a calibration proposes, and what every
engine folds into its graph; `apply` is the same in NumPy, for engines without a graph and as the oracle of the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.classifier import Images
from models.errors import InvalidInput

Layout = Literal["nhwc", "nchw"]
Channels = Literal["rgb", "bgr"]
InputType = Literal["float32", "uint8"]
Outputs = Literal["probabilities", "logits"]
"""What a model returns. One column is a sigmoid: the probability or the logit of class 1. k columns are a distribution or its logits."""

_COLOURS = 3
_LARGEST = float(np.finfo(np.float32).max)
_BYTE = 255.0
_SLACK = 1e-3  # of a byte: what rounding in a declared mean or deviation may exceed 0..255 by
_DIGITS = ".15g"  # of a double, one fewer than may differ by rounding: 0.229 stays 0.229 through 1 / (1 / 0.229)


@dataclass(frozen=True)
class Preparation:
    """How a model wants its images.

    Attributes:
        scale, offset: the value given to the model is image * scale + offset. One value, or one a channel in the order of the images.
        layout: "nhwc", channels last, or "nchw", channels first.
        channels: "rgb", the order of the images, or "bgr".
        dtype: "float32", or "uint8": values are rounded, and have to lie within 0..255.

    Raises: InvalidInput on construction: no such value, a scale of 0, a number that is not finite, bytes outside 0..255.
    """

    scale: tuple[float, ...] = (1.0,)
    offset: tuple[float, ...] = (0.0,)
    layout: Layout = "nhwc"
    channels: Channels = "rgb"
    dtype: InputType = "float32"

    def __post_init__(self) -> None:
        for name, values in (("scale", self.scale), ("offset", self.offset)):
            object.__setattr__(self, name, tuple(map(float, values)))
        if not self.scale or not self.offset or len({len(self.scale), len(self.offset)} - {1}) > 1:
            raise InvalidInput(
                f"expected one value, or as many of one as of the other, got {len(self.scale)} scales and {len(self.offset)} offsets"
            )
        numbers = np.abs([*self.scale, *self.offset])
        if not (numbers <= _LARGEST).all() or 0.0 in self.scale:  # NaN fails the comparison
            raise InvalidInput(f"expected finite scales other than 0 and finite offsets, got {self.scale} and {self.offset}")
        for name, value, known in (
            ("layout", self.layout, ("nhwc", "nchw")),
            ("channels", self.channels, ("rgb", "bgr")),
            ("dtype", self.dtype, ("float32", "uint8")),
        ):
            if value not in known:
                raise InvalidInput(f"expected {name} {' or '.join(known)}, got {value!r}")
        if self.dtype == "uint8":
            self._check_bytes()

    @classmethod
    def of_range(cls, low: float, high: float, **rest: Any) -> Preparation:
        """Of a model to which black is `low` and white `high`, in every channel; `rest`: layout, channels, dtype."""
        return cls((high - low,), (low,), **rest)

    @classmethod
    def of_statistics(cls, mean: float | Sequence[float], std: float | Sequence[float], **rest: Any) -> Preparation:
        """Of a model that was trained on (image - mean) / std, both in the unit range, one value or one a channel; `rest`: layout,
        channels, dtype. Raises: InvalidInput: a deviation that is not positive, too many values of one."""
        means, deviations = _values(mean), _values(std)
        if not all(deviation > 0 for deviation in deviations):
            raise InvalidInput(f"expected positive standard deviations, got {', '.join(f'{one:g}' for one in deviations)}")
        size = max(len(means), len(deviations))
        if {len(means), len(deviations)} - {1, size}:
            raise InvalidInput(f"expected as many means as deviations, or one, got {len(means)} and {len(deviations)}")
        means, deviations = (values * size if len(values) == 1 else values for values in (means, deviations))
        both = list(zip(means, deviations, strict=True))
        return cls(tuple(1 / std for _, std in both), tuple(-mean / std for mean, std in both), **rest)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Preparation:
        """Of the classifier that a bundle declares: `input_range`, or `mean` and `std`; `layout`, `channels`, `input_dtype`.

        What is missing or None is usual: 0 to 1, nhwc, rgb, float32. Raises: InvalidInput: a range beside a mean, a mean alone, or as on
        construction.
        """
        said = {key: value for key, value in settings.items() if value is not None}
        names = {"layout": "layout", "channels": "channels", "dtype": "input_dtype"}
        rest = {name: said[key] for name, key in names.items() if key in said}
        if ("mean" in said) != ("std" in said) or ("mean" in said and "input_range" in said):
            raise InvalidInput("expected an input range, or a mean and a standard deviation, got others of these three")
        if "mean" in said:
            return cls.of_statistics(said["mean"], said["std"], **rest)
        low, high = said.get("input_range", (0.0, 1.0))
        return cls.of_range(low, high, **rest)

    def settings(self) -> dict[str, Any]:
        """What `from_settings` reads, for hauberk.toml: only what is not usual, but for `input_range`."""
        found: dict[str, Any] = {}
        if (limits := self.input_range) is not None:
            found["input_range"] = list(limits)
        else:
            found["mean"], found["std"] = (list(values) for values in self.statistics)
        usual = Preparation()
        for key, name in (("layout", "layout"), ("channels", "channels"), ("input_dtype", "dtype")):
            if getattr(self, name) != getattr(usual, name):
                found[key] = getattr(self, name)
        return found

    @property
    def input_range(self) -> tuple[float, float] | None:
        """The values of black and white at the model's input, where they are the same in all channels."""
        if len({*self.scale}) > 1 or len({*self.offset}) > 1:
            return None
        return self.offset[0], _rounded(self.scale[0] + self.offset[0])

    @property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """(mean, std) in the unit range, one value or one a channel; std is negative where black and white are exchanged."""
        size = max(len(self.scale), len(self.offset))
        scales, offsets = (values * (size if len(values) == 1 else 1) for values in (self.scale, self.offset))
        both = list(zip(scales, offsets, strict=True))
        return tuple(_rounded(-offset / scale) for scale, offset in both), tuple(_rounded(1 / scale) for scale in scales)

    def check(self, image_shape: tuple[int, int, int]) -> None:
        """Raises: InvalidInput: this cannot prepare images (h, w, c): another number of channels."""
        channels = image_shape[2]
        sizes = {len(self.scale), len(self.offset)} - {1, channels}
        if sizes:
            raise InvalidInput(f"expected one value or one for each of {channels} channels, got {sizes.pop()}")
        if self.channels == "bgr" and channels != _COLOURS:
            raise InvalidInput(f"expected images of 3 channels to exchange red and blue (bgr), got {channels}")

    def shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """The shape of one prepared image: (h, w, c), or (c, h, w)."""
        h, w, c = image_shape
        return (c, h, w) if self.layout == "nchw" else (h, w, c)

    def apply(self, images: Images, *, shape: Sequence[int] | None = None) -> NDArray[Any]:
        """Prepare images float32 [n, h, w, c] in [0, 1].

        Args:
            shape: of one input of the model, where it has no channels or is flat; that of `Preparation.shape` when not given.

        Returns: float32 or uint8, [n, *shape], contiguous.
        """
        self.check(images.shape[1:])
        values = images * np.array(self.scale, np.float32) + np.array(self.offset, np.float32)
        if self.channels == "bgr":
            values = values[..., ::-1]
        if self.layout == "nchw":
            values = values.transpose(0, 3, 1, 2)
        if self.dtype == "uint8":
            values = np.rint(values).clip(0, _BYTE)
        typed = np.ascontiguousarray(values, self.dtype)
        return typed if shape is None else typed.reshape(len(images), *shape)

    def _check_bytes(self) -> None:
        mean, _ = self.statistics
        scales = self.scale * (len(mean) if len(self.scale) == 1 else 1)
        offsets = self.offset * (len(mean) if len(self.offset) == 1 else 1)
        ends = [end for scale, offset in zip(scales, offsets, strict=True) for end in (offset, scale + offset)]
        if not all(-_SLACK <= end <= _BYTE + _SLACK for end in ends):
            raise InvalidInput(
                f"expected values within 0..255 for a model that takes uint8, got {min(ends):g} to {max(ends):g}; "
                "its input range is 0,255"
            )


def _values(given: float | Sequence[float]) -> tuple[float, ...]:
    return (float(given),) if isinstance(given, int | float) else tuple(map(float, given))


def _rounded(value: float) -> float:
    return float(format(value, _DIGITS))


# The three modes of keras.applications' preprocess_input, by its names; torch's is that of torchvision's classifiers too.
PRESETS: Mapping[str, Preparation] = MappingProxyType(
    {
        "torch": Preparation.of_statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "caffe": Preparation(
            scale=(_BYTE,) * _COLOURS, offset=(-123.68, -116.779, -103.939), channels="bgr"
        ),  # the mean is published as blue, green, red
        "tf": Preparation.of_range(-1.0, 1.0),
    }
)
"""The usual preparations by name: ImageNet's mean and deviation (torch), its mean in bytes and BGR (caffe), -1 to 1 (tf)."""
