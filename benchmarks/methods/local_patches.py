"""python -m benchmarks local_patches: what masks prove about local patches, what they cost, and who gets past them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attacks.attack import Goal
from attacks.backdoors.kinds import backdoors
from attacks.evasion.adaptive import AdaptiveView
from attacks.evasion.lavan import LaVAN
from benchmarks.harness.coloured_digits import coloured_digits
from benchmarks.harness.kept_rows import kept_rows
from benchmarks.harness.peers import table
from defences.calibration.patch_cleanser import certified, fit_patch_cleanser
from defences.calibration.purifier import choose_purifier
from defences.calibration.sentinet import fit_sentinet
from defences.calibration.split import Terms
from defences.calibration.split import split as split_data
from defences.calibration.thresholds import CalibratedDetector, conclude
from defences.defended_classifier import DefendedClassifier, Preprocessor, Step
from defences.detectors.mask_set import MASKS, runs
from defences.detectors.masked_training import train_under_masks
from defences.detectors.patch_cleanser import PatchCleanser
from defences.purifiers.purified_training import with_purified_copies
from evaluation.statistics.intervals import share
from models.datasets import MNIST, Dataset, load_dataset
from models.engines.keras import KerasClassifier
from models.image_rows import answers_for
from models.training.fine_tuning import fine_tune
from models.training.reference_classifier import Recipe, train

_SEED = 0
_PATCH = (5, 5)
_TERMS = Terms(rate=0.01, seed=_SEED, patch=_PATCH)
_THREADS = 2
_TRAINED_ON, _EPOCHS = 12_000, 5
_MASKED_ON, _MASKED_EPOCHS, _LEARNING_RATE = 58_000, 16, 2e-3
_HELD_OUT, _TEST = 2000, 2000
_ATTACKED, _LARGER_ATTACKED = 500, 100
_LARGER = ((7, 7), (9, 9))
_ITERATIONS, _LOCATIONS = 10, 1
_LOCAL = ("corner_pattern", "single_pixel", "image_patch")
_TARGET, _POISONED, _POISONED_EPOCHS, _CLEANED_EPOCHS = 7, 4000, 6, 3
_CLEAN, _TRIGGERED = 500, 200

_COST = (
    "network",
    "accuracy undefended",
    "answered rightly",
    "refused",
    "certified: right under every mask",
    "rows",
    "mode by calibration",
)
_ATTACK = ("patch", "images", "defences", "places tried", "answered wrongly", "refused")
_TRIGGERS = (
    "trigger",
    "network",
    "works",
    "SentiNet refuses, triggered",
    "clean",
    "rows, clean",
    "PatchCleanser refuses, triggered",
    "clean",
    "rows",
)


@dataclass(frozen=True)
class _Defended:
    """A classifier with its purifier, and PatchCleanser as it was calibrated."""

    classifier: KerasClassifier
    preprocessors: tuple[Step[Preprocessor], ...]
    masks: CalibratedDetector

    @property
    def detector(self) -> PatchCleanser:
        found = self.masks.detector
        assert isinstance(found, PatchCleanser)
        return found

    def stack(self, *, masked: bool) -> DefendedClassifier:
        """With PatchCleanser enforced, whatever its mode, or without it."""
        detectors = [Step(self.detector)] if masked else []
        return DefendedClassifier(self.classifier, preprocessors=self.preprocessors, detectors=detectors, secret=b"benchmark")

    def certified(self, data: Dataset) -> NDArray[np.bool_]:
        """Which images the classifier gives their right label under every mask and part."""
        return certified(self.detector, self.classifier, data)


def section() -> str:
    """The page's section."""
    training, test = load_dataset(MNIST), load_dataset(MNIST, split="test")
    colour = [
        coloured_digits(data, seed=seed)
        for seed, data in enumerate((training.take(slice(0, _MASKED_ON + _HELD_OUT)), test.take(slice(0, 5000))))
    ]
    held, seen = colour[0].take(slice(-_HELD_OUT, None)), colour[1].take(slice(0, _TEST))

    @cache
    def usual() -> KerasClassifier:
        prepared = with_purified_copies(colour[0].take(slice(0, _TRAINED_ON)), seed=_SEED, threads=_THREADS)
        return KerasClassifier(train(prepared, recipe=Recipe(epochs=_EPOCHS, seed=_SEED), threads=_THREADS))

    @cache
    def defended(name: str) -> _Defended:
        if name == "as usual":
            return _defended(usual(), held)
        return _defended(_under_masks(usual(), colour[0].take(slice(0, _MASKED_ON)), _MASKED_EPOCHS), held)

    def cost(name: str) -> list[str]:
        return _cost(name, defended(name), seen)

    names = ("as usual", "then with `--masked`")
    costs = [*_kept("costs", {name: partial(cost, name) for name in names}).values()]
    attacks = [*_kept("attacks", _attacks(lambda: defended(names[1]), colour[1])).values()]
    rows = _triggers("colour", lambda: (usual(), ()), *colour)
    triggers = [row for pair in _kept("triggers", rows).values() for row in pair]
    return (
        "## Local patches\n\n"
        f"`python -m benchmarks local_patches`, seed {_SEED}: coloured digits on crops of photographs, 32x32x3; the reference network, "
        f"{_EPOCHS} epochs on {_TRAINED_ON:,} images and purified copies, and a copy of it after {_MASKED_EPOCHS} more on "
        f"{_MASKED_ON:,} images and their worst masks (as by `hauberk train --masked --classifier`). Purifier and PatchCleanser, "
        f"{MASKS} masks for patches of up to {_PATCH[0]}x{_PATCH[1]}, are calibrated on {_HELD_OUT:,} clean images that no training saw, "
        f"and measured on {_TEST:,} test images. In brackets exact 95 % intervals.\n\n"
        "### What it costs\n\n"
        "Answered rightly, refused and rows: purifier and PatchCleanser, enforced.\n\n"
        f"{table(_COST, costs)}\n"
        "### An attacker who knows it\n\n"
        f"LaVAN through the whole stack, on the network trained with `--masked`: sign gradients by the patch's pixels, {_ITERATIONS} "
        "steps at each place, of the loss behind the purifier until the answer is wrong, then of the lead under the mask that disagrees "
        "most. Places: across the borders of the masks' places, in the middle, and at random. An image is certified if its right "
        "label is given under every mask and part.\n\n"
        f"{table(_ATTACK, attacks)}\n"
        "### Local triggers\n\n"
        f"For each backdoor a copy of the network is trained on for {_POISONED_EPOCHS} epochs with {_POISONED:,} clean images and poison "
        f"made of them, target {_TARGET}; then that copy for {_CLEANED_EPOCHS} epochs on the clean images and their worst masks. "
        f"SentiNet is calibrated alone at a rate of {_TERMS.rate:g}; PatchCleanser has no rate, so compare its refusals of clean images. "
        f"{_CLEAN:,} clean and at most {_TRIGGERED} triggered test images that the copy calls the target.\n\n"
        f"{table(_TRIGGERS, triggers)}"
    )


