"""Fit STRIP to a classifier on clean data: overlays, stages and boundaries on one part of it, the threshold on the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from defences.calibration.conformal import conformal_rank
from defences.calibration.early_exits import boundaries
from defences.calibration.split import CalibrationSplit, Terms, rows_per_forward
from defences.calibration.thresholds import FittedDetector
from defences.detectors.strip import Blend, Strip
from defences.keyed import random_keys
from models.classifier import Classifier
from models.image_rows import ImageRows, answers_for
from models.progress import CountedSteps, PartOf

# In the order of preference: the paper's way first. It is also the one that leaves a bright trigger as it is.
_OVERLAYS: tuple[tuple[Blend, float], ...] = (("add", 1.0), ("add", 0.5), ("add", 0.25), ("mix", 0.5))
# How many overlays, and how many of them may hide a trigger before it is missed: the fewest that allow it.
_COUNTS = (8, 10, 12, 16, 20, 24, 32)
_SPARED = 2.0
# Stages are some of these numbers of overlays: those at which at least this share of clean images leaves.
_SEEN = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24)
_LEAVING_AT_LEAST = 0.02
# In how many of its orders an image that all overlays refuse may leave early: every change of an image draws another order, and of 64
# tries not one should succeed with a probability of 98 %.
LEAVES_AT_MOST = 0.02 / 64
_SPENDING = (0.3, 0.5, 0.8)
# How far the threshold may lie above the one found while choosing, in standard errors of the rank.
_ABOVE = 2.0
# At such a threshold lie the clean images of an overconfident classifier.
_SEPARATES = 1e-4


@dataclass(frozen=True)
class OverlayTrial:
    """One way to overlay, measured on clean images.

    Attributes:
        threshold: the mean change under all overlays that as many images stay below as of the held ones may be refused.
        mean_overlays: of a clean image at that threshold.
    """

    blend: Blend
    weight: float
    stages: tuple[int, ...]
    threshold: float
    mean_overlays: float

    @property
    def spared(self) -> float:
        """How many overlays may change the answer to an image altogether before it is no longer refused."""
        return self.stages[-1] * self.threshold


def fit_strip(classifier: Classifier, parts: CalibrationSplit, terms: Terms) -> FittedDetector:
    """Choose the way to overlay, the overlays, stages and boundaries on one part of the data, and score the other.

    The answers that changes are measured by are the classifier's own, to images that are not purified. Behind a purifier they may differ,
    from those under all overlays as well: then an image is refused less often than promised.

    Cost: for each way to overlay, 256 candidates on 128 images and 32 overlays on the other images of the first part; most held images
    leave early.
    """
    rng = np.random.default_rng(terms.seed)
    effort = terms.effort
    count = min(effort.candidates, len(parts.choosing) // 3)
    bank = np.rint(parts.choosing.images[:count] * 255).astype(np.uint8)
    images = parts.choosing.take(slice(count, max(effort.choosing_images, count + 1))).images
    rated = images[: effort.rated_images]
    answers = answers_for(classifier, images)
    held = parts.holding.images
    share = conformal_rank(len(held), terms.rate, terms.confidence) / len(held)
    drafts = []
    tried = _OVERLAYS[: effort.overlay_trials]
    done = CountedSteps(terms.progress, "overlays", len(tried) * (len(rated) * count + len(images) * min(count, effort.overlays)))
    for blend, weight in tried:
        strip = Strip(overlays=bank, threshold=0.0, stages=(count,), slack=(0.0,), weight=weight, blend=blend, statistic="change")
        telling = _most_telling(strip, classifier, rated, answers[: len(rated)], effort.overlays, done)
        changes = _changes(telling, classifier, images, answers, done)
        drafts.append(_draft(telling, changes, share, rng))
    best = _best(drafts, effort.mean_overlays)
    keys = random_keys(len(held), rng)
    scores = _staged_scores(best.strip, classifier, held, best.strip.orders(keys), PartOf(terms.progress, "threshold", 0, 1))
    return _fitted(best, scores, tuple(draft.trial for draft in drafts))


@dataclass(frozen=True)
class _Draft:
    """A way to overlay with all but the threshold, and the changes [n, N] it was measured on, in an order of each image's own."""

    strip: Strip
    changes: NDArray[np.float64]
    trial: OverlayTrial

    def scores(self) -> NDArray[np.float64]:
        """See `_staged_scores`."""
        means = _means(self.changes, self.strip.stages)
        return _scores(means, _leaves(means, self.strip), self.strip.ceiling)

    def mean_overlays(self, threshold: float) -> float:
        """Of these images at this threshold."""
        leaves = _means(self.changes, self.strip.stages) > replace(self.strip, threshold=threshold).boundaries()
        leaves[:, -1] = True
        return float(np.asarray(self.strip.stages)[leaves.argmax(axis=1)].mean())


