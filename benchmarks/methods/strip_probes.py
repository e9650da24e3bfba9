"""python -m benchmarks.methods.strip_probes: STRIP with overlays on raw images and on purified ones.

The figures of docs/decisions/0003-strip-probes-raw-images.md; about five minutes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from attacks.backdoors.poisoning import AllToOne, poison
from attacks.backdoors.triggers import CornerPattern
from benchmarks.harness.peers import table
from defences.calibration.conformal import conformal_threshold
from defences.defended_classifier import DefendedClassifier, Step
from defences.detectors.strip import Strip
from defences.keyed import image_keys
from defences.purifiers.purified_training import with_purified_copies
from defences.purifiers.total_variation import TotalVariation
from models.classifier import Images
from models.datasets import MNIST, load_dataset
from models.engines.keras import KerasClassifier
from models.training.reference_classifier import Recipe, train

_SEED = 0
_TARGET = 9
_OVERLAYS = 96
_THREADS = 2
_PURIFIER = TotalVariation(weight=0.0714)


def main() -> None:
    """Print the table."""
    training, test = load_dataset(MNIST), load_dataset(MNIST, split="test")
    clean = training.take(slice(55_000, 57_000)).images
    overlays = np.rint(training.images[58_000 : 58_000 + _OVERLAYS] * 255).astype(np.uint8)
    triggered = CornerPattern()(test.images[test.labels != _TARGET][:1000])
    rows = []
    for images, rate, epochs in ((10_000, 0.5, 8), (55_000, 0.1, 5)):
        data = poison(training.take(slice(0, images)), CornerPattern(), AllToOne(_TARGET), rate=rate, seed=_SEED).data
        prepared = with_purified_copies(data, seed=_SEED, threads=_THREADS)
        classifier = KerasClassifier(train(prepared, recipe=Recipe(epochs=epochs, seed=_SEED), threads=_THREADS))
        fires = (classifier.predict(_purified(triggered)).argmax(axis=1) == _TARGET).mean()
        found = [f"{100 * _caught(classifier, overlays, clean, triggered, view):.1f} %" for view in (_purified, _as_they_came)]
        rows.append([f"{images:,} images, {100 * rate:.0f} % poison", f"{100 * fires:.1f} %", *found])
    print(table(("trained with purified copies on", "fires once purified", "overlays on purified", "overlays on raw"), rows))


def _caught(
    classifier: KerasClassifier, overlays: NDArray[np.uint8], clean: Images, triggered: Images, view: Callable[[Images], Images]
) -> float:
    """The share of triggered images with scores up to the 1 % quantile of clean ones, under all overlays."""
    strip = Strip(overlays=overlays, threshold=np.inf, stages=(len(overlays),), slack=(0.0,))
    defended = DefendedClassifier(classifier, detectors=[Step(strip, "monitor")])
    scores = [defended.classify(view(images)).trace.detections[0].scores for images in (clean, triggered)]
    return float((scores[1] <= conformal_threshold(scores[0], 0.01)).mean())


def _purified(images: Images) -> Images:
    return _PURIFIER(images, image_keys(images, b""))


def _as_they_came(images: Images) -> Images:
    return images


if __name__ == "__main__":
    main()
