"""Fit the defences to a classifier on clean data.

The data is split once: what is *chosen* (purifier, overlay weight, slack, stages) is chosen on one part, and the threshold is read off
the other, so that the conformal guarantee holds for it (`defences/conformal.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from defences.conformal import conformal_rank, conformal_threshold, scores_needed
from defences.errors import InvalidInput
from defences.keyed import Keys, image_keys, keyed_permutations
from defences.strip import Blend, Strip, entropy_bits
from defences.total_variation import TotalVariation
from models.classifier import Classifier, Images
from models.datasets import Dataset

IMAGES_AT_LEAST = 300
OVERLAYS_AT_MOST = 96
ACCURACY_POINTS_AT_MOST = 0.5
_CHOOSING_AT_MOST = 1000
_ROWS_PER_FORWARD = 1024
_NOISY_IMAGES = 256
# Weight times sqrt(h * w): the same number looks the same at every size (see TotalVariation). Strongest first.
_STRENGTHS = (2.0, 1.7, 1.4, 1.2, 1.0, 0.85, 0.7, 0.6, 0.5, 0.4)
# A purifier that moves noisy images by less than this share of the noise is a no-op under another name.
_MOVES_AT_LEAST = 0.1
_NOISE = 0.1
_ONE_SIDED_95 = 1.645
_OVERLAYS: tuple[tuple[Blend, float], ...] = (("add", 1.0), ("add", 0.5), ("add", 0.25), ("mix", 0.5))
# Where a first decision may fall; the later stages double until the bank is used up.
_FIRST_STAGES = (2, 3, 4)
# How many standard errors above the threshold a stage's mean must lie to let an image go.
_SLACK_ERRORS = (1.0, 1.5, 2.0, 3.0)
# What a clean image may cost on average: at 8 of 96 a defended prediction costs nine model calls.
_MEAN_OVERLAYS_AT_MOST = 8.0
# Where too few images are refused to see which of them leave early, the lowest twentieth stands in.
_TAIL = 0.05
# A threshold at which any overconfident classifier's clean images lie tells nothing about triggers.
_SEPARATES_BITS = 1e-4

Progress = Callable[[str, int, int], None]
"""Told (what, done, of)."""


def _silent(what: str, done: int, of: int) -> None:
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


def choose_purifier(classifier: Classifier, data: Dataset, *, threads: int = 1, progress: Progress = _silent) -> PurifierChoice:
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


@dataclass(frozen=True)
class OverlayTrial:
    """One way to overlay with one schedule of stages, measured on clean images.

    Attributes:
        threshold_bits: the rate-quantile of the full mean entropy.
        mean_overlays: what a clean image pays at that threshold.
        let_go: the share of the lowest twentieth that early exits would let go.
    """

    blend: Blend
    weight: float
    stages: tuple[int, ...] = ()
    slack_errors: float = 0.0
    threshold_bits: float = 0.0
    mean_overlays: float = 0.0
    let_go: float = 0.0


@dataclass(frozen=True)
class StripChoice:
    """STRIP as calibrated, in which mode, why, and the numbers behind it.

    Attributes:
        scores: float64 [n], the staged statistic of the held images the threshold was read off.
        mean_overlays: what a clean image pays on average.
    """

    strip: Strip
    mode: Literal["enforce", "monitor"]
    reason: str
    scores: NDArray[np.float64]
    mean_overlays: float
    false_abstentions: float
    chosen: OverlayTrial
    trials: tuple[OverlayTrial, ...]


def calibrate_strip(
    classifier: Classifier,
    parts: Split,
    *,
    rate: float,
    confidence: float | None = None,
    seed: int = 0,
    progress: Progress = _silent,
) -> StripChoice:
    """Choose overlay weight, stages and slack on one part of the data, and the threshold on the other.

    Args:
        rate: of clean images that may be refused; `confidence` as in `conformal_rank`.

    Cost: up to 96 model calls per image of either part for each overlay tried; most held images leave early.
    """
    rng = np.random.default_rng(seed)
    count = min(OVERLAYS_AT_MOST, len(parts.choosing) // 2)
    bank = np.rint(parts.choosing.images[:count] * 255).astype(np.uint8)
    choosing = parts.choosing.images[count:]
    drafts: list[_Draft] = []
    for number, (blend, weight) in enumerate(_OVERLAYS):
        strip = Strip(overlays=bank, threshold=0.0, stages=(count,), slack=(0.0,), weight=weight, blend=blend)
        done = _Told(progress, "overlays", number, len(_OVERLAYS))
        drafts += _drafts(strip, _entropies(strip, classifier, choosing, rng, done), rate)
    best = _best(drafts)
    held = parts.holding.images
    rank = conformal_rank(len(held), rate, confidence)
    scores = _staged_scores(best.strip, classifier, held, rank, rng, _Told(progress, "threshold", 0, 1))
    return _concluded(best, scores, rate, confidence, tuple(draft.trial for draft in drafts))


@dataclass(frozen=True)
class _Told:
    """A progress report that is part `number` of `parts`."""

    progress: Progress
    what: str
    number: int
    parts: int

    def __call__(self, done: int, of: int) -> None:
        self.progress(self.what, self.number * of + done, self.parts * of)


@dataclass(frozen=True)
class _Draft:
    """A way to overlay and a schedule of stages, with the entropies [n, N] it was measured on; the threshold is still open."""

    strip: Strip
    entropies: NDArray[np.float64]
    trial: OverlayTrial

    def means(self) -> NDArray[np.float64]:
        seen = np.asarray(self.strip.stages)
        means: NDArray[np.float64] = np.cumsum(self.entropies, axis=1)[:, seen - 1] / seen
        return means

    def scores(self) -> NDArray[np.float64]:
        """The staged statistic max_j (mean_{n_j} - slack_j)."""
        scores: NDArray[np.float64] = np.max(self.means() - np.asarray(self.strip.slack), axis=1)
        return scores

    def mean_overlays(self, threshold: float) -> float:
        leaves = self.means() > replace(self.strip, threshold=threshold).boundaries()
        leaves[:, -1] = True
        return float(np.asarray(self.strip.stages)[leaves.argmax(axis=1)].mean())


def _drafts(strip: Strip, entropies: NDArray[np.float64], rate: float) -> list[_Draft]:
    """Every schedule for one way to overlay.

    The slack is a multiple of the standard error of a mean of n_j overlays drawn without replacement from N, with the spread that
    the entropies of low-scoring images have: those are the ones that must not leave by accident.
    """
    means = entropies.mean(axis=1)
    threshold = float(np.quantile(means, rate, method="lower"))
    tail = float(np.quantile(means, _TAIL))
    refused = means <= tail
    spread = float(entropies[refused].std(axis=1).mean())
    drafts = []
    for first in _FIRST_STAGES:
        stages = _doubling(first, entropies.shape[1])
        for errors in _SLACK_ERRORS:
            slack = tuple(errors * spread * math.sqrt(1 / n - 1 / stages[-1]) for n in stages)
            draft = _Draft(replace(strip, stages=stages, slack=slack), entropies, OverlayTrial(strip.blend, strip.weight))
            let_go = 1 - float((draft.scores()[refused] <= tail).mean())
            trial = replace(
                draft.trial,
                stages=stages,
                slack_errors=errors,
                threshold_bits=threshold,
                mean_overlays=draft.mean_overlays(threshold),
                let_go=let_go,
            )
            drafts.append(replace(draft, trial=trial))
    return drafts


def _best(drafts: Sequence[_Draft]) -> _Draft:
    """A perfect backdoor scores 0, so a high threshold leaves room below it; early exits give some of that away, within a budget."""
    affordable = [draft for draft in drafts if draft.trial.mean_overlays <= _MEAN_OVERLAYS_AT_MOST]
    if not affordable:
        return min(drafts, key=lambda draft: draft.trial.mean_overlays)
    return max(affordable, key=lambda draft: draft.trial.threshold_bits * (1 - draft.trial.let_go))


def _doubling(first: int, count: int) -> tuple[int, ...]:
    stages = [first]
    while stages[-1] * 3 <= count:
        stages.append(stages[-1] * 2)
    return (*stages, count)


def _entropies(
    strip: Strip, classifier: Classifier, images: Images, rng: np.random.Generator, progress: Callable[[int, int], None]
) -> NDArray[np.float64]:
    """The entropy of every image under every overlay, in an order of the image's own: [n, N]."""
    result = np.empty((len(images), len(strip.overlays)))
    at_once = max(1, _ROWS_PER_FORWARD // len(strip.overlays))
    for start in range(0, len(images), at_once):
        progress(start, len(images))
        block = images[start : start + at_once]
        order = keyed_permutations(_random_keys(len(block), rng), len(strip.overlays))
        result[start : start + at_once] = entropy_bits(classifier.predict(strip.superimpose(block, order))).reshape(
            len(block), -1
        )
    progress(len(images), len(images))
    return result


def _staged_scores(
    draft: Strip,
    classifier: Classifier,
    images: Images,
    rank: int,
    rng: np.random.Generator,
    progress: Callable[[int, int], None],
) -> NDArray[np.float64]:
    """The staged statistic of every image: exact up to the `rank`-th smallest, a lower bound for those above it.

    The statistic is a maximum over stages, so it only grows: an image that is far above the rest after one stage need not pay for the
    others. Whether that was right is checked at the end, and everything is measured again with more survivors if not.
    """
    order = keyed_permutations(_random_keys(len(images), rng), len(draft.overlays))
    survivors = 4 * rank + 50
    while True:
        scores, finalists, lowest_left_out = _raced(draft, classifier, images, order, survivors, progress)
        if rank == 0 or float(np.partition(scores[finalists], rank - 1)[rank - 1]) <= lowest_left_out:
            return scores
        survivors *= 4


def _raced(
    draft: Strip,
    classifier: Classifier,
    images: Images,
    order: NDArray[np.int32],
    survivors: int,
    progress: Callable[[int, int], None],
) -> tuple[NDArray[np.float64], NDArray[np.int64], float]:
    total, scores = np.zeros(len(images)), np.full(len(images), -np.inf)
    racing, lowest_left_out, seen = np.arange(len(images)), np.inf, 0
    for stage, slack in zip(draft.stages, draft.slack, strict=True):
        progress(seen, draft.stages[-1])
        at_once = max(1, _ROWS_PER_FORWARD // (stage - seen))
        for start in range(0, len(racing), at_once):
            rows = racing[start : start + at_once]
            outputs = classifier.predict(draft.superimpose(images[rows], order[rows, seen:stage]))
            total[rows] += entropy_bits(outputs).reshape(len(rows), -1).sum(axis=1)
        scores[racing] = np.maximum(scores[racing], total[racing] / stage - slack)
        seen = stage
        if len(racing) > survivors and stage != draft.stages[-1]:
            ranked = racing[np.argsort(scores[racing])]
            lowest_left_out = min(lowest_left_out, float(scores[ranked[survivors]]))
            racing = np.sort(ranked[:survivors])
    progress(seen, seen)
    return scores, racing, lowest_left_out


def _concluded(
    best: _Draft, scores: NDArray[np.float64], rate: float, confidence: float | None, trials: tuple[OverlayTrial, ...]
) -> StripChoice:
    """Read the threshold off the held scores; one below which no backdoor could be told apart only monitors."""
    threshold = conformal_threshold(scores, rate, confidence)
    promise = "on average over calibrations" if confidence is None else f"with confidence {confidence:g}"
    reason = f"threshold {threshold:.4g} bits from {len(scores)} held images: at most {rate:g} of clean images refused {promise}"
    separates = threshold > _SEPARATES_BITS
    if not separates:
        reason += f"; clean images score as low as a perfect backdoor would (threshold <= {_SEPARATES_BITS:g} bits), so it only monitors"
    return StripChoice(
        strip=replace(best.strip, threshold=threshold),
        mode="enforce" if separates else "monitor",
        reason=reason,
        scores=scores,
        mean_overlays=best.mean_overlays(threshold),
        false_abstentions=float((best.scores() <= threshold).mean()),
        chosen=best.trial,
        trials=trials,
    )


def _random_keys(count: int, rng: np.random.Generator) -> Keys:
    return rng.integers(0, 2**64, count, dtype=np.uint64)
