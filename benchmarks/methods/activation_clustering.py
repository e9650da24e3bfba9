"""python -m benchmarks.methods.activation_clustering: poison found in training sets, and the time, beside ART's activation defence."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray

from attacks.backdoors.kinds import note
from attacks.backdoors.poisoning import AllToAll, AllToOne, CleanLabel, LabelMap, SourceSpecific, poison
from attacks.backdoors.triggers import Blended, CornerPattern, ImagePatch, Sinusoidal, Trigger, Warped
from benchmarks.harness.coloured_digits import coloured_digits
from benchmarks.harness.kept_rows import kept_rows
from benchmarks.harness.peers import alternate, table
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
    """A clean data set, and what poisons it: (clean data) -> the training set, and which of its samples are clean, bool [n].

    The training set is made where it is used: all of them at once would take more than a gigabyte.
    """

    name: str
    clean: Dataset
    poisoned: Callable[[Dataset], tuple[Dataset, NDArray[np.bool_]]]


def section() -> str:
    """The page's section."""
    training = load_dataset(MNIST)
    first = training.take(slice(0, 10_000))
    tutorial = _rows("tutorial", _tutorial_cases(first), with_art=True)
    colours = coloured_digits(training.take(slice(10_000, 20_000)), seed=_SEED)
    coloured = _rows("colour", _colour_cases(colours), with_art=False)
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
    cases = [_Case(f"all classes, {100 * rate:g} %", first, _by(trigger, every, rate)) for rate in (0.1, 0.33, 0.5, 0.6)]
    cases += [
        _Case(f"one class, {of} of it", first, _by(trigger, SourceSpecific((3,), 4), rate))
        for of, rate in (("a tenth", 0.011), ("a third", 0.047), ("half", 0.091), ("two thirds", 0.165))
    ]
    return [*cases, _Case("clean", first, _as_it_is)]


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
    cases = [_Case(name, colours, _by(trigger, labels, rate, cover)) for name, trigger, labels, rate, cover in kinds]
    return [*cases, _Case("clean", colours, _as_it_is)]


def _by(
    trigger: Trigger, labels: LabelMap, rate: float, cover: float = 0.0
) -> Callable[[Dataset], tuple[Dataset, NDArray[np.bool_]]]:
    """What poisons a data set with this trigger."""

    def poisoned(clean: Dataset) -> tuple[Dataset, NDArray[np.bool_]]:
        made = poison(clean, trigger, labels, rate=rate, cover_rate=cover, seed=_SEED)
        return made.data, ~made.is_poison

    return poisoned


def _as_it_is(clean: Dataset) -> tuple[Dataset, NDArray[np.bool_]]:
    return clean, np.ones(len(clean), bool)


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


def _rows(part: str, cases: Sequence[_Case], *, with_art: bool) -> list[list[str]]:
    return [*_kept(part, {case.name: partial(_row, case, with_art=with_art) for case in cases}).values()]


def _row(case: _Case, *, with_art: bool) -> list[str]:
    """Train a network on the case's training set, and look for the poison in it."""
    data, is_clean = case.poisoned(case.clean)
    classifier = _trained(data, _SEED)
    shown = TrainingSet.of(classifier, data)
    cells = [_cell(detector.detect(shown), is_clean) for detector in _detectors(_SEED)]
    if with_art:
        cells += [_rates(_art_is_clean(classifier, data, hidden=hidden), is_clean) for hidden in (True, False)]
    return [case.name, *cells]


def _detectors(seed: int) -> tuple[PoisonDetector, ...]:
    """Those of `hauberk scan`, in its order."""
    return ActivationClustering(seed=seed), StatisticalContaminationAnalyzer(seed=seed), SpectralSignatures(seed=seed)


def _cell(found: Findings, truth: NDArray[np.bool_]) -> str:
    return f"{_rates(found.is_clean, truth)} ({len(found.poisoned)})"


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
    found = _kept("clean", {f"seed {seed}": partial(_clean_row, first, seed) for seed in range(_SEEDS_CLEAN)}).values()
    suspicious, flagged = [row["suspicious"] for row in found], [row["flagged"] for row in found]
    agree = all(row["agree"] for row in found)
    return (
        f"Suspicious classes, all three detectors together: {', '.join(map(str, suspicious))}. Two runs "
        f"{'agree' if agree else 'DISAGREE'}. ART, last hidden layer, flags {100 * min(flagged):.1f} to {100 * max(flagged):.1f} % "
        "of the clean samples.\n"
    )


def _clean_row(first: Dataset, seed: int) -> dict[str, Any]:
    """How many classes are suspicious, the share of samples that ART flags, and whether a second run agrees, asked of seed 0 only."""
    classifier = _trained(first, seed)
    shown = TrainingSet.of(classifier, first)
    all_found = [detector.detect(shown) for detector in _detectors(seed)]
    flagged = float((~_art_is_clean(classifier, first, hidden=True)).mean())
    again = [detector.detect(shown) for detector in _detectors(seed)] if seed == 0 else all_found
    agree = all(
        one.classes == other.classes and bool((one.is_clean == other.is_clean).all())
        for one, other in zip(all_found, again, strict=True)
    )
    return {"suspicious": sum(len(found.poisoned) for found in all_found), "flagged": flagged, "agree": agree}


def _time(training: Dataset) -> str:
    """Seconds from images to verdicts, ours and ART's, warm, alternating, on the tutorial's poison in 60,000 images."""
    found = _kept("time", {"60,000 images": partial(_time_row, training)})["60,000 images"]
    clustering, contamination, hidden, default = found["seconds"]
    return (
        f"Activation clustering {clustering:.1f} s, activations, verdicts and second looks at the classes included; the statistical "
        f"contamination analyzer, with the same activations, {contamination:.1f} s; ART {hidden:.1f} s with the last hidden layer "
        f"(**{hidden / clustering:.1f}x**), {default:.1f} s with its default ({default / clustering:.1f}x). "
        f"Training the network on 20,000 of them took {found['trained_s']:.0f} s.\n"
    )


def _time_row(training: Dataset) -> dict[str, Any]:
    """Seconds of clustering, of the contamination analyzer and of ART with either layer, and those the training took."""
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
    return {"seconds": alternate(contenders, _ROUNDS), "trained_s": trained_s}


def _on_threads(_: str, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Run the calls on two threads, as `hauberk scan --workers 2` does."""
    return list(
        joblib.Parallel(n_jobs=_THREADS, backend="threading")(joblib.delayed(function)(*arguments) for arguments in calls)
    )


def _kept(part: str, rows: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """These rows; the whole trains dozens of networks, and goes on after the last row that is kept."""
    return kept_rows(f"clustering_{part}", rows, plan={"numbers": [_SEED, _EPOCHS, _CLASSES, _THREADS, _ROUNDS]})


if __name__ == "__main__":
    print(section())
