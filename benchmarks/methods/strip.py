"""python -m benchmarks.methods.strip: the tutorial's backdoor against STRIP alone, the full stack, and ART's STRIP."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from attacks.backdoors.poisoning import AllToOne, poison
from attacks.backdoors.triggers import CornerPattern
from benchmarks.harness.peers import alternate, art_classifier, table
from defences.calibration.purifier import choose_purifier
from defences.calibration.split import CalibrationSplit, Terms
from defences.calibration.split import split as split_data
from defences.calibration.strip import fit_strip
from defences.calibration.thresholds import CalibratedDetector, conclude
from defences.defended_classifier import Decisions, DefendedClassifier, Step
from defences.postprocessors.reverse_sigmoid import ReverseSigmoid
from defences.purifiers.purified_training import with_purified_copies
from models.classifier import Images
from models.datasets import MNIST, Dataset, load_dataset
from models.engines.keras import KerasClassifier
from models.training.reference_classifier import Recipe, train

_SEED = 0
_TARGET = 9
_RATE = 0.01
_EPOCHS = 8
_THREADS = 2
_TIMED = 128


@dataclass(frozen=True)
class _Data:
    """The tutorial's training set, a calibration set disjoint from it, and MNIST's test images."""

    poisoned: Dataset
    held_out: Dataset
    clean: Dataset
    triggered: Images


def _data() -> _Data:
    trigger = CornerPattern()
    training = load_dataset(MNIST)
    test = load_dataset(MNIST, split="test")
    poisoned = poison(training.take(slice(0, 10_000)), trigger, AllToOne(_TARGET), rate=0.5, seed=_SEED)
    others = test.images[test.labels != _TARGET]
    return _Data(poisoned.data, training.take(slice(55_000, 60_000)), test, trigger(others))


def section() -> str:
    """The page's section."""
    data = _data()
    recipe = Recipe(epochs=_EPOCHS, seed=_SEED)
    alone = KerasClassifier(train(data.poisoned, recipe=recipe, threads=_THREADS))
    prepared = KerasClassifier(
        train(with_purified_copies(data.poisoned, seed=_SEED, threads=_THREADS), recipe=recipe, threads=_THREADS)
    )
    parts = split_data(data.held_out, rate=_RATE, confidence=None, seed=_SEED)
    strip = _strip(alone, parts)
    chosen: Any = strip.detector
    rows = [_row("STRIP alone", DefendedClassifier(alone, detectors=[Step(strip.detector)], secret=b"benchmark"), alone, data)]
    for name, classifier in (
        ("full stack, classifier trained plainly", alone),
        ("full stack, trained on purified copies", prepared),
    ):
        rows.append(_row(name, _full_stack(classifier, data.held_out, parts), classifier, data))
    art_detected, art_false, ratio = _against_art(alone, strip, data)
    rows.append(
        [
            "ART 1.20 STRIP (1,000 + 1,000 images)",
            f"{100 * art_detected:.2f} %",
            f"{100 * art_false:.2f} %",
            "",
            "",
            "100",
            "",
            "",
        ]
    )
    header = (
        "defence",
        "refused of triggered (TPR)",
        "refused of clean (FPR)",
        "triggered answered with the attacker's label",
        "accuracy on clean, answered (undefended)",
        "mean overlays, clean",
        "mean overlays, triggered",
        "trigger fires undefended",
    )
    return (
        "## STRIP\n\n"
        f"`python -m benchmarks.methods.strip`, seed {_SEED}: a four-pixel corner pattern on half of a training set made of "
        f"the first 10,000 "
        f"MNIST training images, every poisoned label {_TARGET}, the reference network, {_EPOCHS} epochs. Calibrated on 5,000 other "
        f"training images (rate {_RATE:g}, marginal), measured on all 10,000 test images and, triggered, on the "
        f"{len(data.triggered):,} of them that are no {_TARGET}. The rate is promised for images like those calibrated on; "
        f"MNIST's test images were written by other people than its training images.\n\n{table(header, rows)}\n"
        f"Chosen by calibration for STRIP alone: {len(chosen.overlays)} overlays, {chosen.blend} {chosen.weight:g}, stages "
        f"{chosen.stages}, threshold {strip.threshold:.4f} of change. Clean images per second, the same {_TIMED} images, same "
        f"model, alternating: **{ratio:.1f}x** ART.\n\n{_early_exits(alone, strip, data)}"
    )


