"""python -m benchmarks repeated_tries: how often an image that STRIP refuses passes when its order of overlays is drawn again and again.

Whoever changes three pixels by 1/255 gets another key, and with it another order, while the entropies under the overlays stay what they
were. So each refused image's entropies are measured once, under all overlays, and its decision is repeated in random orders.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attacks.backdoors.kinds import backdoors
from benchmarks.harness.peers import table
from defences.assembly import load_bundle
from defences.calibration.sentinet import fit_sentinet
from defences.calibration.split import Terms
from defences.calibration.split import split as split_data
from defences.calibration.strip import fit_strip
from defences.calibration.thresholds import Fit, conclude
from defences.defended_classifier import DefendedClassifier, Detector, Step
from defences.detectors.strip import Strip, entropy_bits
from defences.keyed import random_keys
from models.bundle import default_bundle_directory, read_bundle, standard_bundle_directory
from models.classifier import Classifier, Images
from models.datasets import MNIST, Dataset, load_dataset
from models.engines.keras import KerasClassifier
from models.training.fine_tuning import fine_tune

_SEED, _THREADS = 0, 2
_SOURCE, _TARGET = 1, 7
_KINDS = ("corner_pattern", "single_pixel", "blended", "image_patch")
_POISONED, _EPOCHS = 4000, 6
_CLEAN, _TRIGGERED = 4000, 1000
_TRIES, _ORDERS = 64, 2000
_FEW = 100
_TERMS = Terms(rate=0.01, seed=_SEED)
_AT_ONCE = 10

_HEADER = (
    "classifier",
    "mean overlays, clean",
    f"triggered, refused by all overlays: pass in one try / in {_TRIES}",
    "the same triggered, one secret order for every image: pass, on average / 99th percentile over secrets",
    f"clean, refused by all overlays: pass in one try / in {_TRIES}",
)


@dataclass(frozen=True)
class Tries:
    """Refused images, and the mean share of them that pass early in one order and in any of 64."""

    images: int
    once: float
    in_all: float

    def __str__(self) -> str:
        return f"{100 * self.once:.2f} % / **{100 * self.in_all:.2f} %** of {self.images}" if self.images else "none refused"


def section() -> str:
    """The page's section."""
    training, test = load_dataset(MNIST), load_dataset(MNIST, split="test")
    rows = [_bundled(directory, test.images[:_CLEAN]) for directory in (default_bundle_directory(), standard_bundle_directory())]
    standard = KerasClassifier.from_bundle(read_bundle(standard_bundle_directory()), threads=_THREADS)
    rows += [_poisoned(standard, kind, training, test) for kind in _KINDS]
    return (
        "## Repeated tries against STRIP's early exits\n\n"
        f"`python -m benchmarks repeated_tries`, seed {_SEED}: each image that all overlays refuse, in {_ORDERS:,} random orders of the "
        f"overlays, each another small change of the image; the share that leaves early in one order, and in at least one of {_TRIES}. "
        f"Bundled classifiers, and copies of `mnist-standard` trained on for {_EPOCHS} epochs with {_POISONED:,} clean images and poison "
        f"made of them, target {_TARGET}, with STRIP calibrated for them (rate 0.01, marginal). {_CLEAN:,} clean test images and up to "
        f"{_TRIGGERED:,} triggered ones.\n\n{table(_HEADER, rows)}\n"
        f"{_past_sentinet(standard, 'image_patch', training, test)}"
    )


def _bundled(directory: Path, clean: Images) -> list[str]:
    defended = load_bundle(directory, threads=_THREADS)
    (strip,) = (step.defence for step in defended.detectors if isinstance(step.defence, Strip))
    return _row(f"`{directory.name}`", defended.classifier, strip, clean, None)


def _backdoored(standard: KerasClassifier, kind: str, training: Dataset, test: Dataset) -> tuple[KerasClassifier, Images]:
    """A copy of the classifier with a backdoor, and triggered images that it calls the target."""
    backdoor = backdoors(standard, source=_SOURCE, target=_TARGET, seed=_SEED)[kind]
    data = backdoor.poison(training.take(slice(0, _POISONED)), seed=_SEED).data
    classifier = fine_tune(standard, data, epochs=_EPOCHS, learning_rate=4e-3, batch_size=32, seed=_SEED)
    triggered = backdoor.trigger(test.images[test.labels != _TARGET][:_TRIGGERED])
    return classifier, triggered[classifier.predict(triggered).argmax(axis=1) == _TARGET]


