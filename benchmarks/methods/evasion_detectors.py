"""python -m benchmarks.methods.evasion_detectors: detectors of evasion, ours and ART's, on known attacks, new attacks and noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attacks.attack import Attack, Goal
from attacks.detector_training.evasion_examples import harmless_examples, noise_examples
from attacks.detector_training.evasion_training import TRAINED_ON_AT_MOST, EvasionTraining
from attacks.evasion.adaptive import AdaptiveView
from attacks.evasion.carlini_wagner import CarliniWagner
from attacks.evasion.deep_fool import DeepFool
from attacks.evasion.gradient import FastGradient, ProjectedGradientDescent
from attacks.evasion.hop_skip_jump import HopSkipJump
from attacks.evasion.saliency_map import SaliencyMap
from attacks.evasion.square import Square
from attacks.evasion.transfer import Relentless
from benchmarks.harness.coloured_digits import coloured_digits
from benchmarks.harness.peers import alternate, art_classifier, table
from defences.calibration.split import CalibrationSplit, Terms
from defences.calibration.split import split as split_data
from defences.calibration.thresholds import conclude
from defences.defended_classifier import DefendedClassifier, Detector, Step
from defences.detectors.binary_activation_detector import BinaryActivationDetector
from defences.detectors.binary_input_detector import BinaryInputDetector
from evaluation.reporting.plots import detector_rocs
from evaluation.statistics.intervals import share
from evaluation.statistics.roc import auroc, roc, tpr_at_fpr
from models.bundle import read_bundle, standard_bundle_directory
from models.classifier import Images
from models.datasets import MNIST, Dataset, load_dataset
from models.engines.binary_network import OUTPUTS, default_layout
from models.engines.keras import KerasClassifier, import_tensorflow
from models.training.binary_training import keras_network
from models.training.reference_classifier import Recipe, train

_SEED = 0
_RATE = 0.01
_TERMS = Terms(rate=_RATE, seed=_SEED)
_THREADS = 2
_EPS, _COLOUR_EPS = 0.3, 0.1
_TESTED, _ADAPTIVE = 1000, 300
_QUERIES, _ASKED = 500, 200
_TIMED = 256
_STEPS = 40
_PICTURE = Path(__file__).parents[2] / "docs" / "pictures" / "evasion_detectors_roc.svg"

BinaryDetector = BinaryInputDetector | BinaryActivationDetector
Flags = Callable[[Images], NDArray[np.bool_]]
"""Images -> bool [n], true for those that a detector refuses."""


@dataclass(frozen=True)
class _Known:
    """An attack on the bare classifier, on the first `n` test images; with `relentless` it continues after its first success."""

    name: str
    attack: Attack
    n: int = _TESTED
    relentless: bool = False
    trained_on: bool = False
    targeted: bool = False


def _attacks(eps: float) -> Iterator[_Known]:
    """The attacks of the detectors' training, at the training eps, then others."""
    descent = partial(ProjectedGradientDescent, iterations=_STEPS)
    yield _Known(f"FGM, eps {eps:g}", FastGradient(eps=eps), trained_on=True, relentless=True)
    yield _Known(f"PGD, eps {eps:g}", descent(eps=eps), trained_on=True, relentless=True)
    yield _Known(f"PGD, eps {eps:g}, random start", descent(eps=eps, restarts=1), trained_on=True, relentless=True)
    yield _Known(f"PGD, eps {eps:g}, stops at success", descent(eps=eps, step=eps / 20), trained_on=True)
    for other in (eps / 6, eps / 2, eps * 4 / 3):
        yield _Known(f"PGD, eps {other:.2g}", descent(eps=other), relentless=True)
    length = eps * 10
    yield _Known(f"PGD, L2, eps {length:g}", descent(eps=length, norm=2), relentless=True)
    yield _Known(f"PGD, L2, eps {length:g}, stops at success", descent(eps=length, norm=2, step=length / 20))
    yield _Known(f"Square, eps {eps:g}, 1,000 queries", Square(eps=eps), 300)
    yield _Known("DeepFool", DeepFool(), 1000)


def _slow_attacks() -> Iterator[_Known]:
    yield _Known("Carlini-Wagner", CarliniWagner(iterations=100, searches=5), 200)
    yield _Known("Carlini-Wagner, confidence 10", CarliniWagner(iterations=100, searches=5, confidence=10.0), 200)
    yield _Known("JSMA, a tenth of the pixels", SaliencyMap(), 200, targeted=True)
    yield _Known("HopSkipJump, 2,000 queries", HopSkipJump(queries=2000), 50)