def _draft(strip: Strip, changes: NDArray[np.float64], share: float, rng: np.random.Generator) -> _Draft:
    """The fewest overlays that spare a trigger, by the change [n, N] of every image under every overlay, the most telling first."""
    counts = [count for count in _COUNTS if count <= len(strip.overlays)] or [len(strip.overlays)]
    for count in counts:
        first = replace(strip, overlays=strip.overlays[:count], stages=(count,))
        draft = _staged(first, changes[:, :count], share, rng)
        if draft.trial.spared >= _SPARED:
            break
    return draft


def _staged(strip: Strip, changes: NDArray[np.float64], share: float, rng: np.random.Generator) -> _Draft:
    """With the boundaries, of several ways to spend `LEAVES_AT_MOST`, with which clean images see the fewest overlays."""
    means = np.sort(changes.mean(axis=1))
    expected = share * len(means)
    threshold = float(means[int(expected)])
    ceiling = float(means[min(len(means) - 1, math.ceil(expected + _ABOVE * math.sqrt(expected)))])
    changes = np.take_along_axis(changes, strip.orders(random_keys(len(changes), rng)), axis=1)
    found = []
    for spending in _SPENDING:
        staged = _with_exits(replace(strip, ceiling=ceiling), changes, threshold, spending)
        trial = OverlayTrial(strip.blend, strip.weight, staged.stages, threshold, 0.0)
        draft = _Draft(staged, changes, trial)
        found.append(replace(draft, trial=replace(trial, mean_overlays=draft.mean_overlays(threshold))))
    return min(found, key=lambda draft: draft.trial.mean_overlays)


def _with_exits(strip: Strip, changes: NDArray[np.float64], threshold: float, spending: float) -> Strip:
    """With stages at which some images leave, and the boundaries of these stages."""
    if not strip.ceiling:
        return strip  # nothing between a perfect backdoor and clean images
    count = strip.stages[-1]
    stages = (*(seen for seen in _SEEN if seen < count), count)
    while True:
        above = boundaries(strip.ceiling, stages, LEAVES_AT_MOST, spending) - strip.ceiling
        strip = replace(strip, stages=stages, slack=(*above.tolist(), 0.0))
        leaves = _means(changes, stages) > replace(strip, threshold=threshold).boundaries()
        leaves[:, -1] = True
        leaving = np.bincount(leaves.argmax(axis=1), minlength=len(stages)) / len(changes)
        used = [stage for stage, share in zip(stages[:-1], leaving, strict=False) if share >= _LEAVING_AT_LEAST]
        if len(used) == len(stages) - 1:
            return strip
        stages = (*used, count)


def _most_telling(
    strip: Strip,
    classifier: Classifier,
    images: ImageRows,
    answers: NDArray[np.int64],
    count: int,
    progress: CountedSteps,
) -> Strip:
    """With so many overlays, those that change clean images most, the first of them most of all."""
    ranked = np.argsort(-_changes(strip, classifier, images, answers, progress).mean(axis=0), kind="stable")
    overlays = strip.overlays[ranked[:count]]
    return replace(strip, overlays=overlays, stages=(len(overlays),))


