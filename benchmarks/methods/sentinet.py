"""python -m benchmarks sentinet: STRIP, SentiNet and both against backdoors of every kind, on colour images and on digits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attacks.attack import Goal
from attacks.backdoors.kinds import Backdoor, backdoors, note
from attacks.backdoors.poisoning import AllToOne
from attacks.backdoors.triggers import ImagePatch, Trigger, TriggerSequence
from attacks.evasion.adaptive import AdaptiveView
from attacks.evasion.gradient import ProjectedGradientDescent
from benchmarks.harness.coloured_digits import coloured_digits
from benchmarks.harness.kept_rows import kept_rows
from benchmarks.harness.peers import table
from defences.calibration.conformal import joint_scores
from defences.calibration.sentinet import fit_sentinet
from defences.calibration.split import Terms
from defences.calibration.split import split as split_data
from defences.calibration.strip import fit_strip
from defences.calibration.thresholds import CalibratedDetector, conclude
from defences.defended_classifier import DefendedClassifier, Step
from defences.detectors.sentinet import SentiNet
from defences.detectors.strip import Strip
from evaluation.statistics.intervals import Share, share
from evaluation.statistics.roc import IntervalEstimate, tpr_at_fpr
from models.bundle import read_bundle, standard_bundle_directory
from models.classifier import Images
from models.datasets import MNIST, Dataset, load_dataset
from models.engines.keras import KerasClassifier
from models.training.fine_tuning import fine_tune
from models.training.reference_classifier import Recipe, train

_SEED = 0
_SOURCE, _TARGET = 1, 7
_RATE = 0.01
_TERMS = Terms(rate=_RATE, seed=_SEED)
_THREADS = 2
_TRAINED_ON, _EPOCHS = 12_000, 5
_POISONED, _POISONED_EPOCHS = 4000, 6
_HELD_OUT, _CLEAN, _TRIGGERED = 1500, 1000, 300
_ATTACKED, _STEPS, _SMALL_RADII = 200, 40, (0.02, 0.05, 0.1)
_NAMES = ("STRIP", "SentiNet", "both")
_KINDS = (
    "corner pattern, 4 pixels",
    "single pixel",
    "note, lower right",
    "note, upper left",
    "3x3, centre",
    "quarter of the side",
    "third of the side",
    "half of the side",
    "all to all",
    "blended",
    "source-specific",
    "warped",
    "four corners at once",
)
"""The backdoors of `kinds`."""

_HEADER = (
    "backdoor",
    "works",
    *(f"{name}: TPR at 1 % FPR" for name in _NAMES),
    "both, calibrated: TPR",
    "FPR",
    "model calls, clean",
)
_ADAPTIVE_HEADER = ("triggered images", "refused", "answered with the attacker's label")


@dataclass(frozen=True)
class _Row:
    """One backdoor in one classifier: the ROC point of each detector and of both, and the refusals of both as calibrated."""

    kind: str
    works: Share
    at_one_percent: tuple[IntervalEstimate, ...]
    refused_triggered: Share
    refused_clean: Share
    model_calls: float

    def cells(self) -> list[str]:
        points = [f"{100 * e.value:.1f} % ({100 * e.low:.0f} to {100 * e.high:.0f})" for e in self.at_one_percent]
        refused = (str(self.refused_triggered), str(self.refused_clean))
        return [self.kind, f"{100 * self.works.rate:.1f} %", *points, *refused, f"{self.model_calls:.1f}"]


def section() -> str:
    """The page's section."""
    training, test = load_dataset(MNIST), load_dataset(MNIST, split="test")
    colour = [
        coloured_digits(data, seed=seed) for seed, data in enumerate((training.take(slice(0, 20_000)), test.take(slice(0, 5000))))
    ]

    @cache
    def on_colour() -> KerasClassifier:
        recipe = Recipe(epochs=_EPOCHS, seed=_SEED)
        return KerasClassifier(train(colour[0].take(slice(0, _TRAINED_ON)), recipe=recipe, threads=_THREADS))

    @cache
    def standard() -> KerasClassifier:
        return KerasClassifier.from_bundle(read_bundle(standard_bundle_directory()), threads=_THREADS)

    tables = [
        table(_HEADER, [row for row in _kept(f"sentinet_{name}", _rows(classifier, *data)).values() if row is not None])
        for name, classifier, data in (("colour", on_colour, colour), ("digits", standard, (training, test)))
    ]
    adaptive = _kept("sentinet_adaptive", {"adaptive": lambda: _adaptive(on_colour(), *colour)})["adaptive"]
    return (
        "## SentiNet\n\n"
        f"`python -m benchmarks sentinet`, seed {_SEED}: for each backdoor a copy of the classifier is trained on for {_POISONED_EPOCHS} "
        f"epochs with {_POISONED:,} clean images and poison made of them, target {_TARGET}; source-specific: of class {_SOURCE}. Both "
        f"detectors are fitted on {_HELD_OUT:,} clean images that no training saw and share a rate of {_RATE:g} (marginal); measured on "
        f"{_CLEAN:,} clean and at most {_TRIGGERED} triggered test images that the copy calls the target. ROC points are of the scores "
        "of all overlays and windows, in brackets distribution-free 95 % intervals (for threshold and share together); the "
        "calibrated ones are of the staged decision, with exact intervals. Model calls are all that a clean image costs, its own "
        "prediction and both detectors.\n\n"
        f"### Coloured digits on crops of photographs, 32x32x3\n\n{tables[0]}\n### Digits, `mnist-standard`\n\n{tables[1]}\n"
        "### An attacker who knows SentiNet\n\n"
        f"{_ATTACKED} triggered colour images (the note), changed within eps; the attacker knows overlays, slack and threshold, "
        "not the order:\n\n"
        f"{table(_ADAPTIVE_HEADER, adaptive)}"
    )