def _defended(classifier: KerasClassifier, held: Dataset) -> _Defended:
    purifier = choose_purifier(classifier, held.take(slice(0, 1000)), threads=_THREADS)
    parts = split_data(held, rate=_TERMS.rate, confidence=None, seed=_SEED)
    (masks,) = conclude([fit_patch_cleanser(classifier, parts, _TERMS)], _TERMS)
    return _Defended(classifier, (Step(purifier.purifier, purifier.mode),), masks)


def _under_masks(classifier: KerasClassifier, data: Dataset, epochs: int) -> KerasClassifier:
    return train_under_masks(classifier, data, _PATCH, epochs=epochs, learning_rate=_LEARNING_RATE, seed=_SEED)


def _cost(name: str, network: _Defended, test: Dataset) -> list[str]:
    decisions = network.stack(masked=True).classify(test.images)
    return [
        name,
        str(share(answers_for(network.classifier, test.images) == test.labels)),
        str(share(decisions.labels == test.labels)),
        str(share(decisions.abstained)),
        str(share(network.certified(test))),
        f"{decisions.trace.model_calls / len(test):.1f}",
        network.masks.mode,
    ]


def border_places(shape: tuple[int, ...], patch: tuple[int, int], size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """Where an attacker puts patches of a size: across every border between two masks' runs of places, and in the middle.

    Masks are those that cover `patch`, of images of `shape`.
    """
    axes = []
    for side, covered, own in zip(shape[:2], patch, size, strict=True):
        starts = [first for first, _ in runs(side - covered + 1)][1:]
        axes.append([min(max(0, start - (own - covered) // 2 - 1), side - own) for start in starts])
    middle = ((shape[0] - size[0]) // 2, (shape[1] - size[1]) // 2)
    return (*((top, left) for top in axes[0] for left in axes[1]), middle)


def _attacks(find: Callable[[], _Defended], test: Dataset) -> dict[str, Callable[[], Any]]:
    some = test.take(slice(0, 2 * _ATTACKED))

    def images(*, certified: bool, most: int) -> Dataset:
        return some.take(np.flatnonzero(find().certified(some) == certified)[:most])

    def row(size: tuple[int, int], most: int, *, certified: bool = True, masked: bool = True) -> Callable[[], list[str]]:
        which = "certified" if certified else "not certified"
        return lambda: _attack(find(), images(certified=certified, most=most), which, size, masked=masked)

    return {
        "without": row(_PATCH, _ATTACKED, masked=False),
        "certified": row(_PATCH, _ATTACKED),
        "not certified": row(_PATCH, _LARGER_ATTACKED, certified=False),
        **{f"{size}": row(size, _LARGER_ATTACKED) for size in _LARGER},
    }


def _attack(network: _Defended, data: Dataset, which: str, size: tuple[int, int], *, masked: bool) -> list[str]:
    defended = network.stack(masked=masked)
    attack = LaVAN(
        size=size,
        places=border_places(data.images.shape[1:], _PATCH, size),
        locations=_LOCATIONS,
        iterations=_ITERATIONS,
    )
    view = AdaptiveView(defended, network.classifier, draws=1, seed=_SEED)
    found = attack(view, data.images, Goal(data.labels), seed=_SEED)
    labels = defended.classify(found.images).labels
    return [
        f"{size[0]}x{size[1]}",
        f"{len(data)} {which}",
        "purifier and PatchCleanser" if masked else "purifier",
        str(len(attack.places) + attack.locations),
        f"{int(found.success.sum())}: {share(found.success)}",
        str(share(labels == -1)),
    ]


Found = tuple[KerasClassifier, Sequence[Step[Preprocessor]]]


def _triggers(images: str, find: Callable[[], Found], training: Dataset, test: Dataset) -> dict[str, Callable[[], Any]]:
    return {f"{kind} {images}": partial(_trigger, kind, images, find, training, test) for kind in _LOCAL}


def _trigger(kind: str, images: str, find: Callable[[], Found], training: Dataset, test: Dataset) -> list[list[str]]:
    """The copy with the backdoor, and what is left of it after training on masked images."""
    classifier, preprocessors = find()
    backdoor = backdoors(classifier, source=1, target=_TARGET, seed=_SEED)[kind]
    clean, held = training.take(slice(0, _POISONED)), training.take(slice(-_HELD_OUT // 2, None))
    poison = backdoor.poison(clean, seed=_SEED).data
    copy = fine_tune(classifier, poison, epochs=_POISONED_EPOCHS, learning_rate=4e-3, batch_size=32, seed=_SEED)
    cleaned = _under_masks(copy, clean, _CLEANED_EPOCHS)
    victims = test.take(np.flatnonzero(backdoor.labels.attacks(test.labels))[:_TRIGGERED])
    triggered, wanted = backdoor.trigger(victims.images), backdoor.labels.called(victims.labels)
    parts = split_data(held, rate=_TERMS.rate, confidence=None, seed=_SEED)
    rows = []
    for name, network, fits in (
        ("as it is", copy, (fit_sentinet, fit_patch_cleanser)),
        ("masked", cleaned, (fit_patch_cleanser,)),
    ):
        fires = network.predict(triggered).argmax(axis=1) == wanted
        cells: list[str] = []
        for fit in fits:
            (found,) = conclude([fit(network, parts, _TERMS)], _TERMS)
            steps = [Step(found.detector)]
            defended = DefendedClassifier(network, preprocessors=preprocessors, detectors=steps, secret=b"benchmark")
            refused = str(share(defended.classify(triggered[fires]).abstained)) if fires.any() else ""
            harmless = defended.classify(test.images[-_CLEAN:])
            cells += [refused, str(share(harmless.abstained)), f"{harmless.trace.model_calls / _CLEAN:.1f}"]
        rows.append(
            [f"{kind.replace('_', ' ')}, {images}", name, f"{100 * fires.mean():.1f} %", *[""] * (6 - len(cells)), *cells]
        )
    return rows


def _kept(part: str, rows: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """These rows; the whole takes most of an hour, and goes on after the last row that is kept."""
    numbers = (_SEED, _PATCH, _TRAINED_ON, _EPOCHS, _MASKED_ON, _MASKED_EPOCHS, _LEARNING_RATE, _HELD_OUT, _TEST, _ATTACKED)
    more = (_LARGER_ATTACKED, _ITERATIONS, _LOCATIONS, _POISONED, _POISONED_EPOCHS, _CLEANED_EPOCHS, _CLEAN, _TRIGGERED)
    return kept_rows(f"local_patches_{part}", rows, plan={"numbers": [*numbers, *more]})


if __name__ == "__main__":
    print(section())