def _means(changes: NDArray[np.float64], stages: tuple[int, ...]) -> NDArray[np.float64]:
    """The mean change [n, J] after each stage of images that see overlays in this order [n, N]."""
    seen = np.asarray(stages)
    means: NDArray[np.float64] = np.cumsum(changes, axis=1)[:, seen - 1] / seen
    return means


def _leaves(means: NDArray[np.float64], strip: Strip) -> NDArray[np.bool_]:
    """Which images are above a boundary that holds for every threshold: means [n, J] -> [n]."""
    early = np.asarray(strip.slack[:-1]) + strip.ceiling
    above: NDArray[np.bool_] = np.any(means[:, :-1] > early, axis=1)
    return above


def _scores(means: NDArray[np.float64], leaves: NDArray[np.bool_], ceiling: float) -> NDArray[np.float64]:
    """The lowest threshold that refuses each image: the mean under all overlays, or none up to the ceiling for those that leave."""
    scores: NDArray[np.float64] = np.where(leaves, ceiling + means.max(axis=1), means[:, -1])
    return scores


def _best(drafts: Sequence[_Draft], mean_overlays_at_most: float) -> _Draft:
    """The first draft that spares a trigger and is affordable; else the cheapest that spares one, else the one that comes closest."""
    sparing = [draft for draft in drafts if draft.trial.spared >= _SPARED]
    if not sparing:
        return max(drafts, key=lambda draft: draft.trial.spared)
    affordable = [draft for draft in sparing if draft.trial.mean_overlays <= mean_overlays_at_most]
    return affordable[0] if affordable else min(sparing, key=lambda draft: draft.trial.mean_overlays)


def _changes(
    strip: Strip, classifier: Classifier, images: ImageRows, answers: NDArray[np.int64], progress: CountedSteps
) -> NDArray[np.float64]:
    """The change of every image under every overlay: [n, N]."""
    overlays = len(strip.overlays)
    result = np.empty((len(images), overlays))
    at_once = max(1, rows_per_forward(images) // overlays)
    for start in range(0, len(images), at_once):
        block = images[start : start + at_once]
        order = np.tile(np.arange(overlays, dtype=np.int32), (len(block), 1))
        outputs = classifier.predict(strip.superimpose(block, order))
        labels = np.repeat(answers[start : start + at_once], overlays)
        result[start : start + at_once] = strip.change_of(outputs, labels).reshape(len(block), -1)
        progress.add(len(labels))
    return result


def _staged_scores(
    strip: Strip, classifier: Classifier, images: ImageRows, order: NDArray[np.int32], progress: Callable[[int, int], None]
) -> NDArray[np.float64]:
    """`_scores` of images that see overlays in this order [n, N]: those that leave are not looked at any further."""
    answers = answers_for(classifier, images)
    total, scores = np.zeros(len(images)), np.empty(len(images))
    racing, seen = np.arange(len(images)), 0
    for stage, slack in zip(strip.stages, strip.slack, strict=True):
        progress(seen, strip.stages[-1])
        at_once = max(1, rows_per_forward(images) // (stage - seen))
        for start in range(0, len(racing), at_once):
            rows = racing[start : start + at_once]
            outputs = classifier.predict(strip.superimpose(images[rows], order[rows, seen:stage]))
            found = strip.change_of(outputs, np.repeat(answers[rows], stage - seen))
            total[rows] += found.reshape(len(rows), -1).sum(axis=1)
        scores[racing] = mean = total[racing] / stage
        if stage != strip.stages[-1]:
            leaves = mean > strip.ceiling + slack
            scores[racing[leaves]] += strip.ceiling
            racing = racing[~leaves]
        seen = stage
    progress(seen, seen)
    return scores


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
        unit="of change",
        summary=f"{strip.blend} {strip.weight:g}, stages {strip.stages}",
        remark=_remark,
    )


def _remark(threshold: float) -> str:
    if threshold == -np.inf:
        return "; too many clean images score as low as a perfect backdoor would for any to be refused, so it only monitors"
    if threshold <= _SEPARATES:
        return (
            f"; clean images score as low as a perfect backdoor would (threshold <= {_SEPARATES:g}): "
            "distrust a classifier that is so sure, it may carry one"
        )
    return ""
