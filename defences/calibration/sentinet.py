"""Fit SentiNet to a classifier on clean data: overlays and slack on one part of it; the threshold is read off the other."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from defences.calibration.conformal import conformal_rank
from defences.calibration.split import CalibrationSplit, Terms, rows_per_forward
from defences.calibration.thresholds import FittedDetector
from defences.detectors.sentinet import SentiNet
from defences.keyed import Keys, random_keys
from models.classifier import Classifier, Probabilities
from models.image_rows import ImageRows, outputs_for
from models.progress import CountedSteps

OVERLAYS_AT_MOST = 64
# Standard deviations of a window's score under one overlay, largest first.
_PATIENCE = (0.3, 0.2, 0.1, 0.05)
# Mean model calls allowed for a clean image. With STRIP both thresholds are lower, and the prediction, STRIP and SentiNet stay below 20.
_MEAN_CALLS_AT_MOST = 12.0
# A held image whose score is above this multiple of the rate's quantile is not refused at any threshold that can result.
_IN_QUESTION = 4.0
# At such a threshold clean images look like triggered ones.
_SEPARATES = 0.01


@dataclass(frozen=True)
class PatienceTrial:
    """One slack, measured on clean images.

    Attributes:
        patience: the factor of the slack of every step.
        threshold: the rate-quantile of the statistic.
        mean_calls: mean model calls of a clean image at that threshold.
    """

    patience: float
    threshold: float
    mean_calls: float


def fit_sentinet(classifier: Classifier, parts: CalibrationSplit, terms: Terms) -> FittedDetector:
    """Choose overlays and the largest slack that is affordable on one part of the data, and score the other.

    Cost: up to `calls_at_most` model calls per image of the first part for each slack tried, and about a third of that per held image.
    """
    rng, chosen_on = np.random.default_rng(terms.seed), parts.choosing.take(slice(0, terms.effort.choosing_images))
    labels = outputs_for(classifier, chosen_on.images)
    bank = _bank(labels, min(OVERLAYS_AT_MOST, len(chosen_on) // 2))
    draft = SentiNet(
        overlays=np.rint(chosen_on.images[bank] * 255).astype(np.uint8),
        overlay_labels=labels[bank].argmax(axis=1),
        threshold=np.inf,
        slack=_slack(0.0),
    )
    choosing = chosen_on.take(np.delete(np.arange(len(chosen_on)), bank)).images
    keys = random_keys(len(choosing), rng)
    trials: list[PatienceTrial] = []
    done = CountedSteps(terms.progress, "windows", len(_PATIENCE) * len(choosing))
    for patience in _PATIENCE:
        runs = _run(replace(draft, slack=_slack(patience)), classifier, choosing, keys, done)
        threshold = float(np.quantile(runs.scores, terms.rate, method="lower"))
        trials.append(PatienceTrial(patience, threshold, runs.mean_calls(threshold)))
        if trials[-1].mean_calls <= _MEAN_CALLS_AT_MOST:
            break
    done.end()
    chosen = replace(draft, slack=_slack(trials[-1].patience))
    hasty = replace(chosen, threshold=float(np.quantile(runs.scores, min(1.0, _IN_QUESTION * terms.rate))))
    scores = _held_scores(hasty, classifier, parts.holding.images, random_keys(len(parts.holding), rng), terms)
    return FittedDetector(
        name=chosen.name,
        settings=chosen.settings(),
        arrays={
            "overlays": chosen.overlays,
            "overlay_labels": chosen.overlay_labels,
            "slack": np.asarray(chosen.slack),
        },
        card={"chosen": asdict(trials[-1]), "trials": [asdict(trial) for trial in trials]},
        choosing=runs.scores,
        holding=scores,
        at=lambda threshold: replace(chosen, threshold=threshold),
        mean_calls=runs.mean_calls,
        summary=f"windows of {', '.join(f'{side:g}' for side in chosen.sides)}, patience {trials[-1].patience:g}",
        remark=_remark,
    )


@dataclass(frozen=True)
class _Runs:
    """The scores of images that went through every step.

    Attributes:
        scores: float64 [n], the statistic.
        suspicion: for each step, the scores [n, m] of windows before it.
        new: overlays of each step.
    """

    scores: NDArray[np.float64]
    suspicion: tuple[NDArray[np.float64], ...]
    new: tuple[int, ...]

    def mean_calls(self, threshold: float) -> float:
        """Mean model calls at a threshold: windows above it take no part in a step, those of the first level always do."""
        come = [np.isfinite(self.suspicion[0]), *(some <= threshold for some in self.suspicion[1:])]
        # A score only grows, so a window above the threshold in one step, and those in its corners, stay above it.
        return 1 + float(sum(new * some.sum(axis=1).mean() for new, some in zip(self.new, come, strict=True)))


def _run(sentinet: SentiNet, classifier: Classifier, images: ImageRows, keys: Keys, done: CountedSteps) -> _Runs:
    """Every image through every step."""
    patient = replace(sentinet, threshold=np.inf)
    at_once = max(1, rows_per_forward(images) // max(step.windows for step in patient.plan()))
    scores: list[NDArray[np.float64]] = []
    suspicion: list[list[NDArray[np.float64]]] = [[] for _ in patient.plan()]
    for start in range(0, len(images), at_once):
        block = images[start : start + at_once]
        session = patient.begin(block, keys[start : start + at_once])
        session.decide(classifier.predict(session.probe()))
        for column in suspicion:
            column.append(session.suspicion.copy())
            session.decide(classifier.predict(session.probe()))
        scores.append(session.scores)
        done.add(len(block))
    new = tuple(step.after - step.before for step in patient.plan())
    return _Runs(np.concatenate(scores), tuple(np.concatenate(column) for column in suspicion), new)


def _held_scores(hasty: SentiNet, classifier: Classifier, images: ImageRows, keys: Keys, terms: Terms) -> NDArray[np.float64]:
    """The statistic of every image: exact for those that may be refused, a lower bound for the others.

    The others leave early, at the threshold of `hasty`, which should be above the calibrated one; if not, all are measured without it.
    """
    rank = conformal_rank(len(images), terms.rate, terms.confidence)
    ways = hasty, replace(hasty, threshold=np.inf)
    done = CountedSteps(terms.progress, "held windows", len(ways) * len(images))
    for sentinet in ways:
        at_once = max(1, rows_per_forward(images) // max(step.windows for step in sentinet.plan()))
        blocks = []
        for start in range(0, len(images), at_once):
            block = images[start : start + at_once]
            session = sentinet.begin(block, keys[start : start + at_once])
            while session.undecided.size:
                session.decide(classifier.predict(session.probe()))
            blocks.append(session.scores)
            done.add(len(block))
        scores = np.concatenate(blocks)
        if (scores <= sentinet.threshold).sum() >= rank:
            break
    done.end()
    return scores


def _bank(outputs: Probabilities, count: int) -> NDArray[np.int64]:
    """The images of median confidence of each class, in turns over the classes, up to `count` in all.

    Images of high confidence keep their class under a trigger; those of low confidence take the class of any window.
    """
    labels, sure = outputs.argmax(axis=1), outputs.max(axis=1).astype(np.float64)
    classes = np.unique(labels)
    middle = {label: np.median(sure[labels == label]) for label in classes.tolist()}
    oddity = np.abs(sure - [middle[label] for label in labels.tolist()])
    order = np.lexsort((oddity, labels))
    place = np.arange(len(order)) - np.searchsorted(labels[order], labels[order])  # 0 for the most typical of each class
    bank: NDArray[np.int64] = order[np.argsort(place, kind="stable")[:count]]
    return bank


def _slack(patience: float) -> tuple[float, ...]:
    """A multiple of the standard error of a mean of n of N overlays drawn without replacement, for the outputs' spread of 1."""
    draft = SentiNet(overlays=np.zeros((1, 1, 1, 1), np.uint8), overlay_labels=np.zeros(1, np.int64), threshold=0.0)
    most = draft.stages[-1]
    return tuple(patience * math.sqrt(1 / step.after - 1 / most) for step in draft.plan())


def _remark(threshold: float) -> str:
    if threshold == -np.inf:
        return (
            "; a small window alone decides the class of too many clean images for any image to be refused, so it only monitors"
        )
    if threshold <= _SEPARATES:
        return (
            f"; a small window decides the class of clean images as a trigger would (threshold <= {_SEPARATES:g}): "
            "distrust a classifier that looks at so little"
        )
    return ""
