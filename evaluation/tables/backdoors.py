"""Detectors of backdoors against backdoors of every kind: success rates, refusals, and successes that the full stack still answers.

For each kind an attacker who knows the purifier continues training a copy of the classifier on poisoned data, partly purified. The
detectors are calibrated on that copy as by `hauberk calibrate`, with clean images outside its training set, and everything is measured on
a third set of images.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attacks.backdoors.kinds import Backdoor, backdoors
from attacks.backdoors.poisoning import Poisoned
from defences.calibration.split import Terms
from defences.calibration.split import split as split_data
from defences.calibration.strip import fit_strip
from defences.calibration.thresholds import CalibratedDetector, Fit, calibrate_detectors
from defences.defended_classifier import DefendedClassifier, Preprocessor, Step
from defences.detectors.strip import Strip
from defences.keyed import image_keys
from evaluation.statistics.intervals import Share, share
from evaluation.statistics.roc import IntervalEstimate, Roc, auroc, roc, tpr_at_fpr
from models.classifier import Images, Labels
from models.datasets import Dataset
from models.engines.keras import KerasClassifier
from models.errors import InvalidInput
from models.progress import Progress, silent
from models.training.fine_tuning import fine_tune

_JSON_POINTS = 200


@dataclass(frozen=True, kw_only=True)
class BackdoorBudget:
    """Images used for one kind of backdoor, at most, and the attacker's training."""

    training: int = 4000
    held_out: int = 1500
    clean: int = 1000
    triggered: int = 500
    epochs: int = 6
    learning_rate: float = 4e-3
    batch_size: int = 32


@dataclass(frozen=True)
class Refusals:
    """Refusals of one detector at its calibrated threshold, whatever its mode; or of all enforcing detectors together.

    Attributes:
        refused_of_working: TPR over the triggered images to which the purified copy assigns the attacker's label: where a trigger does
            not work, there is little for a detector to see, and nothing to prevent.
    """

    name: str
    mode: str
    refused_triggered: Share
    refused_clean: Share
    refused_of_working: Share


