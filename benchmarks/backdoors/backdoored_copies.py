"""Copies of two classifiers, each with a backdoor of one kind, and the images to calibrate and to measure detectors with.

As in `evaluation/tables/backdoors.py`: an attacker who knows the purifier trains a copy on, with 4,000 clean images and poison made of
them, half of them purified.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attacks.backdoors.kinds import Backdoor, backdoors
from benchmarks.harness.coloured_digits import coloured_digits
from defences.assembly import assemble
from defences.calibration.purifier import choose_purifier
from defences.defended_classifier import Preprocessor, Step
from defences.keyed import image_keys
from defences.purifiers.purified_training import with_purified_copies
from models.bundle import read_bundle, standard_bundle_directory
from models.classifier import Images, Labels
from models.datasets import MNIST, Dataset, load_dataset
from models.engines.keras import KerasClassifier
from models.training.fine_tuning import fine_tune
from models.training.reference_classifier import Recipe, train

SEED, SOURCE, TARGET = 0, 1, 7
TRAINED_ON, HELD_OUT, CLEAN, TRIGGERED = 4000, 3000, 2000, 1000
EPOCHS, LEARNING_RATE, BATCH = 6, 4e-3, 32
_THREADS = 2


@dataclass(frozen=True)
class Scene:
    """A classifier without a backdoor, its purifier, the attacker's images, those to calibrate on, and those to measure on."""

    name: str
    classifier: KerasClassifier
    preprocessors: tuple[Step[Preprocessor], ...]
    training: Dataset
    held_out: Dataset
    test: Dataset

    @property
    def clean(self) -> Dataset:
        """Those of the test images that are measured without a trigger."""
        return self.test.take(slice(0, CLEAN))

    def backdoors(self) -> dict[str, Backdoor]:
        """Every kind."""
        return backdoors(self.classifier, source=SOURCE, target=TARGET, seed=SEED)

    def purified(self, images: Images) -> Images:
        """The images as the classifier gets them."""
        for step in self.preprocessors:
            images = step.defence(images, image_keys(images, b""))
        return images

    def poisoned(self, backdoor: Backdoor) -> Dataset:
        """The attacker's data, half of them purified."""
        data = backdoor.poison(self.training, seed=SEED).data
        images, half = data.images.copy(), np.random.default_rng(SEED).random(len(data)) < 0.5
        images[half] = self.purified(images[half])
        return Dataset(images, data.labels)

    def triggered(self, backdoor: Backdoor) -> tuple[Images, Labels]:
        """Test images with the trigger, and what the attacker wants them called."""
        victims = self.test.take(np.flatnonzero(backdoor.labels.attacks(self.test.labels))[:TRIGGERED])
        return backdoor.trigger(victims.images), backdoor.labels.called(victims.labels)


def digits() -> Scene:
    """`mnist-standard` and digits 28x28x1."""
    bundle = read_bundle(standard_bundle_directory())
    classifier = KerasClassifier.from_bundle(bundle, threads=_THREADS)
    preprocessors = assemble(bundle, classifier, secret=b"benchmark", threads=_THREADS).preprocessors
    training, test = load_dataset(MNIST), load_dataset(MNIST, split="test")
    return _scene("digits", classifier, preprocessors, training, test)


def colour() -> Scene:
    """The reference network, five epochs on 12,000 coloured digits on photographs, 32x32x3."""
    given = load_dataset(MNIST).take(slice(0, 20_000)), load_dataset(MNIST, split="test").take(slice(0, 5000))
    training, test = (coloured_digits(data, seed=seed) for seed, data in enumerate(given))
    prepared = with_purified_copies(training.take(slice(0, 12_000)), seed=SEED, threads=_THREADS)
    classifier = KerasClassifier(train(prepared, recipe=Recipe(epochs=5, seed=SEED), threads=_THREADS))
    found = choose_purifier(classifier, training.take(slice(-2000, None)), threads=_THREADS)
    return _scene("colour", classifier, (Step(found.purifier, found.mode),), training, test)


def copy_with(scene: Scene, backdoor: Backdoor) -> KerasClassifier:
    """The classifier, trained on with poison."""
    data = scene.poisoned(backdoor)
    return fine_tune(scene.classifier, data, epochs=EPOCHS, learning_rate=LEARNING_RATE, batch_size=BATCH, seed=SEED)


def _scene(
    name: str, classifier: KerasClassifier, preprocessors: Sequence[Step[Preprocessor]], training: Dataset, test: Dataset
) -> Scene:
    enforced = tuple(step for step in preprocessors if step.mode == "enforce")
    held_out = training.take(slice(-HELD_OUT, None))
    return Scene(name, classifier, enforced, training.take(slice(0, TRAINED_ON)), held_out, test)
