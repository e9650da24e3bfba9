"""Fit the purifier to a classifier on clean data, and split that data for all of calibration.

The data is split once: what is *chosen* (overlay weight, slack, stages) is chosen on one part, and the threshold is read off the other,
so that the conformal guarantee holds for it (`defences/conformal.py`). STRIP's half is `strip_calibration.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from defences.conformal import scores_needed
from defences.errors import InvalidInput
from defences.keyed import image_keys
from defences.total_variation import TotalVariation
from models.classifier import Classifier, Images
from models.datasets import Dataset

IMAGES_AT_LEAST = 300
ACCURACY_POINTS_AT_MOST = 0.5
_CHOOSING_AT_MOST = 1000
_NOISY_IMAGES = 256
# Weight times sqrt(h * w): the same number looks the same at every size (see TotalVariation). Strongest first.
_STRENGTHS = (2.0, 1.7, 1.4, 1.2, 1.0, 0.85, 0.7, 0.6, 0.5, 0.4)
# A purifier that moves noisy images by less than this share of the noise is a no-op under another name.
_MOVES_AT_LEAST = 0.1
_NOISE = 0.1
_ONE_SIDED_95 = 1.645

Progress = Callable[[str, int, int], None]
"""Told (what, done, of)."""


def silent(what: str, done: int, of: int) -> None:
    """Report to nobody."""


@dataclass(frozen=True)
class Split:
    """Clean data in two parts: one to choose on, one to read the threshold off."""

    choosing: Dataset
    holding: Dataset


def split(data: Dataset, *, rate: float, confidence: float | None, seed: int) -> Split:
    """Shuffle and split: a third (at most 1,000) to choose on. Raises: InvalidInput: too few images for the guarantee."""
    if len(data) < IMAGES_AT_LEAST:
        raise InvalidInput(f"expected at least {IMAGES_AT_LEAST} clean images to calibrate on, got {len(data)}")
    choosing = min(len(data) // 3, _CHOOSING_AT_MOST)
    needed = scores_needed(rate, confidence)
    if len(data) - choosing < needed:
        promise = f"rate {rate:g}" + ("" if confidence is None else f" with confidence {confidence:g}")
        raise InvalidInput(
            f"expected at least {max(needed * 3 // 2 + 1, IMAGES_AT_LEAST)} clean images for a false abstention {promise}, "
            f"got {len(data)}; give more images or allow a higher rate"
        )
    order = np.random.default_rng(seed).permutation(len(data))
    return Split(data.take(order[:choosing]), data.take(order[choosing:]))


@dataclass(frozen=True)
class PurifierTrial:
    """One purifier, measured.

    Attributes:
        lost_points: percentage points of clean accuracy, with the standard error of the paired difference.
        moves: how far it moves noisy images, in units of the noise.
    """

    weight: float
    accuracy: float
    lost_points: float
    standard_error_points: float
    moves: float

    @property
    def lost_points_bound(self) -> float:
        """One-sided 95 % upper bound of what the purifier costs: the choice must hold on images it was not made on."""
        return self.lost_points + _ONE_SIDED_95 * self.standard_error_points

    @property
    def affordable(self) -> bool:
        return self.lost_points_bound <= ACCURACY_POINTS_AT_MOST and self.acts

    @property
    def acts(self) -> bool:
        return self.moves >= _MOVES_AT_LEAST


@dataclass(frozen=True)
class PurifierChoice:
    """The purifier taken, in which mode, why, and every trial behind it."""

    purifier: TotalVariation
    mode: Literal["enforce", "monitor"]
    reason: str
    undefended_accuracy: float
    trials: tuple[PurifierTrial, ...]


def choose_purifier(classifier: Classifier, data: Dataset, *, threads: int = 1, progress: Progress = silent) -> PurifierChoice:
    """The strongest purifier that costs at most half a point of clean accuracy, with 95 % confidence.

    Cost: one model call per image for each of the strengths tried, strongest first, until one is affordable.
    """
    raw_hits = classifier.predict(data.images).argmax(axis=1) == data.labels
    trials: list[PurifierTrial] = []
    chosen = 0
    for number, strength in enumerate(_STRENGTHS):
        progress("purifier", number, len(_STRENGTHS))
        weight = round(strength / float(np.sqrt(np.prod(classifier.input_shape[:2]))), 4)
        trials.append(_try_purifier(classifier, data, raw_hits, TotalVariation(weight=weight, threads=threads)))
        if trials[-1].affordable or not trials[-1].acts:
            break
        chosen = number
    progress("purifier", len(_STRENGTHS), len(_STRENGTHS))
    undefended = float(raw_hits.mean())
    if trials[-1].affordable:
        last = trials[-1]
        reason = (
            f"the strongest of {len(_STRENGTHS)} strengths that costs at most {ACCURACY_POINTS_AT_MOST} points of clean accuracy: "
            f"{last.lost_points:.2f} points lost, standard error {last.standard_error_points:.2f}"
        )
        return PurifierChoice(TotalVariation(weight=last.weight, threads=threads), "enforce", reason, undefended, tuple(trials))
    mildest = trials[chosen]
    reason = (
        f"no purifier that acts costs at most {ACCURACY_POINTS_AT_MOST} points of clean accuracy (the mildest: "
        f"{mildest.lost_points:.2f} points, standard error {mildest.standard_error_points:.2f}), so it only monitors; "
        "train the classifier on purified images (hauberk train does) to enforce one"
    )
    return PurifierChoice(TotalVariation(weight=mildest.weight, threads=threads), "monitor", reason, undefended, tuple(trials))


def _try_purifier(classifier: Classifier, data: Dataset, raw_hits: NDArray[np.bool_], purifier: TotalVariation) -> PurifierTrial:
    keys = image_keys(data.images, b"")
    hits = classifier.predict(purifier(data.images, keys)).argmax(axis=1) == data.labels
    lost, gained = int((raw_hits & ~hits).sum()), int((~raw_hits & hits).sum())
    n = len(data)
    error = np.sqrt(max(lost + gained - (lost - gained) ** 2 / n, 0.0)) / n
    return PurifierTrial(
        weight=purifier.weight,
        accuracy=float(hits.mean()),
        lost_points=100 * (lost - gained) / n,
        standard_error_points=100 * float(error),
        moves=_moves(data.images[:_NOISY_IMAGES], purifier),
    )


def _moves(images: Images, purifier: TotalVariation) -> float:
    """How far images with a random sign noise of 0.1 are moved, over the L2 norm of the noise."""
    signs = np.random.default_rng(0).choice(np.array([-_NOISE, _NOISE], np.float32), images.shape)
    noisy = np.clip(images + signs, 0, 1)
    moved = purifier(noisy, image_keys(noisy, b"")) - noisy
    return float(np.linalg.norm(moved) / np.linalg.norm(noisy - images))
