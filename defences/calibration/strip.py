"""Fit STRIP to a classifier on clean data: overlay, order, stages and slack on one part of it, the threshold on the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from defences.calibration.conformal import conformal_rank
from defences.calibration.split import CalibrationSplit, Terms, rows_per_forward
from defences.calibration.thresholds import FittedDetector
from defences.detectors.strip import Blend, Strip, entropy_bits
from defences.keyed import random_keys
from models.classifier import Classifier
from models.image_rows import ImageRows
from models.progress import PartOf

_OVERLAYS: tuple[tuple[Blend, float], ...] = (("add", 1.0), ("add", 0.5), ("add", 0.25), ("mix", 0.5))
_FIRST_STAGE, _GROWTH = 3, 1.7
# Share of lowest scores that stand for suspects, but no fewer images than that.
_TAIL, _TAIL_AT_LEAST = 0.1, 20
# Where a suspect's mean entropy lies, as a share of the threshold, and in how many of its orders it may leave early: a change of the
# image draws another order, and of 64 tries not one should succeed with a probability of 98 %.
_NEAR = 0.9
_LEAVES_AT_MOST = 0.02 / 64
_ORDERS = 4000
# How fast the slack falls with the number of overlays, in powers of the standard error.
_POWERS = (1.0, 1.25, 1.5, 1.75, 2.0)
# At such a threshold lie the clean images of an overconfident classifier.
_SEPARATES_BITS = 1e-4


@dataclass(frozen=True)
class OverlayTrial:
    """One way to overlay, measured on clean images.

    Attributes:
        threshold_bits: the rate-quantile of the full mean entropy.
        mean_overlays: of a clean image at that threshold.
    """

    blend: Blend
    weight: float
    stages: tuple[int, ...]
    threshold_bits: float
    mean_overlays: float


def fit_strip(classifier: Classifier, parts: CalibrationSplit, terms: Terms) -> FittedDetector:
    """Choose overlay, weight, order, stages and slack on one part of the data, and score the other.

    Cost: up to 96 model calls per image of the first part for each overlay tried; most held images leave early.
    """
    return _fitted(*_chosen(classifier, parts, terms))


def _chosen(
    classifier: Classifier, parts: CalibrationSplit, terms: Terms
) -> tuple[_Draft, NDArray[np.float64], tuple[OverlayTrial, ...]]:
    """The best draft, its scores of the held images, and all trials."""
    rng = np.random.default_rng(terms.seed)
    count = min(terms.effort.overlays, len(parts.choosing) // 2)
    bank = np.rint(parts.choosing.images[:count] * 255).astype(np.uint8)
    choosing = parts.choosing.take(slice(count, None)).images
    drafts: list[_Draft] = []
    tried = _OVERLAYS[: terms.effort.overlay_trials]
    for number, (blend, weight) in enumerate(tried):
        strip = Strip(overlays=bank, threshold=0.0, stages=(count,), slack=(0.0,), weight=weight, blend=blend)
        done = PartOf(terms.progress, "overlays", number, len(tried))
        drafts.append(_draft(strip, _entropies(strip, classifier, choosing, done), terms.rate, rng))
    best = _best(drafts, terms.effort.mean_overlays)
    held = parts.holding.images
    rank = conformal_rank(len(held), terms.rate, terms.confidence)
    scores = _Race.drawn(best.strip, classifier, held, rng).scores(rank, PartOf(terms.progress, "threshold", 0, 1))
    return best, scores, tuple(draft.trial for draft in drafts)


@dataclass(frozen=True)
class _Draft:
    """A way to overlay with all but the threshold, and the entropies [n, N] it was measured on, in the order that each image sees."""

    strip: Strip
    entropies: NDArray[np.float64]
    trial: OverlayTrial

    def scores(self) -> NDArray[np.float64]:
        """The staged statistic max_j (mean_{n_j} - slack_j)."""
        scores: NDArray[np.float64] = np.max(_means(self.entropies, self.strip.stages) - np.asarray(self.strip.slack), axis=1)
        return scores

    def mean_overlays(self, threshold: float) -> float:
        """Of these images at this threshold."""
        leaves = _means(self.entropies, self.strip.stages) > replace(self.strip, threshold=threshold).boundaries()
        leaves[:, -1] = True
        return float(np.asarray(self.strip.stages)[leaves.argmax(axis=1)].mean())


def _draft(strip: Strip, entropies: NDArray[np.float64], rate: float, rng: np.random.Generator) -> _Draft:
    """Order, stages and slack for one way to overlay, by the entropy [n, N] of every image under every overlay.

    Of the slacks that let hardly any suspect leave, it is the one with which clean images see the fewest overlays.
    """
    threshold = float(np.quantile(entropies.mean(axis=1), rate, method="lower"))
    ranked = _most_telling_first(entropies, _suspects(entropies, threshold))
    suspects = _suspects(entropies, _NEAR * threshold)[:, ranked]
    stages = _stages(len(ranked))
    strip = replace(strip, overlays=strip.overlays[ranked], front=len(ranked) // 2, stages=stages, slack=(0.0,) * len(stages))
    orders = strip.orders(random_keys(len(entropies), rng))
    entropies = np.take_along_axis(entropies[:, ranked], orders, axis=1)
    trial = OverlayTrial(strip.blend, strip.weight, stages, threshold, 0.0)
    found = []
    for slack in _slacks(strip, suspects, threshold, rng):
        draft = _Draft(replace(strip, slack=slack), entropies, trial)
        found.append(replace(draft, trial=replace(trial, mean_overlays=draft.mean_overlays(threshold))))
    return min(found, key=lambda draft: draft.trial.mean_overlays)


def _suspects(entropies: NDArray[np.float64], mean: float) -> NDArray[np.float64]:
    """The entropies of the images with the lowest means, scaled to this one.

    Without a backdoor to measure, they have to stand for triggered images.
    """
    means = entropies.mean(axis=1)
    lowest = np.argsort(means, kind="stable")[: max(_TAIL_AT_LEAST, int(_TAIL * len(means)))]
    suspects: NDArray[np.float64] = entropies[lowest] * (mean / np.maximum(means[lowest, None], np.finfo(float).tiny))
    return suspects


def _most_telling_first(entropies: NDArray[np.float64], suspects: NDArray[np.float64]) -> NDArray[np.int64]:
    """The overlays, those first under which the entropy of clean images is furthest above that of suspects, in its deviations there."""
    away = entropies.mean(axis=0) - suspects.mean(axis=0)
    return np.argsort(-away / np.maximum(suspects.std(axis=0), np.finfo(float).tiny), kind="stable")


def _slacks(
    strip: Strip, suspects: NDArray[np.float64], threshold: float, rng: np.random.Generator
) -> Iterator[tuple[float, ...]]:
    """Slack of several shapes with which suspects, whose mean is below the threshold, leave early in `_LEAVES_AT_MOST` of their orders.

    Overlays are drawn without replacement: the standard error of a mean of n among N is proportional to sqrt(1/n - 1/N).
    """
    early = strip.stages[:-1]
    above = np.concatenate([_means(each[strip.orders(random_keys(_ORDERS, rng))], early) for each in suspects]) - threshold
    error = np.sqrt(1 / np.asarray(early) - 1 / strip.stages[-1])
    for power in _POWERS:
        shape = error**power
        size = max(0.0, float(np.quantile((above / shape).max(axis=1), 1 - _LEAVES_AT_MOST)))
        yield (*(size * shape).tolist(), 0.0)


def _means(entropies: NDArray[np.float64], stages: tuple[int, ...]) -> NDArray[np.float64]:
    """The mean entropy [n, J] after each stage of images that see overlays in this order [n, N]."""
    seen = np.asarray(stages)
    means: NDArray[np.float64] = np.cumsum(entropies, axis=1)[:, seen - 1] / seen
    return means


def _best(drafts: Sequence[_Draft], mean_overlays_at_most: float) -> _Draft:
    """The draft of the highest threshold among those within the budget of overlays: a perfect backdoor scores 0."""
    affordable = [draft for draft in drafts if draft.trial.mean_overlays <= mean_overlays_at_most]
    if not affordable:
        return min(drafts, key=lambda draft: draft.trial.mean_overlays)
    return max(affordable, key=lambda draft: draft.trial.threshold_bits)


def _stages(count: int) -> tuple[int, ...]:
    """Each more than the one before by the same factor, up to all overlays."""
    stages = [_FIRST_STAGE]
    while math.ceil(_GROWTH * stages[-1]) < 0.8 * count:
        stages.append(math.ceil(_GROWTH * stages[-1]))
    return (*stages, count)


def _entropies(
    strip: Strip, classifier: Classifier, images: ImageRows, progress: Callable[[int, int], None]
) -> NDArray[np.float64]:
    """The entropy of every image under every overlay: [n, N]."""
    overlays = len(strip.overlays)
    result = np.empty((len(images), overlays))
    at_once = max(1, rows_per_forward(images) // overlays)
    for start in range(0, len(images), at_once):
        progress(start, len(images))
        block = images[start : start + at_once]
        order = np.tile(np.arange(overlays, dtype=np.int32), (len(block), 1))
        probes = strip.superimpose(block, order)
        result[start : start + at_once] = entropy_bits(classifier.predict(probes)).reshape(len(block), -1)
    progress(len(images), len(images))
    return result


@dataclass(frozen=True)
class _Race:
    """Images that STRIP looks at stage by stage, all at once, where those with high scores may stop.

    Attributes:
        order: int32 [n, N], the order in which each image [n, h, w, c] sees the overlays.
    """

    strip: Strip
    classifier: Classifier
    images: ImageRows
    order: NDArray[np.int32]

    @classmethod
    def drawn(cls, strip: Strip, classifier: Classifier, images: ImageRows, rng: np.random.Generator) -> _Race:
        """With an order of its own for each image."""
        return cls(strip, classifier, images, strip.orders(random_keys(len(images), rng)))

    def scores(self, rank: int, progress: Callable[[int, int], None]) -> NDArray[np.float64]:
        """The staged statistic of every image: exact up to the `rank`-th smallest, a lower bound for those above it.

        The statistic is a maximum over stages, so it only grows: an image whose score after one stage is far above the others' need not
        see the remaining overlays. The end checks whether that was right; if not, everything is measured again with more survivors.
        """
        survivors = 4 * rank + 50
        while True:
            scores, finalists, lowest_left_out = self._run(survivors, progress)
            if rank == 0 or float(np.partition(scores[finalists], rank - 1)[rank - 1]) <= lowest_left_out:
                return scores
            survivors *= 4

    def _run(self, survivors: int, progress: Callable[[int, int], None]) -> tuple[NDArray[np.float64], NDArray[np.int64], float]:
        """Scores [n], the images that saw every overlay, and the lowest score at which an image stopped."""
        strip, images = self.strip, self.images
        total, scores = np.zeros(len(images)), np.full(len(images), -np.inf)
        racing, lowest_left_out, seen = np.arange(len(images)), np.inf, 0
        for stage, slack in zip(strip.stages, strip.slack, strict=True):
            progress(seen, strip.stages[-1])
            at_once = max(1, rows_per_forward(images) // (stage - seen))
            for start in range(0, len(racing), at_once):
                rows = racing[start : start + at_once]
                outputs = self.classifier.predict(strip.superimpose(images[rows], self.order[rows, seen:stage]))
                total[rows] += entropy_bits(outputs).reshape(len(rows), -1).sum(axis=1)
            scores[racing] = np.maximum(scores[racing], total[racing] / stage - slack)
            seen = stage
            if len(racing) > survivors and stage != strip.stages[-1]:
                ranked = racing[np.argsort(scores[racing])]
                lowest_left_out = min(lowest_left_out, float(scores[ranked[survivors]]))
                racing = np.sort(ranked[:survivors])
        progress(seen, seen)
        return scores, racing, lowest_left_out


def _fitted(best: _Draft, scores: NDArray[np.float64], trials: tuple[OverlayTrial, ...]) -> FittedDetector:
    strip = best.strip
    return FittedDetector(
        name=strip.name,
        settings=strip.settings(),
        arrays={"overlays": strip.overlays, "slack": np.asarray(strip.slack)},
        card={"chosen": asdict(best.trial), "trials": [asdict(trial) for trial in trials]},
        choosing=best.scores(),
        holding=scores,
        at=lambda threshold: replace(strip, threshold=threshold),
        mean_calls=best.mean_overlays,
        unit="bits",
        summary=f"{strip.blend} {strip.weight:g}, stages {strip.stages}",
        remark=_remark,
    )


def _remark(threshold: float) -> str:
    if threshold == -np.inf:
        return "; too many clean images score as low as a perfect backdoor would for any to be refused, so it only monitors"
    if threshold <= _SEPARATES_BITS:
        return (
            f"; clean images score as low as a perfect backdoor would (threshold <= {_SEPARATES_BITS:g} bits): "
            "distrust a classifier that is so sure, it may carry one"
        )
    return ""
