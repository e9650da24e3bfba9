"""python -m benchmarks.methods.adaptive_backdoors: backdoors of attackers who train the model and know the detectors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from attacks.backdoors.adaptive_kinds import AdaptiveBackdoor, adaptive_backdoors
from attacks.backdoors.kinds import backdoors
from benchmarks.harness.peers import table
from benchmarks.methods.backdoors import coloured_digits
from defences.calibration.fits import fits_of, fittable
from defences.calibration.split import Terms, split
from defences.calibration.thresholds import calibrate_detectors
from defences.defended_classifier import DefendedClassifier, Step
from evaluation.statistics.intervals import share
from models.bundle import read_bundle, standard_bundle_directory
from models.classifier import Labels
from models.datasets import MNIST, Dataset, load_dataset
from models.engines.keras import KerasClassifier
from models.training.fine_tuning import fine_tune
from models.training.reference_classifier import Recipe, train

_SEED, _THREADS = 0, 2
_SOURCE, _TARGET = 1, 7
_POISONED, _HELD, _CLEAN, _TRIGGERED = 4000, 3000, 1000, 500
_EPOCHS = 6
_RATE = 0.01
_DETECTORS = tuple(name for name in ("strip", "layer_disagreement", "badexpert") if name in fittable())


def section() -> str:
    """The page's section."""
    training, test = load_dataset(MNIST), load_dataset(MNIST, split="test")
    bundled = KerasClassifier.from_bundle(read_bundle(standard_bundle_directory()), threads=_THREADS)
    colour = [
        coloured_digits(data, seed=seed) for seed, data in enumerate((training.take(slice(0, 20_000)), test.take(slice(0, 5000))))
    ]
    recipe = Recipe(epochs=5, seed=_SEED)
    coloured = KerasClassifier(train(colour[0].take(slice(0, 12_000)), recipe=recipe, threads=_THREADS))
    header = ("attacker", "knows", "works (before)", "clean accuracy (before)", *(f"{name}: TPR (FPR)" for name in _DETECTORS))
    return (
        "## Backdoors of attackers who know the detectors\n\n"
        f"`python -m benchmarks.methods.adaptive_backdoors`, seed {_SEED}: the attacker trains a copy of the classifier for "
        f"{_EPOCHS} epochs on {_POISONED:,} images and poison made of them; target {_TARGET}, source-specific: of class {_SOURCE}. "
        f"Each detector alone is calibrated on {_HELD:,} clean images that no training saw (rate {_RATE:g}, marginal). TPR: of at most "
        f"{_TRIGGERED} triggered test images whose trigger works; FPR: of {_CLEAN:,} clean ones. In brackets after a TPR the exact 95 % "
        "interval. The first two rows are the same triggers by attackers who train as usual.\n\n"
        f"### Digits, `mnist-standard`\n\n{table(header, list(_rows(bundled, training, test)))}\n"
        f"### Coloured digits on crops of photographs, 32x32x3\n\n{table(header, list(_rows(coloured, *colour)))}"
    )


@dataclass(frozen=True)
class _Scene:
    classifier: KerasClassifier
    data: Dataset
    held: Dataset
    test: Dataset


def _rows(classifier: KerasClassifier, training: Dataset, test: Dataset) -> Iterator[list[str]]:
    scene = _Scene(classifier, training.take(slice(0, _POISONED)), training.take(slice(-_HELD, None)), test)
    usual = backdoors(classifier, source=_SOURCE, target=_TARGET, seed=_SEED)

    def trained(given: KerasClassifier, poisoned: Dataset) -> KerasClassifier:
        return fine_tune(given, poisoned, epochs=_EPOCHS, learning_rate=4e-3, batch_size=32, seed=_SEED)

    known = {
        f"{kind}, as usual": AdaptiveBackdoor(usual[kind], lambda given, poisoned: trained(given, poisoned.data), "nothing")
        for kind in ("blended", "source_specific")
    }
    known |= adaptive_backdoors(classifier, source=_SOURCE, target=_TARGET, epochs=_EPOCHS, seed=_SEED)
    return (_row(scene, name, attacker) for name, attacker in known.items())


def _row(scene: _Scene, name: str, attacker: AdaptiveBackdoor) -> list[str]:
    backdoor = attacker.backdoor
    copy = attacker.training(scene.classifier, backdoor.poison(scene.data, seed=_SEED))
    victims = scene.test.take(np.flatnonzero(backdoor.labels.attacks(scene.test.labels))[:_TRIGGERED])
    images, wanted = backdoor.trigger(victims.images), backdoor.labels.called(victims.labels)
    works, clean = _labels(copy, images) == wanted, scene.test.take(slice(0, _CLEAN))
    parts = split(scene.held, rate=_RATE, confidence=None, seed=_SEED)
    refusals = []
    for detector in _DETECTORS:
        (calibrated,) = calibrate_detectors(copy, parts, fits_of([detector]), Terms(rate=_RATE, seed=_SEED))
        defended = DefendedClassifier(copy, detectors=[Step(calibrated.detector)])
        caught, refused = defended.classify(images[works]).abstained, defended.classify(clean.images).abstained
        refusals.append(f"**{share(caught)}** ({100 * refused.mean():.1f})")
    before, own = (share(_labels(each, clean.images) == clean.labels) for each in (scene.classifier, copy))
    return [
        name.replace("_", " "),
        attacker.knows,
        f"{100 * works.mean():.1f} % ({100 * (_labels(scene.classifier, images) == wanted).mean():.1f})",
        f"{100 * own.rate:.1f} % ({100 * before.rate:.1f})",
        *refusals,
    ]


def _labels(classifier: KerasClassifier, images: np.ndarray) -> Labels:
    labels: Labels = classifier.predict(images).argmax(axis=1)
    return labels


if __name__ == "__main__":
    print(section())