@dataclass(frozen=True, eq=False)
class _Scene:
    """A classifier, its two detectors, and test images."""

    classifier: KerasClassifier
    parts: CalibrationSplit
    test: Dataset
    eps: float

    @cached_property
    def detectors(self) -> dict[str, BinaryDetector]:
        """The detectors by name, each calibrated alone, as by `hauberk calibrate --detectors NAME`."""
        training = EvasionTraining(eps=self.eps)
        found: dict[str, BinaryDetector] = {}
        for fit in (training.fit_input_detector, training.fit_activation_detector):
            (calibrated,) = conclude([fit(self.classifier, self.parts, _TERMS)], _TERMS)
            detector = calibrated.detector
            assert isinstance(detector, BinaryDetector)
            found[detector.name] = detector
        return found

    def defended(self, *names: str) -> DefendedClassifier:
        """The classifier behind these detectors."""
        return DefendedClassifier(self.classifier, detectors=[Step(_as_detector(self.detectors[name])) for name in names])

    @cached_property
    def right(self) -> NDArray[np.bool_]:
        """bool [n]: test images that the classifier classifies correctly."""
        right: NDArray[np.bool_] = self.classifier.predict(self.test.images).argmax(axis=1) == self.test.labels
        return right

    def successes(self, known: _Known) -> Images:
        """Adversarial images of test images classified correctly before the attack and wrongly after it."""
        n = min(known.n, len(self.test))
        images, labels = self.test.images[:n], self.test.labels[:n]
        goal = Goal(labels)
        if known.targeted:
            others = np.random.default_rng(_SEED).integers(1, len(self.classifier.labels), n)
            goal = Goal((labels + others) % len(self.classifier.labels), targeted=True)
        target = Relentless(self.classifier) if known.relentless else self.classifier
        found = known.attack(target, images, goal, seed=_SEED).images
        fooled = self.classifier.predict(found).argmax(axis=1) != labels
        won: Images = found[fooled & self.right[:n]]
        return won


def section() -> str:
    """The page's section; the ROC goes into docs/pictures."""
    digits = _digits()
    attacked = {known: digits.successes(known) for known in (*_attacks(_EPS), *_slow_attacks())}
    _PICTURE.write_text(_rocs(digits, attacked), encoding="utf-8")
    colours = _colours()
    return (
        "## Detectors of evasion\n\n"
        f"`python -m benchmarks.methods.evasion_detectors`, seed {_SEED}. The classifier of `mnist-standard`. Trained on and "
        f"calibrated with training "
        f"images 55,000 to 60,000 ({len(digits.parts.choosing):,} to train on, {len(digits.parts.holding):,} held), eps {_EPS:g}, for "
        f"{_RATE:g} of clean images; each detector alone, no purifier. Attacks are on the bare classifier; counted are images that "
        "it classifies correctly before the attack and wrongly after it. Exact 95 % intervals in brackets. ART 1.20: "
        "BinaryInputDetector and BinaryActivationDetector (same layer), networks of the same size, 20 epochs on the same clean "
        "images and on FGM and PGD at the "
        "same eps, as its notebook does; it decides by the larger output and has no threshold.\n\n"
        f"### Refused\n\n{_refused(digits, attacked)}\n"
        f"![ROC curves](pictures/{_PICTURE.name})\n\n"
        f"### Attackers who know the detector\n\n{_adaptive(digits)}\n"
        f"### Coloured digits on crops of photographs, 32x32x3, eps {_COLOUR_EPS:g}\n\n"
        f"The reference network, trained on 12,000 other images.\n\n{_colour_rows(colours)}\n"
        f"### Speed\n\n{_speed(digits)}"
    )


def _digits() -> _Scene:
    classifier = KerasClassifier.from_bundle(read_bundle(standard_bundle_directory()), threads=_THREADS)
    held_out = load_dataset(MNIST).take(slice(55_000, 60_000))
    return _Scene(classifier, _split(held_out), load_dataset(MNIST, split="test"), _EPS)


def _colours() -> _Scene:
    training = coloured_digits(load_dataset(MNIST).take(slice(0, 17_000)), seed=_SEED)
    test = coloured_digits(load_dataset(MNIST, split="test").take(slice(0, _TESTED)), seed=_SEED + 1)
    recipe = Recipe(epochs=5, seed=_SEED)
    classifier = KerasClassifier(train(training.take(slice(0, 12_000)), recipe=recipe, threads=_THREADS))
    return _Scene(classifier, _split(training.take(slice(12_000, 17_000))), test, _COLOUR_EPS)


