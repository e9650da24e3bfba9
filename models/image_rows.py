"""Images that are read row by row, in memory, packed or on disk, so that a data set never has to be whole as float32.

1,000 images of 224x224x3 take 602 MB as float32, and 151 MB as the bytes that pictures are. What walks over many images takes `ImageRows`
and indexes a block at a time; an array of images is one already.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.classifier import Classifier, Images, Labels
from models.errors import InvalidInput

Rows = NDArray[np.int64] | slice
_NUMBERS_PER_BLOCK = 1 << 21


class ImageRows(Protocol):
    """Images [n, h, w, c], of which some are read at a time: `images[rows]` is float32 in [0, 1]."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Any: ...


class Samples(Protocol):
    """Labelled images, as `Dataset` and `PackedDataset` are."""

    @property
    def images(self) -> ImageRows: ...

    @property
    def labels(self) -> Labels: ...

    def __len__(self) -> int: ...

    def take(self, rows: Rows, /) -> Samples:
        """The samples at `rows`, in that order."""
        ...


@dataclass(frozen=True, eq=False)
class PackedImages:
    """Images as they are stored, converted where they are read.

    Args:
        raw: uint8, or float within 0..1, [n, h, w] or [n, h, w, c], in memory or mapped.
        rows: which of them these are, in order; all when not given.
        name: of their file, for messages.
    """

    raw: NDArray[Any]
    rows: NDArray[np.int64] | None = None
    name: str = "the data"

    def __len__(self) -> int:
        return len(self.raw) if self.rows is None else len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        _, h, w, *c = self.raw.shape
        return len(self), h, w, c[0] if c else 1

    def __getitem__(self, rows: Rows) -> Images:
        """These images, float32 [m, h, w, c]. Raises: InvalidInput: float values outside [0, 1] or NaN."""
        return unit_images(np.asarray(self.raw[rows if self.rows is None else self.rows[rows]]), self.name)

    def take(self, rows: Rows) -> PackedImages:
        """Some of them, not read yet."""
        return replace(self, rows=(np.arange(len(self.raw)) if self.rows is None else self.rows)[rows])


@dataclass(frozen=True)
class PackedDataset:
    """Packed images and their class indices int64 [n]."""

    images: PackedImages
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Rows) -> PackedDataset:
        """The samples at `rows`, in that order; nothing is copied."""
        return PackedDataset(self.images.take(rows), self.labels[rows])


def unit_images(raw: NDArray[Any], name: str) -> Images:
    """Stored images [n, h, w] or [n, h, w, c] as float32 [n, h, w, c] in [0, 1]. Raises: InvalidInput: outside of it, or NaN."""
    if raw.dtype == np.uint8:
        scaled = raw.astype(np.float32) / np.float32(255)
    else:
        with np.errstate(over="ignore"):
            scaled = raw.astype(np.float32)
        if not ((scaled >= 0) & (scaled <= 1)).all():  # NaN fails both comparisons
            raise InvalidInput(f"expected float images within 0..1 in {name}; divide by 255, or store uint8")
    return scaled[..., None] if scaled.ndim == 3 else scaled


def blocks(images: ImageRows, *, numbers_at_most: int = _NUMBERS_PER_BLOCK) -> Iterator[slice]:
    """Slices that cover the images, each of at most so many numbers (8 MiB of float32), and of one image at least."""
    at_once = max(1, numbers_at_most // int(np.prod(images.shape[1:])))
    return (slice(start, min(start + at_once, len(images))) for start in range(0, len(images), at_once))


def outputs_for(classifier: Classifier, images: ImageRows) -> NDArray[np.float32]:
    """The classifier's probabilities [n, k] for all images, read a block at a time."""
    found = [classifier.predict(images[block]) for block in blocks(images)]
    return np.concatenate(found) if found else np.empty((0, len(classifier.labels)), np.float32)


def answers_for(classifier: Classifier, images: ImageRows) -> Labels:
    """The classifier's most probable classes [n]."""
    answers: Labels = outputs_for(classifier, images).argmax(axis=1)
    return answers
