"""The largest margin that any image has for a class: a backdoor may let its target have a larger one than the other classes.

Paper: Wang, Xiang, Miller & Kesidis 2024 (MM-BD), arXiv:2205.06900.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from defences.networks.margins import margin
from models.classifier import DifferentiableClassifier, Labels
from models.progress import CountedSteps

_FIRST_STEP, _LAST_STEP = 0.3, 0.01


def largest_margins(
    classifier: DifferentiableClassifier,
    classes: Labels,
    *,
    starts: int,
    steps: int,
    rng: np.random.Generator,
    counted: CountedSteps,
) -> NDArray[np.float64]:
    """max_x z_t(x) - max_{i != t} z_i(x) over images x in [0, 1], [m] of m classes t, by gradient ascent from random images.

    Steps are of the gradient's sign, as large at first as a third of the range: the largest margin is near a corner of the cube. The
    best of all starts and steps counts. Cost: starts * steps * m forward and backward passes.
    """
    images = rng.random((len(classes) * starts, *classifier.input_shape), np.float32)
    labels = np.repeat(classes, starts)
    best = np.full(len(labels), -np.inf)
    for step in np.linspace(_FIRST_STEP, _LAST_STEP, steps, dtype=np.float32):
        found = classifier.loss_gradient(images, labels, margin)
        best = np.maximum(best, found.loss)
        images = np.clip(images + step * np.sign(found.gradient), 0, 1)
        counted.add(len(images))
    largest: NDArray[np.float64] = best.reshape(-1, starts).max(axis=1)
    return largest
