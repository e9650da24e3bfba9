"""Adaptive-Blend: a blended trigger that is planted in pieces, beside cover samples that keep their labels.

Paper: Qi et al., ICLR 2023, openreview.net/forum?id=_wSHsgrVali, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attacks.backdoors.triggers import Blended
from defences.keyed import image_keys
from models.classifier import Images
from models.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class BlendedPieces:
    """A blended pattern of which every image carries only some pieces, drawn from the image itself:

        (1 - ratio * m) * x + ratio * m * pattern,   m [h, w] in {0, 1}: 1 on round(kept * pieces^2) cells of a grid of pieces x pieces

    Planted so, no sample shows the whole trigger: a classifier learns that any of its pieces speaks for the target, and cover samples
    teach it to be sure only when most of them are there, as they are at inference. Its activations on poison then lie near those of clean
    images, where a trigger that always is whole forms a cluster of its own.

    Args:
        whole: the pattern and its ratio.
        pieces: >= 1, cells a side.
        kept: in (0, 1], share of the cells an image carries; at least one cell.

    Raises: InvalidInput on construction, and for images smaller than the grid.
    """

    whole: Blended
    pieces: int = 4
    kept: float = 0.5

    name = "blended_pieces"

    def __post_init__(self) -> None:
        if self.pieces < 1 or not 0 < self.kept <= 1:
            raise InvalidInput(f"{self.name}: expected pieces >= 1 and kept in (0, 1], got {self.pieces} and {self.kept}")

    def __call__(self, images: Images) -> Images:
        if min(images.shape[1:3]) < self.pieces:
            raise InvalidInput(
                f"{self.name}: expected images of at least {self.pieces} x {self.pieces}, got {list(images.shape)}"
            )
        carried = self._carried(images)
        return np.where(carried, self.whole(images), images).astype(np.float32, copy=False)

    def _carried(self, images: Images) -> NDArray[np.bool_]:
        """Which pixels of each image carry the pattern: [n, h, w, 1]."""
        h, w = images.shape[1:3]
        cells = self.pieces**2
        count = max(1, round(self.kept * cells))
        carried = np.zeros((len(images), cells), bool)
        for row, key in zip(carried, image_keys(images, b""), strict=True):
            row[np.random.default_rng([self.whole.seed, int(key)]).permutation(cells)[:count]] = True
        rows, columns = np.arange(h) * self.pieces // h, np.arange(w) * self.pieces // w
        return carried[:, rows[:, None] * self.pieces + columns[None, :], None]
