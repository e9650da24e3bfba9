"""Training data with masked copies of each image, as PatchCleanser will show them to the classifier.

Paper: Cutout, DeVries & Taylor 2017, arXiv:1708.04552; with the masks of the detector, as Xiang et al. 2022, arXiv:2108.09135, train.
"""

from __future__ import annotations

import numpy as np

from defences.detectors.mask_set import MASKS, mask_boxes, mean_colour
from models.datasets import Dataset

_COPIES = 2
"""Of every image, each under another mask."""


def with_masked_copies(data: Dataset, patch: tuple[int, int], *, seed: int) -> Dataset:
    """Three times the data: every image as it is, and under two of the masks that cover the patch, drawn for each.

    The masks have the mean colour of the data, as those of `hauberk calibrate` may have.

    Args:
        seed: of the draw.
    """
    boxes, colour = mask_boxes(data.images.shape[1:], patch), np.array(mean_colour(data.images), np.float32)
    rng, n = np.random.default_rng(seed), len(data)
    drawn = rng.permuted(np.tile(np.arange(MASKS), (n, 1)), axis=1)[:, :_COPIES].T.ravel()
    images = np.tile(data.images, (1 + _COPIES, 1, 1, 1))
    for row, (top, left, bottom, right) in enumerate(boxes[drawn], start=n):
        images[row, top:bottom, left:right] = colour
    return Dataset(images, np.tile(data.labels, 1 + _COPIES))