def _split(data: Dataset) -> CalibrationSplit:
    return split_data(data, rate=_RATE, confidence=None, seed=_SEED, choosing_at_most=TRAINED_ON_AT_MOST)


def _refused(scene: _Scene, attacked: dict[_Known, Images]) -> str:
    """A row for each kind of harmless image and each attack."""
    ours = list(scene.detectors.values())
    theirs = list(_art(scene).values())
    clean = [detector.scores(scene.test.images) for detector in ours]
    rows: list[list[object]] = [_harmless_row("clean", scene.test.images, ours, theirs)]
    few = scene.test.images[:_TESTED]
    harmless = noise_examples(few, eps=scene.eps, seed=_SEED + 1) | harmless_examples(few, seed=_SEED + 1)
    rows += [_harmless_row(kind, images, ours, theirs) for kind, images in harmless.items()]
    for known, images in attacked.items():
        cells: list[object] = [("" if known.trained_on else "*new:* ") + known.name, len(images)]
        for detector, negatives in zip(ours, clean, strict=True):
            scores = detector.scores(images)
            cells += [
                f"**{share(scores <= detector.boundary)}**",
                f"{auroc(scores, negatives).value:.4f}",
                f"{100 * tpr_at_fpr(scores, negatives, _RATE).value:.1f} %",
            ]
        rows.append([*cells, *(f"{100 * flags(images).mean():.1f} %" for flags in theirs)])
    header = ["images", "how many"]
    for detector in ours:
        header += [f"{_words(detector)}: refused", "AUROC against clean", "TPR at 1 % FPR"]
    return table([*header, "ART input: refused", "ART activation: refused"], rows)


def _harmless_row(kind: str, images: Images, ours: Sequence[BinaryDetector], theirs: Sequence[Flags]) -> list[object]:
    cells: list[object] = [kind, len(images)]
    for detector in ours:
        cells += [f"**{share(detector.scores(images) <= detector.boundary)}**", "", ""]
    return [*cells, *(f"{100 * flags(images).mean():.1f} %" for flags in theirs)]


def _words(detector: BinaryDetector) -> str:
    return f"activation ({detector.layer})" if isinstance(detector, BinaryActivationDetector) else "input"


def _as_detector(detector: BinaryDetector) -> Detector:
    return detector


@cache
def _art(scene: _Scene) -> dict[str, Flags]:
    """ART's two detectors, trained once."""
    from art.defences.detector.evasion import BinaryActivationDetector as ArtActivation
    from art.defences.detector.evasion import BinaryInputDetector as ArtInput

    chosen, goal = scene.parts.choosing.images[:], Goal(scene.parts.choosing.labels)
    attacks: list[Attack] = [FastGradient(eps=scene.eps), ProjectedGradientDescent(eps=scene.eps, iterations=_STEPS)]
    adversarial = [attack(Relentless(scene.classifier), chosen, goal).images for attack in attacks]
    x = np.concatenate([chosen, chosen, *adversarial])
    y = np.repeat([0, 1], 2 * len(chosen))
    layer = scene.detectors["binary_activation_detector"]
    assert isinstance(layer, BinaryActivationDetector)
    wrapped = art_classifier(scene.classifier)
    at = [name.split("/")[-1] for name in wrapped.layer_names].index(layer.layer)
    of_layer = tuple(wrapped.get_activations(chosen[:1], at, 1).shape[1:])
    found: dict[str, Any] = {
        "input": ArtInput(_art_network(scene.classifier.input_shape)),
        "activation": ArtActivation(wrapped, _art_network(of_layer), at),
    }
    for detector in found.values():
        detector.fit(x, y)
    return {name: partial(_flagged, detector) for name, detector in found.items()}


def _flagged(detector: Any, images: Images) -> NDArray[np.bool_]:
    flags: NDArray[np.bool_] = detector.detect(images)[1]
    return flags