@dataclass(frozen=True, kw_only=True)
class BackdoorRow:
    """Results for one backdoor. All rates are of images outside the training and calibration sets.

    Attributes:
        success_before: triggered images to which the given classifier, without a backdoor, assigns the attacker's label.
        success: triggered images to which the poisoned copy, undefended, assigns the attacker's label.
        success_purified: the same behind the purifier.
        accuracy_before, accuracy: on clean images, undefended, of the given classifier and of the copy.
        strip_mode: chosen by calibration; the rates of refusal below are STRIP's own in either mode.
        threshold: calibrated, for the staged statistic and in its unit (`defences/detectors/strip.py`).
        refused_triggered, refused_clean: TPR and FPR at that threshold.
        refused_of_working: TPR over the triggered images on which the trigger works, see `Refusals`.
        answered: triggered images that the full stack answers with the attacker's label.
        detectors: every detector, STRIP first, their thresholds sharing one rate; the last row is all enforcing detectors together.
        auroc, tpr_at_one_percent, curve: of STRIP's full score, the mean under all overlays of what it decides by.
    """

    kind: str
    trigger: str
    poison_rate: float
    cover_rate: float
    success_before: Share
    success: Share
    success_purified: Share
    accuracy_before: Share
    accuracy: Share
    strip_mode: str
    threshold: float
    overlays: int
    refused_triggered: Share
    refused_clean: Share
    refused_of_working: Share
    answered: Share
    detectors: tuple[Refusals, ...]
    auroc: IntervalEstimate
    tpr_at_one_percent: IntervalEstimate
    curve: Roc
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Plain numbers, texts, lists and dicts; the curve at 200 of its points; NaN and infinity as None."""
        points = len(self.curve.fpr)
        kept = np.unique(np.linspace(0, points - 1, min(points, _JSON_POINTS)).round().astype(np.int64))
        plain: dict[str, Any] = _plain(asdict(self), kept)
        return plain


def backdoor_rows(
    classifier: KerasClassifier,
    data: Dataset,
    held_out: Dataset,
    test: Dataset,
    *,
    kinds: Sequence[str] | None = None,
    preprocessors: Sequence[Step[Preprocessor]] = (),
    fits: Mapping[str, Fit] | None = None,
    patch: tuple[int, int] | None = None,
    budgets: Mapping[str, float] | None = None,
    source: int = 0,
    target: int | None = None,
    rate: float = 0.01,
    budget: BackdoorBudget | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Iterator[BackdoorRow]:
    """Measure one backdoor after the other; each row is yielded as soon as it is complete.

    Args:
        data: clean images that the attacker poisons and trains on.
        held_out: clean images for calibration.
        test: clean images to measure on.
        kinds: of `attacks.backdoors.kinds.KINDS`; by default all for which the classifier has enough classes.
        preprocessors: as in `DefendedClassifier.preprocessors`; the attacker trains with the enforcing ones.
        fits: of the detectors beside STRIP, by name.
        patch: that the masks of patch_cleanser cover, if it is one of them.
        budgets: of the rate, by detector (`joint_thresholds`); equal ones when none.
        source, target: class indices; by default the target is the last class.
        rate: in (0, 1), of clean images that the detectors may refuse together.
        progress: called with ("backdoor <kind>", steps done, steps in all).

    Cost: per kind, with the default budget, about 350,000 model calls and six epochs of 4,000 images.
    Raises: InvalidInput, before any training: unknown kinds, too few images to calibrate on, no images to attack.
    """
    known = backdoors(classifier, source=source, target=target, seed=seed)
    wanted = tuple(known) if kinds is None else tuple(kinds)
    unknown = [kind for kind in wanted if kind not in known]
    if unknown:
        raise InvalidInput(f"expected kinds of backdoors of {', '.join(known)}, got {', '.join(unknown)}")
    limits = budget or BackdoorBudget()
    scene = _Scene(
        classifier,
        _first(data, limits.training),
        _first(held_out, limits.held_out),
        _first(test, limits.clean),
        test,
        tuple(step for step in preprocessors if step.mode == "enforce"),
        {Strip.name: fit_strip, **(fits or {})},
        rate,
        limits,
        seed,
        progress,
        patch,
        budgets,
    )
    split_data(scene.held_out, rate=rate, confidence=None, seed=seed)
    for kind in wanted:
        if not known[kind].labels.attacks(test.labels).any():
            raise InvalidInput(f"{kind}: expected test images of the classes it attacks, got none; choose another source class")
    return (_row(scene, kind, known[kind]) for kind in wanted)


@dataclass(frozen=True)
class _Scene:
    """The data and parameters that all backdoors share."""

    classifier: KerasClassifier
    data: Dataset
    held_out: Dataset
    clean: Dataset
    test: Dataset
    preprocessors: tuple[Step[Preprocessor], ...]
    fits: Mapping[str, Fit]
    rate: float
    budget: BackdoorBudget
    seed: int
    progress: Progress
    patch: tuple[int, int] | None
    budgets: Mapping[str, float] | None

    def told(self, kind: str, done: int) -> None:
        self.progress(f"backdoor {kind}", done, 4)

    def purified(self, images: Images) -> Images:
        for step in self.preprocessors:
            images = step.defence(images, image_keys(images, b""))
        return images


def _row(scene: _Scene, kind: str, backdoor: Backdoor) -> BackdoorRow:
    started, budget = time.perf_counter(), scene.budget
    scene.told(kind, 0)
    poisoned = backdoor.poison(scene.data, seed=scene.seed)
    copy = fine_tune(
        scene.classifier,
        _as_served(scene, poisoned.data),
        epochs=budget.epochs,
        learning_rate=budget.learning_rate,
        batch_size=budget.batch_size,
        seed=scene.seed,
    )
    scene.told(kind, 1)
    parts = split_data(scene.held_out, rate=scene.rate, confidence=None, seed=scene.seed)
    terms = Terms(rate=scene.rate, seed=scene.seed, purified=scene.purified, patch=scene.patch, budgets=scene.budgets)
    calibrated = calibrate_detectors(copy, parts, scene.fits, terms)
    scene.told(kind, 2)
    row = _measured(scene, _Case(kind, backdoor, poisoned, copy, calibrated, started))
    scene.told(kind, 4)
    return row


@dataclass(frozen=True)
class _Case:
    """One backdoor, the copy trained with it, and the detectors calibrated on that copy, STRIP first."""

    kind: str
    backdoor: Backdoor
    poisoned: Poisoned
    copy: KerasClassifier
    calibrated: tuple[CalibratedDetector, ...]
    started: float


def _as_served(scene: _Scene, data: Dataset) -> Dataset:
    """The training set of an attacker who knows the purifier: half of it purified, as served, and half raw, as STRIP's probes are."""
    if not scene.preprocessors:
        return data
    images = data.images.copy()
    half = np.random.default_rng(scene.seed).random(len(data)) < 0.5
    images[half] = scene.purified(data.images[half])
    return Dataset(images, data.labels)


