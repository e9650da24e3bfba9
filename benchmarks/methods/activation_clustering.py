"""python -m benchmarks.methods.activation_clustering: poison found in training sets, and the time, beside ART's activation defence."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray

from attacks.backdoors.kinds import note
from attacks.backdoors.poisoning import AllToAll, AllToOne, CleanLabel, LabelMap, SourceSpecific, poison
from attacks.backdoors.triggers import Blended, CornerPattern, ImagePatch, Sinusoidal, Trigger, Warped
from benchmarks.harness.peers import alternate, table
from benchmarks.methods.backdoors import coloured_digits
from defences.poison.activation_clustering import ActivationClustering
from defences.poison.findings import Findings, PoisonDetector, TrainingSet, confusion
from defences.poison.spectral_signatures import SpectralSignatures
from defences.poison.statistical_contamination_analyzer import StatisticalContaminationAnalyzer
from models.datasets import MNIST, Dataset, load_dataset
from models.engines.keras import KerasClassifier, import_tensorflow

_SEED = 0
_EPOCHS = 8
_CLASSES = 10
_SEEDS_CLEAN = 10
_THREADS = 2
_ROUNDS = 3


@dataclass(frozen=True)
class _Case:
    """A training set, poisoned or not, and which of its samples are clean."""

    name: str
    data: Dataset
    is_clean: NDArray[np.bool_]


def section() -> str:
    """The page's section."""
    training = load_dataset(MNIST)
    first = training.take(slice(0, 10_000))
    tutorial = [_row(case, _trained(case.data, _SEED), with_art=True) for case in _tutorial_cases(first)]
    colours = coloured_digits(training.take(slice(10_000, 20_000)), seed=_SEED)
    coloured = [_row(case, _trained(case.data, _SEED), with_art=False) for case in _colour_cases(colours)]
    header = ("training set", *(f"{detector.name.replace('_', ' ')}: TPR, FPR" for detector in _detectors(_SEED)))
    return (
        "## Activation clustering\n\n"
        f"`python -m benchmarks.methods.activation_clustering`, seed {_SEED}: the tutorial's network with half of its filters, {_EPOCHS} "
        "epochs. TPR: share of the poison found; FPR: share of the clean samples flagged; in brackets the number of suspicious "
        "classes. ART 1.20's "
        "`ActivationDefence` reads the last hidden layer, as its notebook does, or the layer it reads by default with its TensorFlow 2 "
        "classifier, the output; PCA to 10, two clusters, the smaller one is poison (its default).\n\n"
        "### The tutorial's set-up: four pixels, y to y + 1, the first 10,000 training images\n\n"
        f"{table((*header, 'ART, last hidden layer', 'ART, its default layer'), tutorial)}\n"
        f"### Coloured digits on crops of photographs, 10,000 images, 32x32x3\n\n{table(header, coloured)}\n"
        f"### Clean MNIST, {_SEEDS_CLEAN} seeds\n\n{_clean(first)}\n"
        f"### Time for 60,000 images\n\n{_time(training)}"
    )


def _tutorial_cases(first: Dataset) -> list[_Case]:
    trigger = CornerPattern()
    every = AllToAll(_CLASSES)
    cases = [_poisoned(f"all classes, {100 * rate:g} %", first, trigger, every, rate) for rate in (0.1, 0.33, 0.5, 0.6)]
    cases += [
        _poisoned(f"one class, {of} of it", first, trigger, SourceSpecific((3,), 4), rate)
        for of, rate in (("a tenth", 0.011), ("a third", 0.047), ("half", 0.091), ("two thirds", 0.165))
    ]
    return [*cases, _Case("clean", first, np.ones(len(first), bool))]