def _calibrated(fit: Fit, classifier: KerasClassifier, training: Dataset) -> Detector:
    parts = split_data(training.take(slice(55_000, 60_000)), rate=_TERMS.rate, confidence=None, seed=_SEED)
    (calibrated,) = conclude([fit(classifier, parts, _TERMS)], _TERMS)
    return calibrated.detector


def _poisoned(standard: KerasClassifier, kind: str, training: Dataset, test: Dataset) -> list[str]:
    classifier, triggered = _backdoored(standard, kind, training, test)
    strip = _calibrated(fit_strip, classifier, training)
    assert isinstance(strip, Strip)
    return _row(kind.replace("_", " "), classifier, strip, test.images[:_CLEAN], triggered)


def _past_sentinet(standard: KerasClassifier, kind: str, training: Dataset, test: Dataset) -> str:
    """How often triggered images that SentiNet refuses pass under other keys; its order decides its windows, so it decides anew."""
    classifier, triggered = _backdoored(standard, kind, training, test)
    detector = _calibrated(fit_sentinet, classifier, training)
    rng = np.random.default_rng(_SEED)
    refused = np.array([_refuses(detector, classifier, triggered[:_FEW], rng) for _ in range(_TRIES)])
    mostly = refused[:, refused.mean(axis=0) > 0.5]
    return (
        f"SentiNet on the {kind.replace('_', ' ')}, {mostly.shape[1]} of {_FEW} triggered images that it refuses under most keys: "
        f"{100 * (~mostly).mean():.2f} % pass in one try, **{100 * (~mostly).any(axis=0).mean():.2f} %** in {_TRIES}.\n"
    )


def _refuses(detector: Detector, classifier: Classifier, images: Images, rng: np.random.Generator) -> NDArray[np.bool_]:
    session = detector.begin(images, random_keys(len(images), rng))
    while session.undecided.size:
        session.decide(classifier.predict(session.probe()))
    return session.abstained


def _row(name: str, classifier: Classifier, strip: Strip, clean: Images, triggered: Images | None) -> list[str]:
    calls = DefendedClassifier(classifier, detectors=[Step(strip)]).classify(clean).trace.detections[0].calls
    cells = ["", ""]
    if triggered is not None:
        bits = entropies(classifier, strip, triggered)
        cells = [str(tries(strip, bits)), _with_one_order(strip, bits)]
    return [name, f"{calls.mean():.1f}", *cells, str(tries(strip, entropies(classifier, strip, clean)))]


def entropies(classifier: Classifier, strip: Strip, images: Images) -> NDArray[np.float64]:
    """The entropy of each image under each overlay: [n, N]."""
    overlays = len(strip.overlays)
    order = np.tile(np.arange(overlays, dtype=np.int32), (_AT_ONCE, 1))
    blocks = [images[start : start + _AT_ONCE] for start in range(0, len(images), _AT_ONCE)]
    found = [entropy_bits(classifier.predict(strip.superimpose(block, order[: len(block)]))) for block in blocks]
    return np.concatenate(found).reshape(len(images), overlays)


def tries(strip: Strip, entropies: NDArray[np.float64]) -> Tries:
    """How often the images that all overlays refuse pass by leaving early."""
    rng = np.random.default_rng(_SEED)
    refused = entropies[entropies.mean(axis=1) <= strip.threshold]
    once = np.array([_leaves(strip, bits[strip.orders(random_keys(_ORDERS, rng))]).mean() for bits in refused])
    in_all = 1 - (1 - once) ** _TRIES
    return Tries(len(refused), float(once.mean()), float(in_all.mean())) if len(refused) else Tries(0, 0.0, 0.0)


def _with_one_order(strip: Strip, entropies: NDArray[np.float64]) -> str:
    refused = entropies[entropies.mean(axis=1) <= strip.threshold]
    orders = strip.orders(random_keys(_ORDERS, np.random.default_rng(_SEED)))
    shares = [100 * _leaves(strip, refused[:, order]).mean() for order in orders]
    return f"{np.mean(shares):.2f} % / {np.quantile(shares, 0.99):.2f} %"


def _leaves(strip: Strip, entropies: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which images leave early, whose entropies come in this order: [n, N] -> [n]."""
    early = np.asarray(strip.stages[:-1])
    means = np.cumsum(entropies, axis=1)[:, early - 1] / early
    leaves: NDArray[np.bool_] = (means > strip.boundaries()[:-1]).any(axis=1)
    return leaves


if __name__ == "__main__":
    print(section())
