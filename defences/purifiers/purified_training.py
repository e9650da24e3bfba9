"""Training data with a purified copy of each image, as the purifier that serves will show them to the classifier."""

from __future__ import annotations

import numpy as np

from defences.keyed import image_keys
from defences.purifiers.total_variation import TotalVariation
from models.datasets import Dataset

# Weight times sqrt(h * w). Several strengths, so that the classifier does not learn a single one, and calibration can choose the
# strongest without loss of accuracy.
_STRENGTHS = (1.0, 1.4, 2.0)


def with_purified_copies(data: Dataset, *, seed: int, threads: int = 1) -> Dataset:
    """Twice the data: every image as it is and purified, at a strength drawn per image.

    Args:
        seed: of the draw.
    """
    h, w = data.images.shape[1:3]
    drawn = np.random.default_rng(seed).integers(0, len(_STRENGTHS), len(data))
    purified = np.empty_like(data.images)
    for number, strength in enumerate(_STRENGTHS):
        rows = np.flatnonzero(drawn == number)
        purifier = TotalVariation(weight=strength / float(np.sqrt(h * w)), threads=threads)
        purified[rows] = purifier(data.images[rows], image_keys(data.images[rows], b""))
    return Dataset(np.concatenate([data.images, purified]), np.concatenate([data.labels, data.labels]))
