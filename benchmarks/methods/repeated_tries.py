"""python -m benchmarks repeated_tries: how often an image that STRIP refuses passes when its order of overlays is drawn again and again.

Whoever changes three pixels by 1/255 gets another key, and with it another order, while what the overlays do to the answer stays what it
was. So each refused image is measured once, under all overlays, and its decision is repeated in random orders. Attackers who change
more change that too: they go the whole way, with images of their own, through the detector (`REROLLS`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
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
from defences.detectors.strip import Strip
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
_SECRET = b"benchmark"
_TERMS = Terms(rate=0.01, seed=_SEED)
_AT_ONCE = 10

_HEADER = (
    "classifier",
    "mean overlays, clean",
    f"triggered, refused by all overlays: pass in one try / in {_TRIES}",
    "the same triggered, one secret order for every image: pass, on average / 99th percentile over secrets",
    f"clean, refused by all overlays: pass in one try / in {_TRIES}",
)


Reroll = Callable[[Images, Images, np.random.Generator], Images]
"""(refused images, clean images, rng) -> each image changed a little, so that it gets another order."""


def three_pixels(images: Images, clean: Images, rng: np.random.Generator) -> Images:
    """By 1/255."""
    changed = images.reshape(len(images), -1).copy()
    for row in changed:
        at = rng.choice(row.size, 3, replace=False)
        row[at] += np.where(row[at] < 0.5, 1, -1) / np.float32(255)
    return changed.reshape(images.shape)


def noisy(images: Images, clean: Images, rng: np.random.Generator) -> Images:
    """Every pixel by up to 8/255."""
    changed: Images = np.clip(images + rng.uniform(-8 / 255, 8 / 255, images.shape), 0, 1).astype(np.float32)
    return changed


def shifted(images: Images, clean: Images, rng: np.random.Generator) -> Images:
    """By a pixel, or not, in either direction, and brighter or darker by up to a tenth."""
    moved = np.roll(images, rng.integers(-1, 2, 2), axis=(1, 2)) * np.float32(rng.uniform(0.9, 1.1))
    changed: Images = np.clip(moved, 0, 1).astype(np.float32)
    return changed


def mixed(images: Images, clean: Images, rng: np.random.Generator) -> Images:
    """A tenth of another clean image, where the image is dark: a bright trigger stays."""
    other = clean[rng.integers(len(clean), size=len(images))]
    return np.maximum(images, np.float32(0.1) * other)


REROLLS: dict[str, Reroll] = {
    "three pixels by 1/255": three_pixels,
    "noise of 8/255": noisy,
    "shift by a pixel, brightness +-10 %": shifted,
    "a tenth of another image": mixed,
}


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
        f"{_heavier_changes(standard, training, test)}"
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


def _heavier_changes(standard: KerasClassifier, training: Dataset, test: Dataset) -> str:
    """Attackers who change by more what all overlays refuse, and have to get the target."""
    rows = []
    for kind in _KINDS:
        classifier, triggered = _backdoored(standard, kind, training, test)
        strip = _calibrated(fit_strip, classifier, training)
        assert isinstance(strip, Strip)
        rows.append([kind.replace("_", " "), *_rerolled(classifier, strip, triggered[:_FEW], test.images[:_CLEAN])])
    header = (
        "backdoor",
        "refused by all overlays",
        *(f"{name}: answered in one try / in {_TRIES}; without exits" for name in REROLLS),
    )
    return (
        f"Triggered images that all overlays refuse, of {_FEW}: who is answered with the target in one try and in one of {_TRIES} tries "
        f"of a heavier change, and who would be in {_TRIES} if nobody left before all overlays were seen:\n\n{table(header, rows)}\n"
    )


def _rerolled(classifier: Classifier, strip: Strip, triggered: Images, clean: Images) -> list[str]:
    patient = replace(strip, stages=(len(strip.overlays),), slack=(0.0,))
    staged, whole = (DefendedClassifier(classifier, detectors=[Step(one)], secret=_SECRET) for one in (strip, patient))
    refused = triggered[whole.classify(triggered).abstained]
    cells = [f"{len(refused)} of {len(triggered)}"]
    for change in REROLLS.values():
        rng = np.random.default_rng(_SEED)
        tries = [change(refused, clean, rng) for _ in range(_TRIES)]
        answered, by_all = (np.array([one.classify(images).labels == _TARGET for images in tries]) for one in (staged, whole))
        cells.append(
            f"{100 * answered.mean():.2f} % / **{100 * answered.any(axis=0).mean():.2f} %**; {100 * by_all.any(axis=0).mean():.2f} %"
        )
    return cells


def _refuses(detector: Detector, classifier: Classifier, images: Images, rng: np.random.Generator) -> NDArray[np.bool_]:
    session = detector.begin(images, random_keys(len(images), rng))
    while session.undecided.size:
        session.decide(classifier.predict(session.probe()), classifier.predict(images))
    return session.abstained


def _row(name: str, classifier: Classifier, strip: Strip, clean: Images, triggered: Images | None) -> list[str]:
    calls = DefendedClassifier(classifier, detectors=[Step(strip)]).classify(clean).trace.detections[0].calls
    cells = ["", ""]
    if triggered is not None:
        found = changes(classifier, strip, triggered)
        cells = [str(tries(strip, found)), _with_one_order(strip, found)]
    return [name, f"{calls.mean():.1f}", *cells, str(tries(strip, changes(classifier, strip, clean)))]


def changes(classifier: Classifier, strip: Strip, images: Images) -> NDArray[np.float64]:
    """What each overlay changes of the answer to each image: [n, N]."""
    overlays = len(strip.overlays)
    order = np.tile(np.arange(overlays, dtype=np.int32), (_AT_ONCE, 1))
    found = []
    for start in range(0, len(images), _AT_ONCE):
        block = images[start : start + _AT_ONCE]
        answers = np.repeat(classifier.predict(block).argmax(axis=1), overlays)
        found.append(strip.change_of(classifier.predict(strip.superimpose(block, order[: len(block)])), answers))
    return np.concatenate(found).reshape(len(images), overlays)


def tries(strip: Strip, changes: NDArray[np.float64]) -> Tries:
    """How often the images that all overlays refuse pass by leaving early."""
    rng = np.random.default_rng(_SEED)
    refused = changes[changes.mean(axis=1) <= strip.boundaries()[-1]]
    once = np.array([_leaves(strip, values[strip.orders(random_keys(_ORDERS, rng))]).mean() for values in refused])
    in_all = 1 - (1 - once) ** _TRIES
    return Tries(len(refused), float(once.mean()), float(in_all.mean())) if len(refused) else Tries(0, 0.0, 0.0)


def _with_one_order(strip: Strip, changes: NDArray[np.float64]) -> str:
    refused = changes[changes.mean(axis=1) <= strip.boundaries()[-1]]
    orders = strip.orders(random_keys(_ORDERS, np.random.default_rng(_SEED)))
    shares = [100 * _leaves(strip, refused[:, order]).mean() for order in orders]
    return f"{np.mean(shares):.2f} % / {np.quantile(shares, 0.99):.2f} %"


def _leaves(strip: Strip, changes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which images leave early, whose changes come in this order: [n, N] -> [n]."""
    early = np.asarray(strip.stages[:-1])
    means = np.cumsum(changes, axis=1)[:, early - 1] / early
    leaves: NDArray[np.bool_] = (means > strip.boundaries()[:-1]).any(axis=1)
    return leaves


if __name__ == "__main__":
    print(section())