def _art_network(shape: tuple[int, ...]) -> Any:
    """Our network with two outputs in ART's wrapper; for activations a dense one."""
    tf = import_tensorflow()
    from art.estimators.classification import TensorFlowV2Classifier

    tf.keras.utils.set_random_seed(_SEED)
    h, w, c = shape if shape[-1] <= 3 else (1, 1, int(np.prod(shape)))
    layout = default_layout((h, w, c))
    layout[-1, OUTPUTS] = 2
    inner = keras_network(layout, (h, w, c))
    model = tf.keras.Sequential([tf.keras.Input(shape), tf.keras.layers.Reshape((h, w, c)), *inner.layers])
    return TensorFlowV2Classifier(
        model=model,
        nb_classes=2,
        input_shape=shape,
        loss_object=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        optimizer=tf.keras.optimizers.Adam(1e-3),
    )


def _rocs(scene: _Scene, attacked: dict[_Known, Images]) -> str:
    """The picture: a panel per attack, a curve per detector."""
    panels: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for known, images in attacked.items():
        curves = {}
        for detector in scene.detectors.values():
            curve = roc(detector.scores(images), detector.scores(scene.test.images))
            curves[_words(detector)] = (curve.fpr.tolist(), curve.tpr.tolist())
        panels[known.name] = curves
    return detector_rocs(panels, _RATE)


def _adaptive(scene: _Scene) -> str:
    """Attackers with and without knowledge of the detector."""
    few = scene.test.take(slice(0, _ADAPTIVE))
    goal = Goal(few.labels)
    rows = []
    for names in (("binary_input_detector",), ("binary_activation_detector",), tuple(scene.detectors)):
        defended = scene.defended(*names)
        for eps in (scene.eps / 3, scene.eps):
            attack = ProjectedGradientDescent(eps=eps, iterations=_STEPS, restarts=1)
            seen: dict[str, Images] = {
                "does not know it": attack(Relentless(scene.classifier), few.images, goal, seed=_SEED).images,
                "knows it": attack(AdaptiveView(defended, scene.classifier), few.images, goal, seed=_SEED).images,
            }
            asked = Square(eps=eps, queries=_QUERIES)(defended, few.images[:_ASKED], goal.take(slice(0, _ASKED)), seed=_SEED)
            seen[f"only sees answers and refusals (Square, {_QUERIES} queries, {_ASKED} images)"] = asked.images
            for attacker, images in seen.items():
                decided = defended.classify(images)
                wrong = ~decided.abstained & (decided.labels != few.labels[: len(images)])
                rows.append([" and ".join(names), f"{eps:g}", attacker, f"**{share(wrong)}**", str(share(decided.abstained))])
    return (
        f"PGD, L-inf, {_STEPS} steps from the image and from one random point, on the first {len(few)} test images; the attacker "
        "who knows the detector follows its gradient on images that fool the classifier and would be refused.\n\n"
        + table(("detector", "eps", "attacker", "answered wrongly", "refused"), rows)
    )


def _colour_rows(scene: _Scene) -> str:
    rows: list[list[object]] = [_harmless_row("clean", scene.test.images, list(scene.detectors.values()), ())]
    harmless = noise_examples(scene.test.images, eps=scene.eps, seed=1) | harmless_examples(scene.test.images, seed=1)
    rows += [_harmless_row(kind, images, list(scene.detectors.values()), ()) for kind, images in harmless.items()]
    for known in _attacks(scene.eps):
        images = scene.successes(known)
        if not len(images):
            continue
        cells: list[object] = [("" if known.trained_on else "*new:* ") + known.name, len(images)]
        for detector in scene.detectors.values():
            scores, clean = detector.scores(images), detector.scores(scene.test.images)
            cells += [
                f"**{share(scores <= detector.boundary)}**",
                f"{auroc(scores, clean).value:.4f}",
                f"{100 * tpr_at_fpr(scores, clean, _RATE).value:.1f} %",
            ]
        rows.append(cells)
    header = ["images", "how many"]
    for detector in scene.detectors.values():
        header += [f"{_words(detector)}: refused", "AUROC against clean", "TPR at 1 % FPR"]
    return table(header, rows)


def _speed(scene: _Scene) -> str:
    """Microseconds per image, ours and ART's."""
    images = scene.test.images[:_TIMED]
    rows = []
    for (name, detector), flags in zip(scene.detectors.items(), _art(scene).values(), strict=True):
        ours, theirs = alternate([partial(detector.scores, images), partial(flags, images)], 5)
        per_image = [f"{1e6 * seconds / len(images):.0f}" for seconds in (ours, theirs)]
        rows.append([name, *per_image, f"**{theirs / ours:.1f}x**"])
    return table(("detector", "ours, µs an image", "ART's, µs an image", "ratio"), rows)


if __name__ == "__main__":
    print(section())
