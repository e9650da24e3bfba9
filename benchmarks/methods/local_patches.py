"""python -m benchmarks local_patches: what masks prove about local patches, what they cost, and who gets past them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attacks.attack import Goal
from attacks.backdoors.kinds import backdoors
from attacks.evasion.adaptive import AdaptiveView
from attacks.evasion.lavan import LaVAN
from benchmarks.harness.peers import table
from benchmarks.methods.backdoors import coloured_digits
from defences.assembly import assemble
from defences.calibration.patch_cleanser import fit_patch_cleanser
from defences.calibration.purifier import choose_purifier
from defences.calibration.sentinet import fit_sentinet
from defences.calibration.split import Terms
from defences.calibration.split import split as split_data
from defences.calibration.thresholds import CalibratedDetector, conclude
from defences.defended_classifier import DefendedClassifier, Preprocessor, Step
from defences.detectors.mask_set import MASKS, spans
from defences.detectors.masked_training import with_masked_copies
from defences.detectors.patch_cleanser import LEAD, PatchCleanser
from defences.purifiers.purified_training import with_purified_copies
from evaluation.statistics.intervals import Share, share
from models.bundle import read_bundle, standard_bundle_directory
from models.classifier import Images, Labels
from models.datasets import MNIST, Dataset, load_dataset
from models.engines.keras import KerasClassifier
from models.image_rows import answers_for
from models.training.fine_tuning import fine_tune
from models.training.reference_classifier import Recipe, train

_SEED = 0
_PATCH = (5, 5)
_TERMS = Terms(rate=0.01, seed=_SEED, patch=_PATCH)
_THREADS = 2
_TRAINED_ON, _EPOCHS = 17_000, 8
_HELD_OUT, _TEST = 3000, 3000
_ATTACKED, _LARGER_ATTACKED = 500, 200
_LARGER = ((7, 7), (9, 9), (14, 14))
_ITERATIONS, _LOCATIONS = 30, 3
_LOCAL = ("corner_pattern", "single_pixel", "image_patch")
_TARGET, _POISONED, _POISONED_EPOCHS, _CLEANED_EPOCHS = 7, 4000, 6, 4
_CLEAN, _TRIGGERED = 1000, 300

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
        """Which images the classifier gives their right label under every mask."""
        at_once, found = 256, []
        for start in range(0, len(data), at_once):
            some = data.take(slice(start, start + at_once))
            found.append(self.detector.scores(self.classifier.predict(self.detector.under_masks(some.images)), some.labels))
        certified: NDArray[np.bool_] = np.concatenate(found) > LEAD
        return certified


def section() -> str:
    """The page's section."""
    training, test = load_dataset(MNIST), load_dataset(MNIST, split="test")
    colour = [
        coloured_digits(data, seed=seed) for seed, data in enumerate((training.take(slice(0, 20_000)), test.take(slice(0, 5000))))
    ]
    data, held, seen = (
        colour[0].take(slice(0, _TRAINED_ON)),
        colour[0].take(slice(-_HELD_OUT, None)),
        colour[1].take(slice(0, _TEST)),
    )
    prepared = with_purified_copies(data, seed=_SEED, threads=_THREADS)
    recipe = Recipe(epochs=_EPOCHS, seed=_SEED)
    usual = KerasClassifier(train(prepared, recipe=recipe, threads=_THREADS))
    masked = KerasClassifier(train(with_masked_copies(prepared, _PATCH, seed=_SEED), recipe=recipe, threads=_THREADS))
    networks = {"as usual": _defended(usual, held), "`--masked`": _defended(masked, held)}
    costs = [_cost(name, network, seen) for name, network in networks.items()]
    attacks = _attacks(networks["`--masked`"], colour[1])
    triggers = [*_triggers("colour", usual, [], *colour), *_triggers("digits", *_standard(), training, test)]
    return (
        "## Local patches\n\n"
        f"`python -m benchmarks local_patches`, seed {_SEED}: coloured digits on crops of photographs, 32x32x3; the reference network, "
        f"{_EPOCHS} epochs on {_TRAINED_ON:,} images and purified copies, as usual and with masked copies (`hauberk train --masked`); "
        f"purifier and PatchCleanser ({MASKS[0]}x{MASKS[1]} masks for patches of up to {_PATCH[0]}x{_PATCH[1]}) are calibrated on "
        f"{_HELD_OUT:,} clean images that no training saw, and measured on {_TEST:,} test images. In brackets exact 95 % intervals.\n\n"
        "### What it costs\n\n"
        "Answered rightly, refused and rows: purifier and PatchCleanser, enforced.\n\n"
        f"{table(_COST, costs)}\n"
        "### An attacker who knows it\n\n"
        f"LaVAN through the whole stack, on the network trained with `--masked`: sign gradients by the patch's pixels, {_ITERATIONS} "
        "steps at each place, of the loss behind the purifier until the answer is wrong, then of the lead under the mask that disagrees "
        "most. Places: one across each border of two masks' runs, one in the middle of the middle run, and random ones.\n\n"
        f"{table(_ATTACK, attacks)}\n"
        "### Local triggers\n\n"
        f"For each backdoor a copy of the network is trained on for {_POISONED_EPOCHS} epochs with {_POISONED:,} clean images and poison "
        f"made of them, target {_TARGET}: as it is, and after {_CLEANED_EPOCHS} epochs of `hauberk train --masked` on clean images. "
        f"SentiNet is calibrated alone at a rate of {_TERMS.rate:g}; PatchCleanser has no rate. {_CLEAN:,} clean and at most {_TRIGGERED} "
        "triggered test images that the copy calls the target.\n\n"
        f"{table(_TRIGGERS, triggers)}"
    )