def _measured(scene: _Scene, case: _Case) -> BackdoorRow:
    copy, labels = case.copy, case.backdoor.labels
    strip: Any = case.calibrated[0].detector  # STRIP is always the first
    victims = scene.test.take(np.flatnonzero(labels.attacks(scene.test.labels))[: scene.budget.triggered])
    images, wanted = case.backdoor.trigger(victims.images), labels.called(victims.labels)
    steps = [Step(each.detector, each.mode) for each in case.calibrated]
    defended = DefendedClassifier(copy, preprocessors=scene.preprocessors, detectors=steps)
    triggered, clean = defended.classify(images), defended.classify(scene.clean.images)
    refused = triggered.trace.detections[0].abstained
    works = _labels(copy, scene.purified(images)) == wanted
    scene.told(case.kind, 3)
    positives, negatives = (_full_scores(copy, strip, some) for some in (images, scene.clean.images))
    return BackdoorRow(
        kind=case.kind,
        trigger=case.backdoor.trigger.name,
        poison_rate=float(case.poisoned.is_poison.mean()),
        cover_rate=float(case.poisoned.is_cover.mean()),
        success_before=share(_labels(scene.classifier, images) == wanted),
        success=share(_labels(copy, images) == wanted),
        success_purified=share(works),
        accuracy_before=share(_labels(scene.classifier, scene.clean.images) == scene.clean.labels),
        accuracy=share(_labels(copy, scene.clean.images) == scene.clean.labels),
        strip_mode=case.calibrated[0].mode,
        threshold=strip.threshold,
        overlays=len(strip.overlays),
        refused_triggered=share(refused),
        refused_clean=share(clean.trace.detections[0].abstained),
        refused_of_working=share(refused[works]),
        answered=share(triggered.labels == wanted),
        detectors=(
            *(
                Refusals(one.name, one.mode, share(one.abstained), share(other.abstained), share(one.abstained[works]))
                for one, other in zip(triggered.trace.detections, clean.trace.detections, strict=True)
            ),
            Refusals(
                "together", "enforce", share(triggered.abstained), share(clean.abstained), share(triggered.abstained[works])
            ),
        ),
        auroc=auroc(positives, negatives),
        tpr_at_one_percent=tpr_at_fpr(positives, negatives, 0.01),
        curve=roc(positives, negatives),
        seconds=time.perf_counter() - case.started,
    )


def _labels(classifier: KerasClassifier, images: Images) -> Labels:
    labels: Labels = classifier.predict(images).argmax(axis=1)
    return labels


def _full_scores(classifier: KerasClassifier, strip: Strip, images: Images) -> NDArray[np.float64]:
    """The mean under all overlays of what STRIP decides by, of every image."""
    patient = replace(strip, threshold=np.inf, stages=(len(strip.overlays),), slack=(0.0,))
    decisions = DefendedClassifier(classifier, detectors=[Step(patient, "monitor")]).classify(images)
    return decisions.trace.detections[0].scores


def _first(data: Dataset, count: int) -> Dataset:
    return data.take(slice(0, count))


def _plain(value: Any, kept: NDArray[np.int64]) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item, kept) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item, kept) for item in value]
    if isinstance(value, np.ndarray):
        return [_plain(float(item), kept) for item in value[kept]]
    return None if isinstance(value, float) and not np.isfinite(value) else value
