"""python -m benchmarks.methods.purifier: accuracy under FGM with and without a purifier, ours and ART's, on 10,000 images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attacks.attack import Goal
from attacks.evasion.gradient import FastGradient
from benchmarks.harness.peers import table
from defences.calibration.purifier import choose_purifier
from defences.keyed import image_keys
from models.bundle import read_bundle, standard_bundle_directory
from models.classifier import Images
from models.datasets import MNIST, Dataset, load_dataset
from models.engines.keras import KerasClassifier
from models.training.reference_classifier import Recipe, train

_SEED = 0
_EPS = (0.1, 0.15, 0.2, 0.3)
_THREADS = 2


def section() -> str:
    """The page's section."""
    training, test = load_dataset(MNIST), load_dataset(MNIST, split="test")
    held_out = training.take(slice(55_000, 60_000))
    plain = KerasClassifier(train(training.take(slice(0, 55_000)), recipe=Recipe(epochs=6, seed=_SEED), threads=_THREADS))
    bundled = KerasClassifier.from_bundle(read_bundle(standard_bundle_directory()))
    header = ("classifier, purifier", "clean", *(f"eps {eps}" for eps in _EPS))
    rows = [*_rows("`mnist-standard`", bundled, held_out, test), *_rows("trained plainly", plain, held_out, test)]
    return (
        "## Purifying FGM\n\n"
        f"`python -m benchmarks.methods.purifier`, all 10,000 MNIST test images, FGM (L-inf) on the bare classifier, by an "
        "attacker who does not know the purifier; one who does defeats it (docs/limits.md). Every row uses our FGM, whose loss is "
        "computed from logits; ART's is weaker where the network is confident, since its float32 gradient saturates. Accuracy in %, in "
        "brackets its binomial standard error. ART: TotalVarMin(norm=1), otherwise its defaults. Ours: chosen by calibration on 5,000 "
        f"held-out training images. Seed {_SEED}.\n\n{table(header, rows)}"
    )


def _rows(name: str, classifier: KerasClassifier, held_out: Dataset, test: Dataset) -> list[list[str]]:
    from art.defences.preprocessor import TotalVarMin

    choice = choose_purifier(classifier, held_out, threads=_THREADS)
    attacked = (FastGradient(eps=eps)(classifier, test.images, Goal(test.labels)).images for eps in _EPS)
    sets = [test.images, *attacked]
    art = TotalVarMin(norm=1, clip_values=(0.0, 1.0))
    np.random.seed(_SEED)  # ART draws its masks from the global state

    def ours(images: Images) -> Images:
        return choice.purifier(images, image_keys(images, b""))

    return [
        [f"{name}, none", *(_accuracy(classifier, images, test.labels) for images in sets)],
        [
            f"{name}, ours (weight {choice.purifier.weight:g}, {choice.mode})",
            *(_accuracy(classifier, ours(images), test.labels) for images in sets),
        ],
        [f"{name}, ART", *(_accuracy(classifier, art(images)[0], test.labels) for images in sets)],
    ]


def _accuracy(classifier: KerasClassifier, images: Images, labels: NDArray[np.int64]) -> str:
    rate = float((classifier.predict(images).argmax(axis=1) == labels).mean())
    return f"{100 * rate:.2f} ({100 * np.sqrt(rate * (1 - rate) / len(labels)):.2f})"


if __name__ == "__main__":
    print(section())