def _defended(classifier: KerasClassifier, held: Dataset) -> _Defended:
    purifier = choose_purifier(classifier, held, threads=_THREADS)
    parts = split_data(held, rate=_TERMS.rate, confidence=None, seed=_SEED)
    (masks,) = conclude([fit_patch_cleanser(classifier, parts, _TERMS)], _TERMS)
    return _Defended(classifier, (Step(purifier.purifier, purifier.mode),), masks)


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
        starts = [low for low, _ in spans(side, covered, MASKS[0])][1:]
        axes.append([min(max(0, start - (own - covered) // 2 - 1), side - own) for start in starts])
    middle = ((shape[0] - size[0]) // 2, (shape[1] - size[1]) // 2)
    return (*((top, left) for top in axes[0] for left in axes[1]), middle)


def _attacks(network: _Defended, test: Dataset) -> list[list[str]]:
    some = test.take(slice(0, 2 * _ATTACKED))
    certified = network.certified(some)
    proven, others = some.take(np.flatnonzero(certified)[:_ATTACKED]), some.take(np.flatnonzero(~certified)[:_LARGER_ATTACKED])
    rows = [_attack(network, proven, "certified", _PATCH, masked=masked) for masked in (False, True)]
    rows.append(_attack(network, others, "not certified", _PATCH, masked=True))
    fewer = proven.take(slice(0, _LARGER_ATTACKED))
    return rows + [_attack(network, fewer, "certified", size, masked=True) for size in _LARGER]


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


def _standard() -> tuple[KerasClassifier, Sequence[Step[Preprocessor]]]:
    """The network of `mnist-standard` and its purifier."""
    bundle = read_bundle(standard_bundle_directory())
    classifier = KerasClassifier.from_bundle(bundle, threads=_THREADS)
    return classifier, assemble(bundle, classifier, secret=b"benchmark", threads=_THREADS).preprocessors


def _triggers(
    images: str, classifier: KerasClassifier, preprocessors: Sequence[Step[Preprocessor]], training: Dataset, test: Dataset
) -> list[list[str]]:
    known = backdoors(classifier, source=1, target=_TARGET, seed=_SEED)
    clean, held = training.take(slice(0, _POISONED)), training.take(slice(-_HELD_OUT // 2, None))
    masked = with_masked_copies(with_purified_copies(clean, seed=_SEED, threads=_THREADS), _PATCH, seed=_SEED)
    rows = []
    for kind in _LOCAL:
        backdoor = known[kind]
        poison = backdoor.poison(clean, seed=_SEED).data
        copy = fine_tune(classifier, poison, epochs=_POISONED_EPOCHS, learning_rate=4e-3, batch_size=32, seed=_SEED)
        cleaned = fine_tune(copy, masked, epochs=_CLEANED_EPOCHS, seed=_SEED)
        victims = test.take(np.flatnonzero(backdoor.labels.attacks(test.labels))[:_TRIGGERED])
        triggered, wanted = backdoor.trigger(victims.images), backdoor.labels.called(victims.labels)
        for name, network in (("as it is", copy), ("after `--masked`", cleaned)):
            row = _trigger(network, preprocessors, held, triggered, wanted, test.images[-_CLEAN:])
            rows.append([f"{kind.replace('_', ' ')}, {images}", name, *row])
    return rows


def _trigger(
    network: KerasClassifier,
    preprocessors: Sequence[Step[Preprocessor]],
    held: Dataset,
    triggered: Images,
    wanted: Labels,
    clean: Images,
) -> list[str]:
    fires = network.predict(triggered).argmax(axis=1) == wanted
    parts = split_data(held, rate=_TERMS.rate, confidence=None, seed=_SEED)
    cells = [f"{100 * fires.mean():.1f} %"]
    for fit in (fit_sentinet, fit_patch_cleanser):
        (found,) = conclude([fit(network, parts, _TERMS)], _TERMS)
        defended = DefendedClassifier(network, preprocessors=preprocessors, detectors=[Step(found.detector)], secret=b"benchmark")
        refused = share(defended.classify(triggered[fires]).abstained) if fires.any() else None
        harmless = defended.classify(clean)
        cells += [_or_none(refused), str(share(harmless.abstained)), f"{harmless.trace.model_calls / len(clean):.1f}"]
    return cells


def _or_none(found: Share | None) -> str:
    return "it does not work" if found is None else str(found)


if __name__ == "__main__":
    print(section())