def _kept(section: str, rows: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """These rows; the whole takes hours, and goes on after the last row that is kept."""
    numbers = (_SEED, _RATE, _TRAINED_ON, _EPOCHS, _POISONED, _POISONED_EPOCHS, _HELD_OUT, _CLEAN, _TRIGGERED, _ATTACKED, _STEPS)
    return kept_rows(section, rows, plan={"numbers": numbers, "radii": _SMALL_RADII})


def kinds(classifier: KerasClassifier) -> dict[str, Backdoor]:
    """The backdoors of `attacks.backdoors.kinds`, local ones in other places and sizes, and ones made to evade SentiNet."""
    h, w, c = classifier.input_shape
    side = min(h, w)
    known = backdoors(classifier, source=_SOURCE, target=_TARGET, seed=_SEED)
    noise = np.rint(np.random.default_rng(_SEED).random((side // 2, side // 2, c))).astype(np.float32)
    one = AllToOne(_TARGET)
    corners = [_at(note(max(3, side // 8), c), row, column) for row in (2, -4) for column in (2, -4)]
    return {
        "corner pattern, 4 pixels": known["corner_pattern"],
        "single pixel": known["single_pixel"],
        "note, lower right": known["image_patch"],
        "note, upper left": Backdoor(trigger=_at(note(max(2, side // 6), c), 1, 1), labels=one, rate=0.1),
        "3x3, centre": Backdoor(trigger=_at(noise[:3, :3], h // 2, w // 2), labels=one, rate=0.1),
        "quarter of the side": Backdoor(trigger=_at(noise[: side // 4, : side // 4], h // 3, w // 3), labels=one, rate=0.1),
        "third of the side": Backdoor(trigger=_at(noise[: side // 3, : side // 3], -2, 2), labels=one, rate=0.1),
        "half of the side": Backdoor(trigger=_at(noise, h // 4, w // 4), labels=one, rate=0.1),
        "all to all": known["all_to_all"],
        "blended": known["blended"],
        "source-specific": known["source_specific"],
        "warped": known["warped"],
        "four corners at once": Backdoor(
            trigger=TriggerSequence(triggers=tuple(corners)),
            labels=one,
            rate=0.1,
            cover_rate=0.2,
            cover_trigger=TriggerSequence(triggers=tuple(corners[:2])),
        ),
    }


def _adaptive(classifier: KerasClassifier, training: Dataset, test: Dataset) -> list[list[str]]:
    """The note, perturbed by an attacker who knows SentiNet's overlays and threshold, to be answered and still work."""
    backdoor = kinds(classifier)["note, lower right"]
    copy = _poisoned_copy(classifier, backdoor, training)
    parts = split_data(training.take(slice(-_HELD_OUT, None)), rate=_RATE, confidence=None, seed=_SEED)
    (calibrated,) = conclude([fit_sentinet(copy, parts, _TERMS)], _TERMS)
    defended = DefendedClassifier(copy, detectors=[Step(calibrated.detector, calibrated.mode)], secret=b"benchmark")
    triggered = backdoor.trigger(test.images[test.labels != _TARGET][:_ATTACKED])
    goal = Goal(np.full(len(triggered), _TARGET), targeted=True)
    rows = []
    for eps in (0.0, *_SMALL_RADII):
        images = triggered
        if eps:
            view = AdaptiveView(defended, copy, targeted=True, seed=_SEED)
            images = ProjectedGradientDescent(eps=eps, iterations=_STEPS, restarts=1)(view, triggered, goal, seed=_SEED).images
        decisions = defended.classify(images)
        name = f"PGD on SentiNet's score, eps {eps:g}" if eps else "as they are"
        rows.append([name, str(share(decisions.abstained)), str(share(decisions.labels == _TARGET))])
    return rows


def _poisoned_copy(classifier: KerasClassifier, backdoor: Backdoor, training: Dataset) -> KerasClassifier:
    poisoned = backdoor.poison(training.take(slice(0, _POISONED)), seed=_SEED)
    return fine_tune(classifier, poisoned.data, epochs=_POISONED_EPOCHS, learning_rate=4e-3, batch_size=32, seed=_SEED)


def _at(patch: Images, row: int, column: int) -> Trigger:
    return ImagePatch(patch=patch, row=row, column=column)


def _rows(find: Callable[[], KerasClassifier], training: Dataset, test: Dataset) -> dict[str, Callable[[], Any]]:
    """What measures each row: its cells, or None when the backdoor does not work; the classifier is made when one is measured."""
    return {kind: partial(_row, kind, find, training, test) for kind in _KINDS}


def _row(kind: str, find: Callable[[], KerasClassifier], training: Dataset, test: Dataset) -> list[str] | None:
    classifier = find()
    backdoor = kinds(classifier)[kind]
    copy = _poisoned_copy(classifier, backdoor, training)
    parts = split_data(training.take(slice(-_HELD_OUT, None)), rate=_RATE, confidence=None, seed=_SEED)
    fitted = [fit(copy, parts, _TERMS) for fit in (fit_strip, fit_sentinet)]
    victims = test.take(np.flatnonzero(backdoor.labels.attacks(test.labels))[:_TRIGGERED])
    images, wanted = backdoor.trigger(victims.images), backdoor.labels.called(victims.labels)
    fires = copy.predict(images).argmax(axis=1) == wanted
    if not fires.any():
        return None
    return _measured(kind, copy, conclude(fitted, _TERMS), images[fires], test.images[-_CLEAN:], share(fires)).cells()


def _measured(
    kind: str,
    classifier: KerasClassifier,
    detectors: Sequence[CalibratedDetector],
    triggered: Images,
    clean: Images,
    works: Share,
) -> _Row:
    choosing = [detector.fitted.choosing for detector in detectors]
    positives, negatives = (_patient_scores(classifier, detectors, images) for images in (triggered, clean))
    pairs = [*zip(positives, negatives, strict=True), (joint_scores(choosing, positives), joint_scores(choosing, negatives))]
    defended = DefendedClassifier(classifier, detectors=[Step(each.detector, each.mode) for each in detectors])
    found, harmless = defended.classify(triggered), defended.classify(clean)
    return _Row(
        kind,
        works,
        tuple(tpr_at_fpr(positive, negative, _RATE) for positive, negative in pairs),
        share(found.abstained),
        share(harmless.abstained),
        harmless.trace.model_calls / len(clean),
    )


def _patient_scores(
    classifier: KerasClassifier, detectors: Sequence[CalibratedDetector], images: Images
) -> list[NDArray[np.float64]]:
    """The scores of each detector without early exits; for STRIP the mean under all overlays of what it decides by."""
    patient: list[Strip | SentiNet] = []
    for each in detectors:
        detector = each.detector
        if isinstance(detector, Strip):
            patient.append(replace(detector, threshold=np.inf, stages=detector.stages[-1:], slack=(0.0,)))
        elif isinstance(detector, SentiNet):
            patient.append(replace(detector, threshold=np.inf))
    defended = DefendedClassifier(classifier, detectors=[Step(detector, "monitor") for detector in patient])
    return [detection.scores for detection in defended.classify(images).trace.detections]


if __name__ == "__main__":
    print(section())
