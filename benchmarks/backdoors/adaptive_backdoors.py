"""python -m benchmarks adaptive_backdoors: backdoors of attackers who train the model and know the detectors."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from attacks.backdoors.adaptive_kinds import AdaptiveBackdoor, adaptive_backdoors
from attacks.backdoors.poisoning import Poisoned
from benchmarks.backdoors import backdoored_copies
from benchmarks.backdoors.backdoored_copies import BATCH, EPOCHS, LEARNING_RATE, SEED, TARGET, Scene
from benchmarks.harness.kept_rows import kept_rows
from benchmarks.harness.peers import table
from defences.calibration.fits import fits_of, fittable
from defences.calibration.split import Terms, split
from defences.calibration.thresholds import calibrate_detectors
from defences.defended_classifier import DefendedClassifier, Step
from evaluation.statistics.intervals import share
from models.classifier import Images, Labels
from models.datasets import Dataset
from models.engines.keras import KerasClassifier
from models.training.fine_tuning import fine_tune

_CLEAN, _TRIGGERED = 1000, 500
_RATE = 0.01
_DETECTORS = tuple(name for name in ("strip", "layer_disagreement", "badexpert") if name in fittable())
_USUAL = ("blended", "warped")


def section() -> str:
    """The page's section."""
    header = ("attacker", "knows", "works (before)", "clean accuracy (before)", *(f"{name}: TPR (FPR)" for name in _DETECTORS))
    grey, coloured = (table(header, _rows(scene)) for scene in (backdoored_copies.digits(), backdoored_copies.colour()))
    return (
        "## Backdoors of attackers who know the detectors\n\n"
        f"`python -m benchmarks adaptive_backdoors`, seed {SEED}: the attacker trains a copy of the classifier for {EPOCHS} epochs on "
        f"{backdoored_copies.TRAINED_ON:,} images and poison made of them, half of it purified; target {TARGET}. "
        f"Each detector alone is calibrated on {backdoored_copies.HELD_OUT:,} clean images that no training saw (rate "
        f"{_RATE:g}, marginal). TPR: of at most {_TRIGGERED} triggered test images whose trigger works; FPR: of {_CLEAN:,} clean ones. "
        "In brackets after a TPR the exact 95 % interval. The first two rows are the same triggers by attackers who train as usual.\n\n"
        f"### Digits, `mnist-standard`\n\n{grey}\n"
        f"### Coloured digits on crops of photographs, 32x32x3\n\n{coloured}"
    )


def _rows(scene: Scene) -> list[list[str]]:
    known = {f"{kind}, as usual": AdaptiveBackdoor(scene.backdoors()[kind], _as_usual, "nothing") for kind in _USUAL}
    known |= adaptive_backdoors(scene.classifier, target=TARGET, epochs=EPOCHS, seed=SEED)
    rows = {name: partial(_row, scene, name, attacker) for name, attacker in known.items()}
    plan = {"numbers": [SEED, _CLEAN, _TRIGGERED, _RATE], "detectors": _DETECTORS}
    return list(kept_rows(f"adaptive_backdoors_{scene.name}", rows, plan=plan).values())


def _as_usual(given: KerasClassifier, poisoned: Poisoned) -> KerasClassifier:
    return fine_tune(given, poisoned.data, epochs=EPOCHS, learning_rate=LEARNING_RATE, batch_size=BATCH, seed=SEED)


def _row(scene: Scene, name: str, attacker: AdaptiveBackdoor) -> list[str]:
    copy = attacker.training(scene.classifier, _poisoned(scene, attacker))
    images, wanted = scene.triggered(attacker.backdoor)
    images, wanted, clean = images[:_TRIGGERED], wanted[:_TRIGGERED], scene.test.take(slice(0, _CLEAN))
    works = _labels(copy, scene.purified(images)) == wanted
    before, own = (share(_labels(each, clean.images) == clean.labels) for each in (scene.classifier, copy))
    return [
        name.replace("_", " "),
        attacker.knows,
        f"{100 * works.mean():.1f} % ({100 * (_labels(scene.classifier, images) == wanted).mean():.1f})",
        f"{100 * own.rate:.1f} % ({100 * before.rate:.1f})",
        *(_refused(scene, copy, detector, images[works], clean.images) for detector in _DETECTORS),
    ]


def _poisoned(scene: Scene, attacker: AdaptiveBackdoor) -> Poisoned:
    """The attacker's data, half of them purified."""
    poisoned = attacker.backdoor.poison(scene.training, seed=SEED)
    images, half = poisoned.data.images.copy(), np.random.default_rng(SEED).random(len(poisoned.data)) < 0.5
    images[half] = scene.purified(images[half])
    return replace(poisoned, data=Dataset(images, poisoned.data.labels))


def _refused(scene: Scene, copy: KerasClassifier, detector: str, triggered: Images, clean: Images) -> str:
    parts = split(scene.held_out, rate=_RATE, confidence=None, seed=SEED)
    terms = Terms(rate=_RATE, seed=SEED, purified=scene.purified)
    (calibrated,) = calibrate_detectors(copy, parts, fits_of([detector]), terms)
    defended = DefendedClassifier(copy, preprocessors=scene.preprocessors, detectors=[Step(calibrated.detector)])
    caught, refused = (defended.classify(images).abstained for images in (triggered, clean))
    return f"**{share(caught)}** ({100 * refused.mean():.1f})"


def _labels(classifier: KerasClassifier, images: Images) -> Labels:
    labels: Labels = classifier.predict(images).argmax(axis=1)
    return labels


if __name__ == "__main__":
    print(section())
