"""python -m benchmarks.methods.backdoors: STRIP and layer disagreement against backdoors of every kind, on digits and colour images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.harness.peers import photographs, table
from defences.assembly import assemble
from defences.calibration.fits import fits_of
from defences.calibration.purifier import choose_purifier
from defences.defended_classifier import Preprocessor, Step
from defences.purifiers.purified_training import with_purified_copies
from evaluation.tables.backdoors import BackdoorBudget, BackdoorRow, backdoor_rows
from models.bundle import read_bundle, standard_bundle_directory
from models.datasets import MNIST, Dataset, load_dataset
from models.engines.keras import KerasClassifier
from models.training.reference_classifier import Recipe, train

_SEED = 0
_SOURCE, _TARGET = 1, 7
_SIDE = 32
_EPOCHS = 5
_TRAINED_ON = 12_000
_THREADS = 2
_BUDGET = BackdoorBudget(held_out=3000)  # as many as layer disagreement needs for ten classes
_BESIDE_STRIP = ("layer_disagreement",)

_HEADER = (
    "backdoor",
    "works, undefended (before poisoning)",
    "accuracy on clean (before)",
    "refused of triggered (TPR), STRIP",
    "refused of clean (FPR), STRIP",
    "TPR, FPR, layer disagreement",
    "TPR, FPR, together",
    "answered with the attacker's label, full stack",
    "AUROC",
    "TPR at 1 % FPR, full score",
)


def section() -> str:
    """The page's section."""
    training, test = load_dataset(MNIST), load_dataset(MNIST, split="test")
    bundle = read_bundle(standard_bundle_directory())
    bundled = KerasClassifier.from_bundle(bundle, threads=_THREADS)
    preprocessors = assemble(bundle, bundled, secret=b"benchmark", threads=_THREADS).preprocessors
    grey = _rows(bundled, preprocessors, training, test)
    colour = [
        coloured_digits(data, seed=seed) for seed, data in enumerate((training.take(slice(0, 20_000)), test.take(slice(0, 5000))))
    ]
    prepared = with_purified_copies(colour[0].take(slice(0, _TRAINED_ON)), seed=_SEED, threads=_THREADS)
    classifier = KerasClassifier(train(prepared, recipe=Recipe(epochs=_EPOCHS, seed=_SEED), threads=_THREADS))
    purifier = choose_purifier(classifier, colour[0].take(slice(-2000, None)), threads=_THREADS)
    coloured = _rows(classifier, [Step(purifier.purifier, purifier.mode)], *colour)
    return (
        "## Backdoors\n\n"
        f"`python -m benchmarks.methods.backdoors`, seed {_SEED}: for each kind a copy of the classifier is trained on for "
        f"{_BUDGET.epochs} "
        f"epochs with {_BUDGET.training:,} clean images and poison made of them, half of them purified, by an attacker who knows the "
        f"purifier. Target {_TARGET}; source-specific: of class {_SOURCE}. STRIP and layer disagreement are calibrated together on "
        f"{_BUDGET.held_out:,} clean images that no training saw (rate 0.01, marginal), and measured on {_BUDGET.clean:,} clean "
        f"and at most {_BUDGET.triggered} triggered test images. In brackets exact 95 % intervals (of the AUROC DeLong's). TPR and "
        "FPR are of the calibrated, staged threshold; the last two columns of STRIP's mean change under all overlays.\n\n"
        f"### Digits, `mnist-standard`\n\n{table(_HEADER, grey)}\n"
        f"### Coloured digits on crops of photographs, {_SIDE}x{_SIDE}x3\n\n"
        f"The reference network, {_EPOCHS} epochs on {_TRAINED_ON:,} images and purified copies; purifier: {purifier.mode}, weight "
        f"{purifier.purifier.weight:g}.\n\n{table(_HEADER, coloured)}"
    )


def coloured_digits(data: Dataset, *, seed: int) -> Dataset:
    """Digits [n, 28, 28, 1], each in a random colour at a random place on a crop of a photograph: [n, 32, 32, 3]."""
    rng = np.random.default_rng(seed)
    grounds = photographs(_SIDE, len(data), seed)
    # A background at half its brightness and a bright digit, so that people and networks can see the digit.
    colours = rng.uniform(0.4, 1.0, (len(data), 1, 1, 3)).astype(np.float32)
    colours[np.arange(len(data)), 0, 0, rng.integers(0, 3, len(data))] = 1.0
    room = _SIDE - data.images.shape[1]
    ink = np.zeros((len(data), _SIDE, _SIDE, 1), np.float32)
    for number, (top, left) in enumerate(rng.integers(0, room + 1, (len(data), 2))):
        ink[number, top : _SIDE - room + top, left : _SIDE - room + left] = data.images[number]
    return Dataset(grounds * np.float32(0.5) * (1 - ink) + colours * ink, data.labels)


def _rows(
    classifier: KerasClassifier, preprocessors: Sequence[Step[Preprocessor]], training: Dataset, test: Dataset
) -> list[list[str]]:
    rows = backdoor_rows(
        classifier,
        training,
        training.take(slice(-_BUDGET.held_out, None)),
        test,
        preprocessors=preprocessors,
        fits=fits_of(_BESIDE_STRIP),
        source=_SOURCE,
        target=_TARGET,
        budget=_BUDGET,
        seed=_SEED,
    )
    return [_cells(row) for row in rows]


def _cells(row: BackdoorRow) -> list[str]:
    monitored = "" if row.strip_mode == "enforce" else f" ({row.strip_mode})"
    return [
        f"{row.kind.replace('_', ' ')}{monitored}",
        f"{100 * row.success.rate:.1f} % ({100 * row.success_before.rate:.1f} %)",
        f"{100 * row.accuracy.rate:.1f} % ({100 * row.accuracy_before.rate:.1f} %)",
        f"**{row.refused_triggered}**",
        str(row.refused_clean),
        *(f"**{one.refused_triggered}**, {one.refused_clean}" for one in row.detectors[1:]),
        f"**{row.answered}**",
        str(row.auroc),
        f"{100 * row.tpr_at_one_percent.value:.1f} % ({100 * row.tpr_at_one_percent.low:.1f} to {100 * row.tpr_at_one_percent.high:.1f})",
    ]


if __name__ == "__main__":
    print(section())
