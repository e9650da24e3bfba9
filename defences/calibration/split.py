"""The clean data of a calibration, split once for all of it, and the terms that every detector is fitted on.

Overlay weight, slack and stages are chosen on one part, and the threshold is read off the other, so that the conformal guarantee holds
for it (`defences/calibration/conformal.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from defences.calibration.conformal import scores_needed
from defences.calibration.effort import CHOOSING_IMAGES, FULL, Effort
from defences.errors import CannotBeFitted, InvalidInput
from models.classifier import Images
from models.image_rows import ImageRows, Samples
from models.progress import Progress, silent

IMAGES_AT_LEAST = 300
CHOOSING_AT_MOST = CHOOSING_IMAGES
EVASION_EPS = 0.3
_ROWS_PER_FORWARD = 1024
_NUMBERS_PER_FORWARD = 1 << 22


Purify = Callable[[Images], Images]
"""Images -> those that the gateway gives to the classifier in their place."""


def unpurified(images: Images) -> Images:
    """The images as they are."""
    return images


def _not_left_out(name: str, reason: CannotBeFitted) -> None:
    raise reason


@dataclass(frozen=True, kw_only=True)
class Terms:
    """The terms of a calibration, the same for every detector.

    Args:
        rate: of clean images that may be refused; `confidence` as in `conformal_rank`. Held scores beyond that rank do not matter.
        seed: of everything drawn.
        evasion_eps: size of the attacks (L-inf) that detectors of evasion are trained on, > 0.
        progress: called with the progress of each step.
        effort: how much is looked at.
        budgets: of the rate, by detector (`joint_thresholds`); equal ones when none are given.
        purified: images as the gateway gives them to the classifier, for detectors that look at what it makes of them.
        leave_out: called with the name of a detector that cannot be fitted, and why; raises that when none is given.
        patch: rows and columns of the largest patch that masks shall cover; none without.

    Raises: InvalidInput on construction: an evasion_eps that is no size.
    """

    rate: float
    confidence: float | None = None
    seed: int = 0
    evasion_eps: float = EVASION_EPS
    progress: Progress = silent
    effort: Effort = FULL
    budgets: Mapping[str, float] | None = None
    purified: Purify = unpurified
    leave_out: Callable[[str, CannotBeFitted], None] = _not_left_out
    patch: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.evasion_eps) and self.evasion_eps > 0):
            raise InvalidInput(f"evasion detectors: expected eps > 0, got {self.evasion_eps!r}")


def rows_per_forward(images: ImageRows) -> int:
    """How many rows of this size go into one forward call of calibration: bounded in bytes, at least one."""
    return max(1, min(_ROWS_PER_FORWARD, _NUMBERS_PER_FORWARD // int(np.prod(images.shape[1:]))))


@dataclass(frozen=True)
class CalibrationSplit:
    """Clean data in two parts: one to choose on, one to read the threshold off."""

    choosing: Samples
    holding: Samples


def images_needed(rate: float, confidence: float | None) -> int:
    """Clean images with which the guarantee holds, whatever share of them is chosen on."""
    return max(scores_needed(rate, confidence) * 3 // 2 + 1, IMAGES_AT_LEAST)


def split(
    data: Samples, *, rate: float, confidence: float | None, seed: int, choosing_at_most: int = CHOOSING_AT_MOST
) -> CalibrationSplit:
    """Shuffle and split: a third, but no more than of use, to choose on. Raises: InvalidInput: too few images for the guarantee."""
    if len(data) < IMAGES_AT_LEAST:
        raise InvalidInput(f"expected at least {IMAGES_AT_LEAST} clean images to calibrate on, got {len(data)}")
    choosing = min(len(data) // 3, choosing_at_most)
    needed = scores_needed(rate, confidence)
    if len(data) - choosing < needed:
        promise = f"rate {rate:g}" + ("" if confidence is None else f" with confidence {confidence:g}")
        raise InvalidInput(
            f"expected at least {images_needed(rate, confidence)} clean images for a false abstention {promise}, "
            f"got {len(data)}; give more images or allow a higher rate"
        )
    order = np.random.default_rng(seed).permutation(len(data))
    return CalibrationSplit(data.take(order[:choosing]), data.take(order[choosing:]))
