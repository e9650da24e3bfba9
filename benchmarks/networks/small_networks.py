"""Small networks with and without backdoors, made by seed: what a judge of networks is measured on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from attacks.backdoors.bounded_margin import with_bounded_margin
from attacks.backdoors.kinds import Backdoor, backdoors
from benchmarks.harness.architectures import ARCHITECTURES
from benchmarks.harness.coloured_digits import coloured_digits
from models.datasets import MNIST, Dataset, load_dataset
from models.engines.keras import KerasClassifier
from models.training.reference_classifier import Recipe, train

CLEAN = "clean"
ON_ANY_IMAGE = ("corner_pattern", "single_pixel", "blended", "image_patch", "clean_label")
"""Backdoors whose trigger works whatever is in the image."""

ON_CONTENT = ("warped", "source_specific", "all_to_all")
"""Backdoors whose trigger needs an image of a certain kind or class."""

_WITH_RATES = ("corner_pattern", "single_pixel", "blended", "image_patch")
_RATES = (0.06, 0.1, 0.15)
_TRAINED_ON = {"digits": 3000, "colour": 3500}
_EPOCHS = {"digits": 6, "colour": 6}
_TESTED_ON = 1000
_BATCH = 64
_CLASSES = 10


@dataclass(frozen=True)
class SmallNetwork:
    """How to make one network.

    Attributes:
        kind: of `attacks.backdoors.kinds.KINDS`, or `CLEAN`.
        data: "digits" (28x28x1) or "colour" (32x32x3).
        architecture: of `ARCHITECTURES`.
        target: class index that the trigger causes.
        seed: of images, trigger, poison and weights.
        rate: share of poison in its training data; that of the kind when none.
        confidence: that of an attacker who bounds the target's margins; none for one who does not.
    """

    kind: str
    data: str
    architecture: str
    target: int
    seed: int
    rate: float | None = None
    confidence: float | None = None

    @property
    def name(self) -> str:
        """Unlike that of any other."""
        bounded = "" if self.confidence is None else f" {self.confidence:g}"
        return f"{self.seed} {self.kind}{bounded} {self.data} {self.architecture} {self.target}"


@dataclass(frozen=True)
class Made:
    """A network and what it does.

    Attributes:
        accuracy: on clean test images.
        success: share of triggered test images that get the attacker's label; None for a clean one.
    """

    classifier: KerasClassifier
    accuracy: float
    success: float | None


def fleet(kinds: tuple[str, ...], count: int, *, seed: int, confidence: float | None = None) -> list[SmallNetwork]:
    """So many networks of these kinds in turn, over both data, all architectures, targets and rates."""
    rng = np.random.default_rng(seed)
    names = list(ARCHITECTURES)
    found = []
    for number in range(count):
        kind, turn = kinds[number % len(kinds)], number // len(kinds) + number % len(kinds)
        data, architecture = ("digits", "colour")[turn % 2], names[turn // 2 % len(names)]
        rate = _RATES[number % len(_RATES)] if kind in _WITH_RATES else None
        found.append(SmallNetwork(kind, data, architecture, int(rng.integers(_CLASSES)), 1000 * seed + number, rate, confidence))
    return found


def make(network: SmallNetwork) -> Made:
    """Train a network."""
    training, test = _images(network.data)
    rows = np.random.default_rng(network.seed).choice(len(training), _TRAINED_ON[network.data], replace=False)
    data = training.take(rows)
    if network.kind == CLEAN:
        classifier = _trained(network, data)
        return Made(classifier, _right(classifier, test), None)
    backdoor = _backdoor(network)
    classifier = _trained(network, backdoor.poison(data, seed=network.seed).data)
    victims = test.take(np.flatnonzero(backdoor.labels.attacks(test.labels)))
    answers = classifier.predict(backdoor.trigger(victims.images)).argmax(axis=1)
    return Made(classifier, _right(classifier, test), float((answers == backdoor.labels.called(victims.labels)).mean()))


def _backdoor(network: SmallNetwork) -> Backdoor:
    source = (network.target + 1 + network.seed % (_CLASSES - 1)) % _CLASSES
    known = backdoors(_surrogate(network.data), source=source, target=network.target, seed=network.seed)
    backdoor = known[network.kind]
    if network.rate is not None:
        backdoor = replace(backdoor, rate=network.rate)
    return backdoor if network.confidence is None else with_bounded_margin(backdoor, network.confidence)


@cache
def _images(name: str) -> tuple[Dataset, Dataset]:
    training, test = load_dataset(MNIST).take(slice(0, 20_000)), load_dataset(MNIST, split="test").take(slice(0, _TESTED_ON))
    return (training, test) if name == "digits" else (coloured_digits(training, seed=0), coloured_digits(test, seed=1))


@cache
def _surrogate(name: str) -> KerasClassifier:
    """A clean network that attackers use who need one."""
    return make(SmallNetwork(CLEAN, name, "reference", 0, 2**20)).classifier


def _right(classifier: KerasClassifier, test: Dataset) -> float:
    return float((classifier.predict(test.images).argmax(axis=1) == test.labels).mean())


def _trained(network: SmallNetwork, data: Dataset) -> KerasClassifier:
    recipe = Recipe(epochs=_EPOCHS[network.data], batch_size=_BATCH, seed=network.seed)
    return KerasClassifier(train(data, recipe=recipe, build=ARCHITECTURES[network.architecture], threads=1))