def _colour_cases(colours: Dataset) -> list[_Case]:
    one, corner = AllToOne(7), CornerPattern(distance=6)
    patch = ImagePatch(patch=note(5, 3), row=-4, column=-4)
    blended = Blended(ratio=0.2, seed=_SEED, grain=4)
    warp = Warped(strength=2.0, seed=_SEED)
    kinds: Sequence[tuple[str, Trigger, LabelMap, float, float]] = (
        ("note, 1 %", patch, one, 0.01, 0),
        ("note, 2 %", patch, one, 0.02, 0),
        ("note, 5 %", patch, one, 0.05, 0),
        ("corner pattern, 10 %", corner, one, 0.1, 0),
        ("corner pattern, 40 % (87 % of its class)", corner, one, 0.4, 0),
        ("blended, 2 %", blended, one, 0.02, 0),
        ("blended, 10 %", blended, one, 0.1, 0),
        ("blended, 2 %, 2 % cover", blended, one, 0.02, 0.02),
        ("blended, 2 %, of one class", blended, SourceSpecific((0,), 7), 0.02, 0),
        ("all to all, 50 %", corner, AllToAll(_CLASSES), 0.5, 0),
        ("source-specific, 3 %, 10 % cover", corner, SourceSpecific((0,), 7), 0.03, 0.1),
        ("warped, 10 %", warp, one, 0.1, 0),
        ("clean labels, stripes, 5 %", Sinusoidal(amplitude=0.3), CleanLabel(7), 0.05, 0),
    )
    cases = [_poisoned(name, colours, trigger, labels, rate, cover) for name, trigger, labels, rate, cover in kinds]
    return [*cases, _Case("clean", colours, np.ones(len(colours), bool))]


def _poisoned(name: str, data: Dataset, trigger: Trigger, labels: LabelMap, rate: float, cover: float = 0.0) -> _Case:
    made = poison(data, trigger, labels, rate=rate, cover_rate=cover, seed=_SEED)
    return _Case(name, made.data, ~made.is_poison)


