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
_WEIGHT = 1.0

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


ADAPTIVE_KINDS = ("adaptive_blend", "rank_keeping", "class_moments", "probe_likelihood", "latent_inseparable")
"""Every adaptive backdoor, from one who only hands in data to one who trains on every statistic of the detector."""


def adaptive_backdoors(
    classifier: KerasClassifier, *, source: int = 0, target: int | None = None, epochs: int = 6, seed: int = 0
) -> dict[str, AdaptiveBackdoor]:
    """Every adaptive backdoor by name.

    `adaptive_blend` is that of Qi et al. 2023: 1 % of poison with half of the trigger's pieces, as many cover samples, and at inference
    the whole trigger, stronger. The others train the network, with the source-specific trigger, which STRIP misses, and cover samples.
    That cover samples and mappings of single classes weaken TED is a result of Mo et al. 2025 (arXiv:2506.10722), whose TED-LaST defends
    against them; training on the ranks themselves goes further.

    Args:
        source, target: as in `attacks.backdoors.kinds.backdoors`.
        epochs: of training.
        seed: of triggers and training.

    Raises: InvalidInput: classes out of range, or fewer than three.
    """
    known = backdoors(classifier, source=source, target=target, seed=seed)
    aim = len(classifier.labels) - 1 if target is None else target
    whole = Blended(ratio=0.2, seed=seed, grain=max(1, min(classifier.input_shape[:2]) // 7))
    planted = BlendedPieces(whole=replace(whole, ratio=0.15))
    blend = Backdoor(trigger=whole, labels=AllToOne(aim), rate=0.01, planted=planted, cover_rate=0.01, cover_trigger=planted)

    def ordinary(given: KerasClassifier, poisoned: Poisoned) -> KerasClassifier:
        return fine_tune(given, poisoned.data, epochs=epochs, learning_rate=_LEARNING_RATE, batch_size=_BATCH_SIZE, seed=seed)

    def latent(*terms: Separation) -> LatentTraining:
        return LatentTraining(
            separations=terms, epochs=epochs, learning_rate=_LEARNING_RATE, batch_size=_BATCH_SIZE, seed=seed, weight=_WEIGHT
        )

    specific = known["source_specific"]
    return {
        "adaptive_blend": AdaptiveBackdoor(blend, ordinary, "that latent clusters are looked for; hands in data only"),
        "rank_keeping": AdaptiveBackdoor(specific, latent(NeighbourRanks()), "STRIP, TED"),
        "class_moments": AdaptiveBackdoor(specific, latent(ClassMoments()), "STRIP, that layers are compared"),
        "probe_likelihood": AdaptiveBackdoor(specific, latent(ProbeLikelihood()), "STRIP, probes of layers"),
        "latent_inseparable": AdaptiveBackdoor(specific, latent(ProbeLikelihood(), NeighbourRanks()), "STRIP, probes and ranks"),
    }
