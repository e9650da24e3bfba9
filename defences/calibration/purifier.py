"""Choose the strongest purifier that costs a classifier next to no accuracy, on clean data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from defences.keyed import image_keys
from defences.purifiers.total_variation import TotalVariation
from models.accuracy import drawn
from models.classifier import Classifier, Images
from models.image_rows import Samples, blocks
from models.progress import CountedSteps, Progress, silent

ACCURACY_POINTS_AT_MOST = 0.5
_NOISY_IMAGES = 256
# Weight times sqrt(h * w): the same number looks the same at every size (see TotalVariation). Strongest first.
_STRENGTHS = (2.0, 1.7, 1.4, 1.2, 1.0, 0.85, 0.7, 0.6, 0.5, 0.4)
# A purifier that moves noisy images by less than this share of the noise counts as none.
_MOVES_AT_LEAST = 0.1
_NOISE, _HEAVY_NOISE = 0.1, 0.3
_ONE_SIDED_95 = 1.645


@dataclass(frozen=True)
class Paired:
    """Percentage points of accuracy lost on the same images, with the standard error of the paired difference."""

    lost_points: float
    standard_error_points: float

    @property
    def at_most(self) -> float:
        """One-sided 95 % upper bound of the loss."""
        return self.lost_points + _ONE_SIDED_95 * self.standard_error_points

    @property
    def harms(self) -> bool:
        """Whether something was lost beyond chance: the one-sided 95 % lower bound is above 0."""
        return self.lost_points > _ONE_SIDED_95 * self.standard_error_points


@dataclass(frozen=True)
class PurifierTrial:
    """One purifier, measured.

    Attributes:
        accuracy, clean: accuracy on purified clean images, and the loss.
        noisy: the loss on images under heavy noise (random signs of 0.3), compared with the same images not purified.
        moves: how far it moves noisy images, in units of the noise.
    """

    weight: float
    accuracy: float
    clean: Paired
    noisy: Paired
    moves: float

    @property
    def affordable(self) -> bool:
        """Whether it costs next to nothing on clean images and does not make noisy ones worse.

        A robust classifier was trained on noisy images, and may be worse at noisy images that a strong purifier has smoothed.
        """
        return self.clean.at_most <= ACCURACY_POINTS_AT_MOST and not self.noisy.harms and self.acts

    @property
    def acts(self) -> bool:
        return self.moves >= _MOVES_AT_LEAST


@dataclass(frozen=True)
class PurifierChoice:
    """The chosen purifier with its mode, the reason, and every trial."""

    purifier: TotalVariation
    mode: Literal["enforce", "monitor"]
    reason: str
    undefended_accuracy: float
    trials: tuple[PurifierTrial, ...]

    def purified(self, images: Images) -> Images:
        """What the gateway gives to the classifier: images purified where the purifier enforces, else as they are."""
        return _purified(images, self.purifier) if self.mode == "enforce" else images


def choose_purifier(
    classifier: Classifier, data: Samples, *, threads: int = 1, images_at_most: int | None = None, progress: Progress = silent
) -> PurifierChoice:
    """The strongest purifier that costs at most half a point of clean accuracy, with 95 % confidence, and none under noise beyond chance.

    Args:
        images_at_most: to choose on, drawn at random; all when none.

    Cost: two model calls per image, and two for each of the strengths tried, strongest first, until one is affordable. Images are read
    and changed a block at a time.
    """
    if images_at_most is not None:
        data = data.take(drawn(len(data), at_most=images_at_most))
    done = CountedSteps(progress, "purifier", 2 * (1 + len(_STRENGTHS)) * len(data))
    passes = _Passes(classifier, data, done)
    raw_hits, noisy_hits = passes.hits(), passes.hits(noise=_HEAVY_NOISE)
    few = data.images[: min(_NOISY_IMAGES, next(blocks(data.images)).stop)]
    trials: list[PurifierTrial] = []
    chosen = 0
    for number, strength in enumerate(_STRENGTHS):
        weight = round(strength / float(np.sqrt(np.prod(classifier.input_shape[:2]))), 4)
        purifier = TotalVariation(weight=weight, threads=threads)
        hits, noisy_and_purified = passes.hits(purifier), passes.hits(purifier, noise=_HEAVY_NOISE)
        paired = _paired(raw_hits, hits), _paired(noisy_hits, noisy_and_purified)
        trials.append(PurifierTrial(weight, float(hits.mean()), *paired, _moves(few, purifier)))
        if trials[-1].affordable or not trials[-1].acts:
            break
        chosen = number
    done.end()
    undefended = float(raw_hits.mean())
    budget = f"at most {ACCURACY_POINTS_AT_MOST} points of clean accuracy and none under noise"
    if trials[-1].affordable:
        last = trials[-1]
        reason = f"the strongest of {len(_STRENGTHS)} strengths that costs {budget}: {_told(last)}"
        return PurifierChoice(TotalVariation(weight=last.weight, threads=threads), "enforce", reason, undefended, tuple(trials))
    mildest = trials[chosen]
    reason = (
        f"no purifier that acts costs {budget} (the mildest: {_told(mildest)}), so it only monitors; "
        "train the classifier on purified images (hauberk train does) to enforce one"
    )
    return PurifierChoice(TotalVariation(weight=mildest.weight, threads=threads), "monitor", reason, undefended, tuple(trials))


def _told(trial: PurifierTrial) -> str:
    return (
        f"{trial.clean.lost_points:.2f} points lost, standard error {trial.clean.standard_error_points:.2f}; "
        f"under noise {trial.noisy.lost_points:.2f}, {trial.noisy.standard_error_points:.2f}"
    )


class _Passes:
    """Passes of a classifier over the same images, image by image `done`."""

    def __init__(self, classifier: Classifier, data: Samples, done: CountedSteps) -> None:
        self._classifier, self._data, self._done = classifier, data, done

    def hits(self, purifier: TotalVariation | None = None, *, noise: float = 0.0) -> NDArray[np.bool_]:
        """On which images [n], under noise of this size and then purified, the classifier is right. The noise is the same every time."""
        signs, found = np.random.default_rng(0), []
        for block in blocks(self._data.images):
            images = self._data.images[block]
            if noise:
                images = _noisy(images, noise, signs)
            if purifier is not None:
                images = _purified(images, purifier)
            found.append(self._classifier.predict(images).argmax(axis=1) == self._data.labels[block])
            self._done.add(len(images))
        return np.concatenate(found)


def _purified(images: Images, purifier: TotalVariation) -> Images:
    return purifier(images, image_keys(images, b""))


def _paired(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> Paired:
    lost, gained, n = int((before & ~after).sum()), int((~before & after).sum()), len(before)
    error = np.sqrt(max(lost + gained - (lost - gained) ** 2 / n, 0.0)) / n
    return Paired(100 * (lost - gained) / n, 100 * float(error))


def _noisy(images: Images, size: float, rng: np.random.Generator) -> Images:
    """Under random signs of this size."""
    signs = rng.choice(np.array([-size, size], np.float32), images.shape)
    noisy: Images = np.clip(images + signs, 0, 1)
    return noisy


def _moves(images: Images, purifier: TotalVariation) -> float:
    """How far images with a random sign noise of 0.1 are moved, over the L2 norm of the noise."""
    noisy = _noisy(images, _NOISE, np.random.default_rng(0))
    return float(np.linalg.norm(_purified(noisy, purifier) - noisy) / np.linalg.norm(noisy - images))
