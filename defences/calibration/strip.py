"""Fit STRIP to a classifier on clean data: overlay, stages and slack on one part of it, the threshold on the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from defences.calibration.conformal import conformal_rank
from defences.calibration.split import CalibrationSplit, Terms, rows_per_forward
from defences.calibration.thresholds import FittedDetector
from defences.detectors.strip import Blend, Strip, entropy_bits
from defences.keyed import keyed_permutations, random_keys
from models.classifier import Classifier, Images
from models.progress import PartOf

OVERLAYS_AT_MOST = 96
_OVERLAYS: tuple[tuple[Blend, float], ...] = (("add", 1.0), ("add", 0.5), ("add", 0.25), ("mix", 0.5))
# Where a first decision may fall; the later stages double until the bank is used up.
_FIRST_STAGES = (2, 3, 4)
# Standard errors above the threshold at which the mean of a stage passes an image.
_SLACK_ERRORS = (1.0, 1.5, 2.0, 3.0)
# Mean overlays allowed for a clean image: at 8 of 96 a defended prediction takes nine model calls.
_MEAN_OVERLAYS_AT_MOST = 8.0
# Share of lowest scores on which early exits are judged where too few images are refused.
_TAIL = 0.05
# At such a threshold lie the clean images of an overconfident classifier.
_SEPARATES_BITS = 1e-4


@dataclass(frozen=True)
class OverlayTrial:
    """One way to overlay with one schedule of stages, measured on clean images.

    Attributes:
        threshold_bits: the rate-quantile of the full mean entropy.
        mean_overlays: of a clean image at that threshold.
        let_go: the share of the lowest twentieth that early exits would pass.
    """

    blend: Blend
    weight: float
    stages: tuple[int, ...] = ()
    slack_errors: float = 0.0
    threshold_bits: float = 0.0
    mean_overlays: float = 0.0
    let_go: float = 0.0


def fit_strip(classifier: Classifier, parts: CalibrationSplit, terms: Terms) -> FittedDetector:
    """Choose overlay, weight, stages and slack on one part of the data, and score the other.

    Cost: up to 96 model calls per image of the first part for each overlay tried; most held images leave early.
    """
    return _fitted(*_chosen(classifier, parts, terms))


def _chosen(
    classifier: Classifier, parts: CalibrationSplit, terms: Terms
) -> tuple[_Draft, NDArray[np.float64], tuple[OverlayTrial, ...]]:
    """The best draft, its scores of the held images, and all trials."""
    rng = np.random.default_rng(terms.seed)
    count = min(OVERLAYS_AT_MOST, len(parts.choosing) // 2)
    bank = np.rint(parts.choosing.images[:count] * 255).astype(np.uint8)
    choosing = parts.choosing.images[count:]
    drafts: list[_Draft] = []
    for number, (blend, weight) in enumerate(_OVERLAYS):
        strip = Strip(overlays=bank, threshold=0.0, stages=(count,), slack=(0.0,), weight=weight, blend=blend)
        done = PartOf(terms.progress, "overlays", number, len(_OVERLAYS))
        drafts += _drafts(strip, _entropies(strip, classifier, choosing, rng, done), terms.rate)
    best = _best(drafts)
    held = parts.holding.images
    rank = conformal_rank(len(held), terms.rate, terms.confidence)
    scores = _Race.drawn(best.strip, classifier, held, rng).scores(rank, PartOf(terms.progress, "threshold", 0, 1))
    return best, scores, tuple(draft.trial for draft in drafts)


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
    """The draft of the highest threshold, less the share that its early exits pass, among those within the budget of overlays.

    A perfect backdoor scores 0, so a high threshold separates it best.
    """
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
    at_once = max(1, rows_per_forward(images) // len(strip.overlays))
    for start in range(0, len(images), at_once):
        progress(start, len(images))
        block = images[start : start + at_once]
        order = keyed_permutations(random_keys(len(block), rng), len(strip.overlays))
        result[start : start + at_once] = entropy_bits(classifier.predict(strip.superimpose(block, order))).reshape(
            len(block), -1
        )
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
    images: Images
    order: NDArray[np.int32]

    @classmethod
    def drawn(cls, strip: Strip, classifier: Classifier, images: Images, rng: np.random.Generator) -> _Race:
        """With an order of its own for each image."""
        return cls(strip, classifier, images, keyed_permutations(random_keys(len(images), rng), len(strip.overlays)))

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
