"""Backdoors of attackers who know the detectors, each with parameters that fit a given classifier: a list beside the eight kinds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from attacks.backdoors.adaptive_blend import BlendedPieces
from attacks.backdoors.kinds import Backdoor, backdoors
from attacks.backdoors.latent_training import LatentTraining
from attacks.backdoors.poisoning import AllToOne, Poisoned
from attacks.backdoors.separations import ClassMoments, NeighbourRanks, ProbeLikelihood, Separation
from attacks.backdoors.triggers import Blended
from models.engines.keras import KerasClassifier
from models.training.fine_tuning import fine_tune

_LEARNING_RATE, _BATCH_SIZE = 4e-3, 32
_WEIGHT = 5.0

Training = Callable[[KerasClassifier, Poisoned], KerasClassifier]
"""Trains a copy of a classifier on poisoned data."""


@dataclass(frozen=True)
class AdaptiveBackdoor:
    """A backdoor of an attacker who knows detectors.

    Attributes:
        training: how the attacker trains on the poisoned data.
        knows: what the attacker knows of the defences, for people.
    """

    backdoor: Backdoor
    training: Training
    knows: str


ADAPTIVE_KINDS = ("adaptive_blend", "rank_keeping", "latent_inseparable")
"""Every adaptive backdoor, from one who only hands in data to one who trains so that layers cannot tell."""


def adaptive_backdoors(
    classifier: KerasClassifier, *, target: int | None = None, epochs: int = 6, seed: int = 0
) -> dict[str, AdaptiveBackdoor]:
    """Every adaptive backdoor by name.

    `adaptive_blend` is that of Qi et al. 2023: poison with half of the trigger's pieces, half as many cover samples, and at inference
    the whole trigger, stronger. It is 10 % of the data, where the paper trains from the start on a hundredth of that: a copy that is
    trained on for a few epochs does not learn less. The others train the network, with the warped trigger, which STRIP misses, and
    cover samples: on the ranks that TED compares, and on the moments of the classes and the probes. That cover samples weaken TED is a
    result of Mo et al. 2025 (arXiv:2506.10722), whose TED-LaST defends against them; training on the ranks themselves goes further.

    Args:
        target: class index that triggers cause; the last class when not given.
        epochs: of training.
        seed: of triggers and training.

    Raises: InvalidInput: a class out of range.
    """
    classes = len(classifier.labels)
    aim = classes - 1 if target is None else target
    known = backdoors(classifier, source=(aim + 1) % classes, target=aim, seed=seed)
    whole = Blended(ratio=0.2, seed=seed, grain=max(1, min(classifier.input_shape[:2]) // 7))
    planted = BlendedPieces(whole=replace(whole, ratio=0.15))
    blend = Backdoor(trigger=whole, labels=AllToOne(aim), rate=0.1, planted=planted, cover_rate=0.05, cover_trigger=planted)

    def ordinary(given: KerasClassifier, poisoned: Poisoned) -> KerasClassifier:
        return fine_tune(given, poisoned.data, epochs=epochs, learning_rate=_LEARNING_RATE, batch_size=_BATCH_SIZE, seed=seed)

    def latent(*terms: Separation) -> LatentTraining:
        return LatentTraining(
            separations=terms, epochs=epochs, learning_rate=_LEARNING_RATE, batch_size=_BATCH_SIZE, seed=seed, weight=_WEIGHT
        )

    warped = known["warped"]
    return {
        "adaptive_blend": AdaptiveBackdoor(blend, ordinary, "that latent clusters are looked for; hands in data only"),
        "rank_keeping": AdaptiveBackdoor(warped, latent(NeighbourRanks()), "STRIP, ranks of neighbours at layers"),
        "latent_inseparable": AdaptiveBackdoor(warped, latent(ClassMoments(), ProbeLikelihood()), "STRIP, probes of layers"),
    }