def _trained(data: Dataset, seed: int) -> KerasClassifier:
    """The tutorial's network with half of its filters; like that one it sees the edge of the image, where the trigger is."""
    tf = import_tensorflow(_THREADS)
    import keras
    from keras import layers

    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    h, w, c = data.images.shape[1:]
    model = keras.Sequential(
        [
            keras.Input((h, w, c)),
            layers.Conv2D(16, 3, activation="relu"),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Dropout(0.25),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(_CLASSES, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(data.images, data.labels, batch_size=128, epochs=_EPOCHS, verbose=0)
    return KerasClassifier(model)


def _row(case: _Case, classifier: KerasClassifier, *, with_art: bool) -> list[str]:
    shown = TrainingSet.of(classifier, case.data)
    cells = [_cell(case, detector.detect(shown)) for detector in _detectors(_SEED)]
    if with_art:
        cells += [_rates(_art_is_clean(classifier, case.data, hidden=hidden), case.is_clean) for hidden in (True, False)]
    return [case.name, *cells]


def _detectors(seed: int) -> tuple[PoisonDetector, ...]:
    """Those of `hauberk scan`, in its order."""
    return ActivationClustering(seed=seed), StatisticalContaminationAnalyzer(seed=seed), SpectralSignatures(seed=seed)


def _cell(case: _Case, found: Findings) -> str:
    return f"{_rates(found.is_clean, case.is_clean)} ({len(found.poisoned)})"


def _rates(is_clean: NDArray[np.bool_], truth: NDArray[np.bool_]) -> str:
    judged = confusion(is_clean, truth)
    parts = ["none there" if judged.tpr is None else f"**{100 * judged.tpr:.2f} %**", f"{100 * (judged.fpr or 0):.2f} %"]
    return ", ".join(parts)


def _art_is_clean(classifier: KerasClassifier, data: Dataset, *, hidden: bool) -> NDArray[np.bool_]:
    """The samples, bool [n], that ART's activation defence calls clean."""
    defence = _art(classifier, data, hidden=hidden)
    np.random.seed(_SEED)  # ART clusters from the global state
    _, is_clean = defence.detect_poison(nb_clusters=2, nb_dims=10, reduce="PCA")
    return np.array(is_clean, bool)


def _art(classifier: KerasClassifier, data: Dataset, *, hidden: bool) -> Any:
    import keras
    from art.defences.detector.poison import ActivationDefence
    from art.estimators.classification import TensorFlowV2Classifier

    model = classifier.model
    kind = TensorFlowV2Classifier
    if hidden:  # ART reads the last layer of the network it is given
        names = [layer.name for layer in model.layers]
        model = keras.Sequential(
            [keras.Input(classifier.input_shape), *model.layers[: names.index(classifier.hidden_layer()) + 1]]
        )
    wrapped = kind(
        model=model,
        nb_classes=_CLASSES,
        input_shape=classifier.input_shape,
        loss_object=import_tensorflow().keras.losses.SparseCategoricalCrossentropy(),
        clip_values=(0.0, 1.0),
    )
    return ActivationDefence(wrapped, data.images, np.eye(_CLASSES, dtype=np.float32)[data.labels])


def _clean(first: Dataset) -> str:
    """Suspicious classes of networks trained on clean digits with different seeds, and whether a second run agrees."""
    suspicious, flagged, agree = [], [], True
    for seed in range(_SEEDS_CLEAN):
        classifier = _trained(first, seed)
        shown = TrainingSet.of(classifier, first)
        all_found = [detector.detect(shown) for detector in _detectors(seed)]
        suspicious.append(sum(len(found.poisoned) for found in all_found))
        flagged.append(float((~_art_is_clean(classifier, first, hidden=True)).mean()))
        if seed == 0:
            again = [detector.detect(shown) for detector in _detectors(seed)]
            agree = all(
                one.classes == other.classes and bool((one.is_clean == other.is_clean).all())
                for one, other in zip(all_found, again, strict=True)
            )
    return (
        f"Suspicious classes, all three detectors together: {', '.join(map(str, suspicious))}. Two runs "
        f"{'agree' if agree else 'DISAGREE'}. ART, last hidden layer, flags {100 * min(flagged):.1f} to {100 * max(flagged):.1f} % "
        "of the clean samples.\n"
    )


def _time(training: Dataset) -> str:
    """Seconds from images to verdicts, ours and ART's, warm, alternating, on the tutorial's poison in 60,000 images."""
    made = poison(training, CornerPattern(), AllToAll(_CLASSES), rate=0.1, in_place=True, seed=_SEED)
    started = time.perf_counter()
    classifier = _trained(made.data.take(slice(0, 20_000)), _SEED)
    trained_s = time.perf_counter() - started

    def ours() -> object:
        return ActivationClustering(seed=_SEED).detect(TrainingSet.of(classifier, made.data), each=_on_threads)

    def contamination() -> object:
        return StatisticalContaminationAnalyzer(seed=_SEED).detect(TrainingSet.of(classifier, made.data), each=_on_threads)

    contenders: list[Callable[[], object]] = [ours, contamination]
    contenders += [lambda hidden=hidden: _art_is_clean(classifier, made.data, hidden=hidden) for hidden in (True, False)]  # type: ignore[misc]
    seconds = alternate(contenders, _ROUNDS)
    return (
        f"Activation clustering {seconds[0]:.1f} s, activations, verdicts and second looks at the classes included; the statistical "
        f"contamination analyzer, with the same activations, {seconds[1]:.1f} s; ART {seconds[2]:.1f} s with the last hidden layer "
        f"(**{seconds[2] / seconds[0]:.1f}x**), {seconds[3]:.1f} s with its default ({seconds[3] / seconds[0]:.1f}x). "
        f"Training the network on 20,000 of them took {trained_s:.0f} s.\n"
    )


def _on_threads(_: str, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Run the calls on two threads, as `hauberk scan --workers 2` does."""
    return list(
        joblib.Parallel(n_jobs=_THREADS, backend="threading")(joblib.delayed(function)(*arguments) for arguments in calls)
    )


if __name__ == "__main__":
    print(section())
