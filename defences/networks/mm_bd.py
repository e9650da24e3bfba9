"""The largest margin that any image has for a class: a backdoor lets its target have a larger one than other classes.

Paper: Wang, Xiang, Miller & Kesidis 2024 (MM-BD), arXiv:2205.06900.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from defences.networks.margins import margin
from models.classifier import DifferentiableClassifier
from models.progress import CountedSteps

_FIRST_STEP, _LAST_STEP = 0.3, 0.01


def largest_margins(
    classifier: DifferentiableClassifier, *, starts: int, steps: int, rng: np.random.Generator, counted: CountedSteps
) -> NDArray[np.float64]:
    """max_x z_t(x) - max_{i != t} z_i(x) over images x in [0, 1], [k] of k classes t, by gradient ascent from random images.

    Steps are of the gradient's sign, as large at first as a third of the range: the largest margin is near a corner of the cube. The
    best of all starts and steps counts. Cost: starts * steps * k forward and backward passes.
    """
    k, shape = len(classifier.labels), classifier.input_shape
    images, labels = rng.random((k * starts, *shape), np.float32), np.repeat(np.arange(k), starts)
    best = np.full(k * starts, -np.inf)
    for step in np.linspace(_FIRST_STEP, _LAST_STEP, steps, dtype=np.float32):
        found = classifier.loss_gradient(images, labels, margin)
        best = np.maximum(best, found.loss)
        images = np.clip(images + step * np.sign(found.gradient), 0, 1)
        counted.add(len(images))
    largest: NDArray[np.float64] = best.reshape(k, starts).max(axis=1)
    return largest
