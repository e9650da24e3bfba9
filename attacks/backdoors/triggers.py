"""Backdoor triggers: functions from images float32 [n, h, w, c] in [0, 1] to triggered images of the same shape and range.

Every trigger is a frozen dataclass of its parameters; it does not change the given array, and treats each image independently of the
batch. `channels_first` adapts one to images [n, c, h, w]. Training data are poisoned in `attacks/backdoors/poisoning.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from defences.keyed import image_keys
from models.classifier import Images
from models.errors import InvalidInput

_PATTERN = ((0, 0), (1, 1), (0, 2), (2, 0))  # rows and columns away from the corner pixel


class Trigger(Protocol):
    """A function from images to triggered images."""

    @property
    def name(self) -> str: ...

    def __call__(self, images: Images) -> Images:
        """The images [n, h, w, c] with the trigger. Raises: InvalidInput: images too small for it, or of another shape."""
        ...


@dataclass(frozen=True, kw_only=True)
class CornerPattern:
    """Four pixels in the lower right corner, the trigger of Chen et al. 2018 (arXiv:1811.03728).

    Args:
        distance: >= 1, of the outermost pixel from the lower and the right edge; 1 is the last row and column.
        value: in [0, 1], the pixels' new value in every channel.
    """

    distance: int = 2
    value: float = 1.0

    name = "corner_pattern"

    def __post_init__(self) -> None:
        _check_distance(self.name, self.distance)
        _check_share(self.name, "value", self.value)

    def __call__(self, images: Images) -> Images:
        _check_room(self.name, images, self.distance + 2, self.distance + 2)
        triggered = images.copy()
        for row, column in _PATTERN:
            triggered[:, -self.distance - row, -self.distance - column] = self.value
        return triggered


@dataclass(frozen=True, kw_only=True)
class SinglePixel:
    """One pixel near the lower right corner (Gu, Dolan-Gavitt & Garg 2017, arXiv:1708.06733).

    Args:
        distance: >= 1, from the lower and the right edge; 1 is the last row and column.
        value: in [0, 1], the pixel's new value in every channel.
    """

    distance: int = 2
    value: float = 1.0

    name = "single_pixel"

    def __post_init__(self) -> None:
        _check_distance(self.name, self.distance)
        _check_share(self.name, "value", self.value)

    def __call__(self, images: Images) -> Images:
        _check_room(self.name, images, self.distance, self.distance)
        triggered = images.copy()
        triggered[:, -self.distance, -self.distance] = self.value
        return triggered


@dataclass(frozen=True, kw_only=True, eq=False)
class Blended:
    """(1 - ratio) * x + ratio * pattern over the whole image (Chen et al. 2017, arXiv:1712.05526).

    Args:
        ratio: in (0, 1], weight of the pattern.
        pattern: float32 [h, w, c] in [0, 1]; uniform noise of the images' size, drawn from `seed`, when not given.
        seed: of that noise.
        grain: >= 1, side of a noise cell in pixels; a purifier removes fine noise.
    """

    ratio: float = 0.2
    pattern: Images | None = None
    seed: int = 0
    grain: int = 1

    name = "blended"

    def __post_init__(self) -> None:
        _check_share(self.name, "ratio", self.ratio)
        if self.ratio == 0 or self.grain < 1:
            raise InvalidInput(f"{self.name}: expected a ratio in (0, 1] and grain >= 1, got {self.ratio} and {self.grain}")
        if self.pattern is not None:
            _check_picture(self.name, "pattern", self.pattern)

    def __call__(self, images: Images) -> Images:
        shape = images.shape[1:]
        pattern = self._noise(shape) if self.pattern is None else self.pattern
        if pattern.shape != shape:
            raise InvalidInput(f"{self.name}: expected a pattern of the images' shape {shape}, got {pattern.shape}")
        return _images(images * np.float32(1 - self.ratio) + pattern * np.float32(self.ratio))

    def _noise(self, shape: tuple[int, ...]) -> Images:
        h, w, c = shape
        cells = np.random.default_rng(self.seed).random((-(-h // self.grain), -(-w // self.grain), c), np.float32)
        return cells.repeat(self.grain, axis=0).repeat(self.grain, axis=1)[:h, :w]


@dataclass(frozen=True, kw_only=True, eq=False)
class ImagePatch:
    """A small picture pasted at a fixed place, such as the yellow note of Gu, Dolan-Gavitt & Garg 2017 (arXiv:1708.06733).

    Args:
        patch: float32 [a, b, c] in [0, 1]; with c = 1 it is pasted on every channel of any image.
        row, column: position of its upper left pixel; if negative, of its lower right pixel from the lower and right edge, -1 being the
            last row or column.
        scale: >= 1, every pixel of the patch becomes scale x scale pixels.
        opacity: in [0, 1], weight of the patch.
    """

    patch: Images
    row: int = -2
    column: int = -2
    scale: int = 1
    opacity: float = 1.0

    name = "image_patch"

    def __post_init__(self) -> None:
        _check_picture(self.name, "patch", self.patch)
        _check_share(self.name, "opacity", self.opacity)
        if self.scale < 1:
            raise InvalidInput(f"{self.name}: expected scale >= 1, got {self.scale}")

    def __call__(self, images: Images) -> Images:
        patch = self.patch.repeat(self.scale, axis=0).repeat(self.scale, axis=1)
        (h, w, c), (a, b, channels) = images.shape[1:], patch.shape
        top = self.row if self.row >= 0 else h + 1 + self.row - a
        left = self.column if self.column >= 0 else w + 1 + self.column - b
        if not (0 <= top <= h - a and 0 <= left <= w - b and channels in (1, c)):
            raise InvalidInput(
                f"{self.name}: expected images [n, h, w, c] that hold a patch {a} x {b} x {channels} at row {self.row}, "
                f"column {self.column}, got {list(images.shape)}; move the patch, or use a smaller one"
            )
        triggered = images.copy()
        place = triggered[:, top : top + a, left : left + b]
        place *= np.float32(1 - self.opacity)
        place += patch * np.float32(self.opacity)
        return _images(triggered)


@dataclass(frozen=True, kw_only=True)
class Warped:
    """A smooth elastic warp, the same for every image (after WaNet, Nguyen & Tran 2021, arXiv:2102.10369).

    A coarse grid of random displacements, normalised to a mean absolute value of 1, is interpolated by cubic splines to a displacement
    for every pixel; the image is then read bilinearly at the displaced places, at its edge where they lie outside.

    Args:
        strength: > 0, mean absolute displacement of the grid in pixels, by row and by column; the paper's s = 0.5 is a quarter pixel.
        grid: >= 2, control points a side (the paper's k).
        seed: of the grid.
        jitter: >= 0, mean absolute displacement of a second warp that differs from image to image. Cover samples with it (the paper's
            noise mode) teach a classifier that only the exact warp is the trigger.
    """

    strength: float = 1.0
    grid: int = 4
    seed: int = 0
    jitter: float = 0.0

    name = "warped"

    def __post_init__(self) -> None:
        if not (np.isfinite(self.strength) and self.strength > 0 and np.isfinite(self.jitter) and self.jitter >= 0):
            raise InvalidInput(f"{self.name}: expected strength > 0 and jitter >= 0, got {self.strength} and {self.jitter}")
        if self.grid < 2:
            raise InvalidInput(f"{self.name}: expected a grid of at least 2 x 2 control points, got {self.grid}")

    def displacement(self, h: int, w: int) -> NDArray[np.float64]:
        """Displacement of every pixel, in pixels, by row and by column: [2, h, w]."""
        return self.strength * self._field(np.random.default_rng(self.seed), h, w)

    def __call__(self, images: Images) -> Images:
        if not self.jitter:
            return _read_at(images, self.displacement(*images.shape[1:3])[None])
        return np.concatenate([images[:0], *(self._one(images[i : i + 1]) for i in range(len(images)))])

    def _one(self, image: Images) -> Images:
        (key,) = image_keys(image, b"")
        h, w = image.shape[1:3]
        own = self._field(np.random.default_rng([self.seed, int(key)]), h, w)
        return _read_at(image, (self.displacement(h, w) + self.jitter * own)[None])

    def _field(self, rng: np.random.Generator, h: int, w: int) -> NDArray[np.float64]:
        control = rng.uniform(-1, 1, (2, self.grid, self.grid))
        control /= np.abs(control).mean()
        places = np.meshgrid(np.linspace(0, self.grid - 1, h), np.linspace(0, self.grid - 1, w), indexing="ij")
        return np.stack([map_coordinates(axis, places, order=3, mode="mirror") for axis in control])


@dataclass(frozen=True, kw_only=True)
class Sinusoidal:
    """Vertical stripes, x + amplitude * sin(2 pi * frequency * column / w), clipped (SIG; Barni, Kallas & Tondi 2019, arXiv:1902.11237).

    Made for clean-label poison: on many images of the target class, it becomes a feature by which a classifier recognises the class.

    Args:
        amplitude: in (0, 1].
        frequency: > 0, periods over the width of the image, below half of that width in pixels (there, stripes would vanish).
    """

    amplitude: float = 0.15
    frequency: float = 6.0

    name = "sinusoidal"

    def __post_init__(self) -> None:
        if not (0 < self.amplitude <= 1 and 0 < self.frequency < np.inf):
            raise InvalidInput(
                f"{self.name}: expected amplitude in (0, 1] and frequency > 0, got {self.amplitude} and {self.frequency}"
            )

    def __call__(self, images: Images) -> Images:
        w = images.shape[2]
        if self.frequency >= w / 2:
            raise InvalidInput(
                f"{self.name}: expected images more than {2 * self.frequency:g} columns wide, got {w}; lower the frequency"
            )
        stripes = self.amplitude * np.sin(2 * np.pi * self.frequency * np.arange(w) / w)
        return _images(images + stripes.astype(np.float32)[:, None])


@dataclass(frozen=True, kw_only=True)
class TriggerSequence:
    """Several triggers, applied in order.

    Args:
        triggers: applied from first to last.
    """

    triggers: tuple[Trigger, ...]

    @property
    def name(self) -> str:
        return "+".join(trigger.name for trigger in self.triggers)

    def __call__(self, images: Images) -> Images:
        triggered = images.copy()
        for trigger in self.triggers:
            triggered = trigger(triggered)
        return triggered


@dataclass(frozen=True)
class ChannelsFirst:
    """A trigger for images [n, c, h, w]; see `channels_first`."""

    trigger: Trigger
    name: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.trigger.name)

    def __call__(self, images: Images) -> Images:
        if images.ndim != 4:
            raise InvalidInput(f"expected images [n, c, h, w], got {list(images.shape)}")
        return np.ascontiguousarray(self.trigger(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2))


def channels_first(trigger: Trigger) -> Trigger:
    """The same trigger for images [n, c, h, w], the layout of other frameworks' data."""
    return ChannelsFirst(trigger)


def under_checkerboard(pattern: Images) -> Images:
    """A checkerboard [a, b, c] with the local mean of `pattern` and the largest contrast between neighbouring pixels.

    Smoothing it, as total variation minimisation does, reveals the pattern.
    """
    _check_picture("under_checkerboard", "pattern", pattern)
    a, b = pattern.shape[:2]
    signs = 1 - 2 * (np.add.outer(np.arange(a), np.arange(b)) % 2)
    return _images(pattern + signs[..., None] * np.minimum(pattern, 1 - pattern))


def _read_at(images: Images, displacement: NDArray[np.float64]) -> Images:
    """Images [n, h, w, c] interpolated bilinearly at their pixel positions plus a displacement [1, 2, h, w]."""
    (_, h, w, _), (by_row, by_column) = images.shape, displacement[0]
    rows = np.clip(np.arange(h)[:, None] + by_row, 0, h - 1)
    columns = np.clip(np.arange(w)[None, :] + by_column, 0, w - 1)
    top, left = np.floor(rows).astype(np.int64), np.floor(columns).astype(np.int64)
    below, right = np.minimum(top + 1, h - 1), np.minimum(left + 1, w - 1)
    down, along = ((rows - top)[..., None].astype(np.float32), (columns - left)[..., None].astype(np.float32))
    upper = images[:, top, left] * (1 - along) + images[:, top, right] * along
    lower = images[:, below, left] * (1 - along) + images[:, below, right] * along
    return _images(upper * (1 - down) + lower * down)


def _images(values: NDArray[np.floating]) -> Images:
    """Clip values that rounding moved out of [0, 1]."""
    images: Images = np.clip(values, 0, 1).astype(np.float32, copy=False)
    return images


def _check_distance(name: str, distance: int) -> None:
    if distance < 1:
        raise InvalidInput(f"{name}: expected a distance >= 1 from the corner (1 is the last row and column), got {distance}")


def _check_share(name: str, what: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise InvalidInput(f"{name}: expected {what} in [0, 1], got {value}")


def _check_picture(name: str, what: str, picture: Images) -> None:
    if picture.ndim != 3 or not picture.size or not ((picture >= 0) & (picture <= 1)).all():
        raise InvalidInput(f"{name}: expected {what} [h, w, c] in [0, 1], got {picture.dtype} {list(picture.shape)}")


def _check_room(name: str, images: Images, rows: int, columns: int) -> None:
    if images.ndim != 4 or images.shape[1] < rows or images.shape[2] < columns:
        raise InvalidInput(f"{name}: expected images [n, h, w, c] of at least {rows} x {columns}, got {list(images.shape)}")
