"""python -m benchmarks.methods.adaptive: attackers who know the defence, against the purifier and against STRIP."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from attacks.attack import Goal
from attacks.backdoors.poisoning import AllToOne, poison
from attacks.backdoors.triggers import CornerPattern
from attacks.evasion.adaptive import AdaptiveView
from attacks.evasion.gradient import ProjectedGradientDescent
from attacks.evasion.transfer import Relentless
from benchmarks.harness.peers import table
from defences.calibration.split import Terms
from defences.calibration.split import split as split_data
from defences.calibration.strip import fit_strip
from defences.calibration.thresholds import conclude
from defences.defended_classifier import DefendedClassifier, Step
from defences.purifiers.total_variation import TotalVariation
from evaluation.statistics.intervals import share
from models.bundle import read_bundle, standard_bundle_directory
from models.classifier import Images
from models.datasets import MNIST, Dataset, load_dataset
from models.engines.keras import KerasClassifier
from models.training.reference_classifier import Recipe, train

_SEED = 0
_SECRET = b"the gateway's own"
_IMAGES = 500
_RADII = (0.1, 0.2, 0.3)
_SMALL_RADII = (0.02, 0.05, 0.1)
_STEPS = 40
_DRAWS = 8
_THREADS = 2
_TARGET = 9


def section() -> str:
    """The page's section."""
    return (
        "## Adaptive attackers\n\n"
        f"`python -m benchmarks.methods.adaptive`, seed {_SEED}. Projected gradient descent, L-inf, {_STEPS} steps from the "
        f"image and from one "
        f"random point, {_IMAGES} MNIST test images. Shares in %, in brackets exact 95 % intervals.\n\n"
        f"{_purifier()}\n{_strip()}"
    )


@dataclass(frozen=True)
class _Attacker:
    """An attacker of a purifier, by knowledge and method."""

    name: str
    draws: int = 0
    identity: bool = False
    secret: bool = False

    def images(self, defended: DefendedClassifier, classifier: KerasClassifier, data: Dataset, eps: float) -> Images:
        attack = ProjectedGradientDescent(eps=eps, iterations=_STEPS, restarts=1)
        if not self.draws:
            return attack(Relentless(classifier), data.images, Goal(data.labels), seed=_SEED).images
        view = AdaptiveView(
            defended,
            classifier,
            secret=_SECRET if self.secret else None,
            draws=self.draws,
            identity=self.identity,
            seed=_SEED,
        )
        return attack(view, data.images, Goal(data.labels), seed=_SEED).images


_ATTACKERS = (
    _Attacker("does not know the purifier"),
    _Attacker("BPDA, purifier taken for the identity", draws=_DRAWS, identity=True),
    _Attacker("BPDA, one key of its own", draws=1),
    _Attacker(f"BPDA + EOT over {_DRAWS} keys of its own", draws=_DRAWS),
    _Attacker("BPDA with the gateway's secret", draws=1, secret=True),
)


def _purifier() -> str:
    test = load_dataset(MNIST, split="test").take(slice(0, _IMAGES))
    bundled = KerasClassifier.from_bundle(read_bundle(standard_bundle_directory()), threads=_THREADS)
    weight = 2 / math.sqrt(test.images[0].size)
    rows = []
    for keep in (1.0, 0.8):
        purifier = TotalVariation(weight=weight, keep_probability=keep, threads=_THREADS)
        defended = DefendedClassifier(bundled, preprocessors=[Step(purifier)], secret=_SECRET)
        for attacker in _ATTACKERS:
            found = [defended.classify(attacker.images(defended, bundled, test, eps)).labels for eps in _RADII]
            rows.append([f"keep {keep:g}", attacker.name, *(str(share(labels == test.labels)) for labels in found)])
    return (
        f"Accuracy of `mnist-standard` behind the purifier (weight {weight:.4f}; keep 1 keeps every pixel, keep .8 drops a fifth "
        f"of them by a keyed mask):\n\n{table(('purifier', 'attacker', *(f'eps {eps:g}' for eps in _RADII)), rows)}"
    )


def _strip() -> str:
    """Triggered images, perturbed so that STRIP does not refuse them and they still get the attacker's label."""
    training, test, trigger = load_dataset(MNIST), load_dataset(MNIST, split="test"), CornerPattern()
    poisoned = poison(training.take(slice(0, 10_000)), trigger, AllToOne(_TARGET), rate=0.5, seed=_SEED)
    classifier = KerasClassifier(train(poisoned.data, recipe=Recipe(epochs=8, seed=_SEED), threads=_THREADS))
    parts = split_data(training.take(slice(55_000, 60_000)), rate=0.01, confidence=None, seed=_SEED)
    terms = Terms(rate=0.01, seed=_SEED)
    (calibrated,) = conclude([fit_strip(classifier, parts, terms)], terms)
    strip: Any = calibrated.detector
    defended = DefendedClassifier(classifier, detectors=[Step(strip)], secret=_SECRET)
    triggered = trigger(test.images[test.labels != _TARGET][:_IMAGES])
    goal = Goal(np.full(len(triggered), _TARGET), targeted=True)
    rows = [_strip_row("as they are", defended, triggered)]
    for eps in _SMALL_RADII:
        attack = ProjectedGradientDescent(eps=eps, iterations=_STEPS, restarts=1)
        view = AdaptiveView(defended, classifier, targeted=True, overlays=32, seed=_SEED)
        rows.append(_strip_row(f"STRIP-aware, eps {eps:g}", defended, attack(view, triggered, goal, seed=_SEED).images))
    header = ("triggered images", "refused", "answered with the attacker's label")
    return (
        f"STRIP ({strip.blend} {strip.weight:g}, {len(strip.overlays)} overlays) on the tutorial's backdoor; the attacker knows the "
        f"overlays and the threshold, but not the order of the overlays:\n\n{table(header, rows)}"
    )


def _strip_row(name: str, defended: DefendedClassifier, images: Images) -> list[str]:
    decisions = defended.classify(images)
    return [name, str(share(decisions.abstained)), str(share(decisions.labels == _TARGET))]


if __name__ == "__main__":
    print(section())
