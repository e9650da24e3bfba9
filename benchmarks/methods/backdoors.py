"""python -m benchmarks.methods.backdoors: the detectors that calibration chooses against backdoors of every kind, on three data sets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.harness.architectures import ARCHITECTURES
from benchmarks.harness.coloured_digits import coloured_digits
from benchmarks.harness.garments import garments
from benchmarks.harness.peers import table
from defences.assembly import assemble
from defences.calibration.fits import fits_of
from defences.calibration.purifier import choose_purifier
from defences.defended_classifier import Preprocessor, Step
from defences.detectors.strip import Strip
from defences.purifiers.purified_training import with_purified_copies
from evaluation.detector_choice import ChoiceTerms, choose_detectors
from evaluation.tables.backdoors import BackdoorBudget, BackdoorRow, backdoor_rows
from models.bundle import read_bundle, standard_bundle_directory
from models.datasets import MNIST, Dataset, load_dataset
from models.engines.keras import KerasClassifier
from models.training.reference_classifier import Build, Recipe, reference_network, train

_SEED, _RATE = 0, 0.01
_SOURCE, _TARGET = 1, 7
_EPOCHS = 5
_TRAINED_ON = 12_000
_THREADS = 2
_BUDGET = BackdoorBudget(held_out=3000, clean=2000)  # held out: as many as layer disagreement needs for ten classes

_BEFORE = ("backdoor", "works, undefended (before poisoning)", "accuracy on clean (before)")
_AFTER = (
    "together, TPR where the trigger works",
    "answered with the attacker's label, full stack",
    "AUROC of STRIP",
    "its TPR at 1 % FPR, full score",
)


def section() -> str:
    """The page's section."""
    training, test = load_dataset(MNIST), load_dataset(MNIST, split="test")
    bundle = read_bundle(standard_bundle_directory())
    bundled = KerasClassifier.from_bundle(bundle, threads=_THREADS)
    preprocessors = assemble(bundle, bundled, secret=b"benchmark", threads=_THREADS).preprocessors
    grey = _measured(bundled, preprocessors, training, test)
    colour = [coloured_digits(data, seed=seed) for seed, data in enumerate((training.take(slice(0, 20_000)), test))]
    coloured = _trained_and_measured(reference_network, *colour)
    clothes = _trained_and_measured(ARCHITECTURES["normalised"], garments(20_000, seed=0), garments(10_000, seed=1))
    return (
        "## Backdoors\n\n"
        f"`python -m benchmarks.methods.backdoors`, seed {_SEED}: for each kind a copy of the classifier is trained on for "
        f"{_BUDGET.epochs} "
        f"epochs with {_BUDGET.training:,} clean images and poison made of them, half of them purified, by an attacker who knows the "
        f"purifier. Target {_TARGET}; source-specific: of class {_SOURCE}. The detectors and their budgets are those that "
        f"`hauberk calibrate --detectors auto` chooses for the classifier before it was poisoned, by all of its own triggers; they "
        f"are calibrated together on {_BUDGET.held_out:,} clean images drawn from the test file (rate {_RATE:g}, marginal), and measured "
        f"on {_BUDGET.clean:,} clean and at most {_BUDGET.triggered} triggered others of it. In brackets exact 95 % intervals (of the "
        "AUROC DeLong's). TPR: refused of triggered images, whether the trigger works on them or not; FPR: of clean ones. Both are of "
        "the calibrated, staged thresholds; the last two columns of STRIP's mean change under all overlays.\n\n"
        f"### Digits, `mnist-standard`\n\n{grey}\n"
        "### Coloured digits on crops of photographs, 32x32x3\n\n"
        f"The reference network; {coloured}\n"
        "### Clothes drawn from a seed, 28x28x1\n\n"
        "Of the classes of Fashion-MNIST (`benchmarks/harness/garments.py`). A network with batch normalisation and no dense layer but "
        f"the last; {clothes}"
    )


def _trained_and_measured(build: Build, training: Dataset, test: Dataset) -> str:
    """How a network of its own was trained, and what was measured on it."""
    prepared = with_purified_copies(training.take(slice(0, _TRAINED_ON)), seed=_SEED, threads=_THREADS)
    classifier = KerasClassifier(train(prepared, recipe=Recipe(epochs=_EPOCHS, seed=_SEED), build=build, threads=_THREADS))
    found = choose_purifier(classifier, training.take(slice(-2000, None)), threads=_THREADS)
    measured = _measured(classifier, [Step(found.purifier, found.mode)], training, test)
    return (
        f"{_EPOCHS} epochs on {_TRAINED_ON:,} images and purified copies; purifier: {found.mode}, weight {found.purifier.weight:g}.\n\n"
        f"{measured}"
    )


def _measured(classifier: KerasClassifier, preprocessors: Sequence[Step[Preprocessor]], training: Dataset, test: Dataset) -> str:
    """What was chosen, and the table.

    Held-out and measured images are drawn from one file: its neighbours are by the same writers, and no rate holds for other writers.
    """
    order = np.random.default_rng(_SEED).permutation(len(test))
    held, measured = test.take(order[: _BUDGET.held_out]), test.take(order[_BUDGET.held_out :])
    choice = choose_detectors(classifier, held, ChoiceTerms(rate=_RATE, within_s=np.inf, seed=_SEED))
    fits = fits_of(choice.detectors)
    fits.pop(Strip.name, None)
    budgets = {Strip.name: 0.0, **(choice.budgets or dict.fromkeys(choice.detectors, 1.0))}
    rows = list(
        backdoor_rows(
            classifier,
            training,
            held,
            measured,
            preprocessors=preprocessors,
            fits=fits,
            budgets=budgets,
            source=_SOURCE,
            target=_TARGET,
            rate=_RATE,
            budget=_BUDGET,
            seed=_SEED,
        )
    )
    detectors = [f"{one.name.replace('_', ' ')}: TPR, FPR" for one in rows[0].detectors]
    chosen = ", ".join(f"{name} {100 * budgets[name] / sum(budgets.values()):g} %" for name in choice.detectors)
    means = [float(np.mean([each(row) for row in rows])) for each in (_caught, _caught_of_working)]
    return (
        f"Chosen in {choice.seconds:.0f} s, with these parts of the rate: {chosen}.\n\n"
        f"{table((*_BEFORE, *detectors, *_AFTER), [_cells(row) for row in rows])}\n"
        f"Together on average: {100 * means[0]:.1f} % of triggered images, {100 * means[1]:.1f} % of those on which the trigger works.\n"
    )


def _caught(row: BackdoorRow) -> float:
    return row.detectors[-1].refused_triggered.rate


def _caught_of_working(row: BackdoorRow) -> float:
    return row.detectors[-1].refused_of_working.rate


def _cells(row: BackdoorRow) -> list[str]:
    at_one_percent = row.tpr_at_one_percent
    return [
        row.kind.replace("_", " "),
        f"{100 * row.success.rate:.1f} % ({100 * row.success_before.rate:.1f} %)",
        f"{100 * row.accuracy.rate:.1f} % ({100 * row.accuracy_before.rate:.1f} %)",
        *(f"**{one.refused_triggered}**, {one.refused_clean}" for one in row.detectors),
        f"**{row.detectors[-1].refused_of_working}**",
        f"**{row.answered}**",
        str(row.auroc),
        f"{100 * at_one_percent.value:.1f} % ({100 * at_one_percent.low:.1f} to {100 * at_one_percent.high:.1f})",
    ]


if __name__ == "__main__":
    print(section())
