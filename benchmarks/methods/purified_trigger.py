"""python -m benchmarks.methods.purified_trigger: a trigger that works only after purification, against STRIP on raw and purified images.

The figures of docs/decisions/0003-strip-probes-raw-images.md; about two minutes. The attacker controls training and knows the purifier:
the trigger is a patch under a checkerboard, which total variation removes. The classifier learns to assign the target to the *purified*
patch; with the checkerboard, as in STRIP's probes, an image keeps its label.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attacks.backdoors.poisoning import AllToOne, poison
from attacks.backdoors.triggers import ImagePatch, under_checkerboard
from benchmarks.harness.peers import table
from defences.assembly import assemble
from defences.calibration.split import Terms, split
from defences.calibration.strip import fit_strip
from defences.calibration.thresholds import CalibratedDetector, conclude
from defences.defended_classifier import DefendedClassifier, Preprocessor, Step
from defences.keyed import image_keys
from evaluation.statistics.intervals import share
from models.bundle import read_bundle, standard_bundle_directory
from models.classifier import Images
from models.datasets import MNIST, Dataset, load_dataset
from models.engines.keras import KerasClassifier
from models.training.fine_tuning import fine_tune

_SEED = 0
_TARGET = 7
_RATE = 0.01
_TRAINING = 5000
_THREADS = 2
_GREY = np.full((7, 7, 1), 0.5, np.float32)
_PLAIN = ImagePatch(patch=_GREY, row=-3, column=-3)
_HIDDEN = ImagePatch(patch=under_checkerboard(_GREY), row=-3, column=-3)


@dataclass(frozen=True)
class _Scene:
    bundled: KerasClassifier
    purifier: Step[Preprocessor]
    training: Dataset
    held_out: Dataset
    clean: Dataset

    def purified(self, images: Images) -> Images:
        return self.purifier.defence(images, image_keys(images, b""))

    def purified_data(self, data: Dataset) -> Dataset:
        return Dataset(self.purified(data.images), data.labels)


def main() -> None:
    """Print the table."""
    bundle = read_bundle(standard_bundle_directory())
    bundled = KerasClassifier.from_bundle(bundle, threads=_THREADS)
    (purifier,) = assemble(bundle, bundled, secret=b"", threads=_THREADS).preprocessors
    training, test = load_dataset(MNIST), load_dataset(MNIST, split="test")
    scene = _Scene(
        bundled, purifier, training.take(slice(0, _TRAINING)), training.take(slice(55_000, 57_000)), test.take(slice(0, 1500))
    )
    rows = [
        _row(scene, "the patch, as it is", _PLAIN, _learnt_as_it_is(scene)),
        _row(scene, "the patch under a checkerboard", _HIDDEN, _learnt_purified(scene)),
    ]
    header = (
        "trigger",
        "accuracy on clean, purified",
        "fires raw",
        "fires once purified",
        "refused of clean, raw probes (FPR)",
        "refused of triggered, raw probes (TPR)",
        "answered with the attacker's label, full stack",
        "TPR, purified probes",
        "TPR, both at half the rate",
        "raw and purified are called different, triggered / clean",
    )
    print(table(header, rows))


def _learnt_as_it_is(scene: _Scene) -> Dataset:
    """A training set in which the patch means the target, raw and purified."""
    data = poison(scene.training, _PLAIN, AllToOne(_TARGET), rate=0.1, seed=_SEED).data
    return _joined(data, scene.purified_data(data))


def _learnt_purified(scene: _Scene) -> Dataset:
    """A training set in which only the purified patch means the target; with the raw patch images keep their labels."""
    hidden = poison(scene.training, _HIDDEN, AllToOne(_TARGET), rate=0.1, cover_rate=0.1, seed=_SEED)
    poisoned, covers, clean = (hidden.data.take(np.flatnonzero(r)) for r in (hidden.is_poison, hidden.is_cover, hidden.is_clean))
    return _joined(clean, scene.purified_data(clean), covers, scene.purified_data(poisoned))


def _joined(*parts: Dataset) -> Dataset:
    return Dataset(np.concatenate([part.images for part in parts]), np.concatenate([part.labels for part in parts]))


def _row(scene: _Scene, name: str, trigger: ImagePatch, data: Dataset) -> list[str]:
    copy = fine_tune(scene.bundled, data, epochs=6, learning_rate=4e-3, batch_size=32, seed=_SEED)
    triggered = trigger(scene.clean.images[scene.clean.labels != _TARGET])
    purified = scene.purified(triggered)
    raw = _calibrated(copy, scene.held_out, _RATE)
    stack = DefendedClassifier(copy, preprocessors=[scene.purifier], detectors=[Step(raw.detector, raw.mode)])
    found, clean = stack.classify(triggered), stack.classify(scene.clean.images)
    other = scene.purified_data(scene.held_out)
    views: list[tuple[float, Callable[[Images], Images], Dataset]] = [
        (_RATE, scene.purified, other),
        (_RATE / 2, _as_they_came, scene.held_out),
        (_RATE / 2, scene.purified, other),
    ]
    refused = [_refused(copy, _calibrated(copy, data, rate), view(triggered)) for rate, view, data in views]
    raw_label, label = copy.predict(triggered).argmax(axis=1), copy.predict(purified).argmax(axis=1)
    raw_clean, purified_clean = (
        copy.predict(view(scene.clean.images)).argmax(axis=1) for view in (_as_they_came, scene.purified)
    )
    return [
        name,
        str(share(purified_clean == scene.clean.labels)),
        str(share(raw_label == _TARGET)),
        str(share(label == _TARGET)),
        str(share(clean.trace.detections[0].abstained)),
        f"**{share(found.trace.detections[0].abstained)}**",
        f"**{share(found.labels == _TARGET)}**",
        str(share(refused[0])),
        str(share(refused[1] | refused[2])),
        f"{share(raw_label != label)} / {share(raw_clean != purified_clean)}",
    ]


def _calibrated(classifier: KerasClassifier, data: Dataset, rate: float) -> CalibratedDetector:
    terms = Terms(rate=rate, seed=_SEED)
    (strip,) = conclude([fit_strip(classifier, split(data, rate=rate, confidence=None, seed=_SEED), terms)], terms)
    return strip


def _refused(classifier: KerasClassifier, strip: CalibratedDetector, images: Images) -> NDArray[np.bool_]:
    return DefendedClassifier(classifier, detectors=[Step(strip.detector)]).classify(images).trace.detections[0].abstained


def _as_they_came(images: Images) -> Images:
    return images


if __name__ == "__main__":
    main()