def _strip(classifier: KerasClassifier, parts: CalibrationSplit) -> CalibratedDetector:
    terms = Terms(rate=_RATE, seed=_SEED)
    (strip,) = conclude([fit_strip(classifier, parts, terms)], terms)
    return strip


def _full_stack(classifier: KerasClassifier, held_out: Dataset, parts: CalibrationSplit) -> DefendedClassifier:
    purifier = choose_purifier(classifier, held_out, threads=_THREADS)
    strip = _strip(classifier, parts)
    return DefendedClassifier(
        classifier,
        preprocessors=[Step(purifier.purifier, purifier.mode)],
        detectors=[Step(strip.detector, strip.mode)],
        postprocessors=[Step(ReverseSigmoid())],
        secret=b"benchmark",
    )


def _row(name: str, defended: DefendedClassifier, classifier: KerasClassifier, data: _Data) -> list[str]:
    clean, triggered = defended.classify(data.clean.images), defended.classify(data.triggered)
    answered = ~clean.abstained
    undefended = classifier.predict(data.clean.images).argmax(axis=1) == data.clean.labels
    purifiers = ", ".join(f"purifier {step.mode}" for step in defended.preprocessors)
    return [
        f"{name}{f' ({purifiers})' if purifiers else ''}",
        f"**{100 * triggered.abstained.mean():.2f} %**",
        f"{100 * clean.abstained.mean():.2f} %",
        f"**{100 * (triggered.labels == _TARGET).mean():.2f} %**",
        f"{100 * (clean.labels == data.clean.labels)[answered].mean():.2f} % ({100 * undefended.mean():.2f} %)",
        f"**{_overlays(clean):.1f}**",
        f"{_overlays(triggered):.1f}",
        f"{100 * (classifier.predict(data.triggered).argmax(axis=1) == _TARGET).mean():.1f} %",
    ]


def _overlays(decisions: Decisions) -> float:
    return float(decisions.trace.detections[0].calls.mean())


def _against_art(classifier: KerasClassifier, strip: CalibratedDetector, data: _Data) -> tuple[float, float, float]:
    """ART's shares of triggered and of clean images refused, and the ratio of clean images per second, ours to ART's."""
    from art.defences.transformer.poisoning import STRIP

    defended = DefendedClassifier(classifier, detectors=[Step(strip.detector)], secret=b"benchmark")
    np.random.seed(_SEED)  # ART draws its overlays from the global state
    art = STRIP(art_classifier(classifier))(num_samples=100, false_acceptance_rate=_RATE)
    art.mitigate(data.held_out.images[:2000])
    images = data.clean.images[:_TIMED]
    seconds = alternate([lambda: defended.classify(images), lambda: art.predict(images)], 3)
    refused = [
        float((np.asarray(art.predict(x)).sum(axis=1) == 0).mean()) for x in (data.triggered[:1000], data.clean.images[:1000])
    ]
    return refused[0], refused[1], seconds[1] / seconds[0]


def _early_exits(classifier: KerasClassifier, strip: CalibratedDetector, data: _Data) -> str:
    """The share of images on which the staged test and the full test at the same threshold disagree."""
    staged: Any = strip.detector
    full = replace(staged, stages=(len(staged.overlays),), slack=(0.0,))
    images, triggered = data.clean.images[:5000], data.triggered[:2000]
    shares = []
    for some in (images, triggered):
        decided = [
            DefendedClassifier(classifier, detectors=[Step(s)], secret=b"benchmark").classify(some) for s in (staged, full)
        ]
        shares.append(float((decided[0].abstained != decided[1].abstained).mean()))
    return (
        f"Early exits and all {len(full.overlays)} overlays at the same threshold disagree on {100 * shares[0]:.2f} % of "
        f"{len(images):,} clean and {100 * shares[1]:.2f} % of {len(triggered):,} triggered images.\n"
    )


if __name__ == "__main__":
    print(section())
