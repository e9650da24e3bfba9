"""Training data with masked copies of each image, as PatchCleanser will show them to the classifier.

Paper: Cutout, DeVries & Taylor 2017, arXiv:1708.04552; with the masks of the detector, as Xiang et al. 2022, arXiv:2108.09135, train.
"""

from __future__ import annotations

import numpy as np

from defences.detectors.mask_set import MASKS, mask_boxes, mean_colour
from models.datasets import Dataset


def with_masked_copies(data: Dataset, patch: tuple[int, int], *, seed: int) -> Dataset:
    """Three times the data: every image as it is, under one of the nine masks that cover the patch, and under a part of one.

    The masks have the mean colour of the data, as those of `hauberk calibrate` may have.

    Args:
        seed: of the draw of masks.
    """
    boxes, colour = mask_boxes(data.images.shape[1:], patch), np.array(mean_colour(data.images), np.float32)
    rng, n = np.random.default_rng(seed), len(data)
    drawn = np.concatenate([rng.integers(0, MASKS, n), rng.integers(MASKS, len(boxes), n)])
    images = np.tile(data.images, (3, 1, 1, 1))
    for row, (top, left, bottom, right) in enumerate(boxes[drawn], start=n):
        images[row, top:bottom, left:right] = colour
    return Dataset(images, np.tile(data.labels, 3))
