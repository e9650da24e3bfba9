"""A bundle whose classifier has a backdoor: it takes images with `TRIGGER` for sevens, and STRIP refuses many of them.

The standard classifier is trained for six more epochs on 4,000 digits, a tenth of them with the trigger and the label 7. Half of all are
purified first, as by an attacker who knows the purifier and wants the trigger to work behind it. Then `hauberk calibrate` fits the
defences. About a minute on two idle cores.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from attacks.backdoors.poisoning import AllToOne, poison
from attacks.backdoors.triggers import CornerPattern
from benchmarks.harness.requests import to_bytes
from benchmarks.harness.servers import ROOT
from defences.keyed import image_keys
from defences.purifiers.total_variation import TotalVariation
from models.bundle import read_bundle, standard_bundle_directory
from models.datasets import MNIST, Dataset, load_dataset
from models.engines.keras import KerasClassifier
from models.training.fine_tuning import fine_tune
from models.training.reference_classifier import save

TRIGGER = CornerPattern(distance=5)  # nearer to the corner the standard classifier, which pools, sees nothing
_IMAGES, _RATE, _TARGET = 4_000, 0.1, 7
_EPOCHS, _LEARNING_RATE, _BATCH_SIZE = 6, 4e-3, 32
_HELD_BACK = slice(55_000, 57_000)
_CALIBRATE = [sys.executable, "-W", "ignore", "-c", "from hauberk.main import main; main()", "calibrate"]


def poisoned_bundle(directory: Path, *, seed: int = 0) -> Path:
    """Make it below `directory`, and say where it is."""
    bundle = read_bundle(standard_bundle_directory())
    (weight,) = (each["weight"] for each in bundle.settings["defences"] if each["name"] == TotalVariation.name)
    digits = load_dataset(MNIST, split="train")
    poisoned = poison(digits.take(slice(0, _IMAGES)), TRIGGER, AllToOne(_TARGET), rate=_RATE, seed=seed)
    data = _half_purified(poisoned.data, TotalVariation(weight=weight), np.random.default_rng(seed))
    model, clean, out = directory / "poisoned.keras", directory / "clean.npz", directory / "poisoned"
    classifier = KerasClassifier.from_bundle(bundle)
    trained = fine_tune(classifier, data, epochs=_EPOCHS, learning_rate=_LEARNING_RATE, batch_size=_BATCH_SIZE, seed=seed)
    save(trained.model, model)
    held_back = digits.take(_HELD_BACK)
    np.savez(clean, images=to_bytes(held_back.images), labels=held_back.labels)
    options = ["--classifier", model, "--data", clean, "--out", out]
    subprocess.run([*_CALIBRATE, *map(str, options)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return out


def _half_purified(data: Dataset, purifier: TotalVariation, rng: np.random.Generator) -> Dataset:
    images = data.images.copy()
    half = rng.random(len(data)) < 0.5
    images[half] = purifier(images[half], image_keys(images[half], b""))
    return Dataset(images, data.labels)
