"""CopycatCNN: train a copy of a classifier on its answers; and the training that all thieves share.

Papers: Correia-Silva et al. 2018, arXiv:1806.05476 (random images, hard labels); Orekondy et al. 2019, arXiv:1812.02766
(attacks/extraction/knockoff_nets.py). The victim is any `Classifier`: a model, a defended classifier, or a gateway over HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from attacks.extraction.thief import THIEVES, Thief, one_hot
from attacks.extraction.transfer_set import TransferSet, ask, check_pool, shuffled
from models.classifier import Classifier, Images, Probabilities
from models.engines.keras import KerasClassifier
from models.progress import Progress, silent
from models.training.distillation import Distillation
from models.training.reference_classifier import Build, Recipe, reference_network

OPTIMISERS: dict[str, Recipe] = {
    # Few steps, a small and constant step size, no momentum: the set-up of the published figures.
    "sgd, as published": Recipe(optimiser="sgd", learning_rate=0.01, decay="none", epochs=5, batch_size=64),
    "momentum": Recipe(optimiser="momentum", learning_rate=0.02, epochs=10, batch_size=64, steps_at_least=300),
    "adam": Recipe(optimiser="adam", learning_rate=2e-3, epochs=10, batch_size=64, steps_at_least=300),
}
"""Training recipes for copies, by name. A defence that holds only against the first hampers an optimiser, not extraction."""

_FOLDS = 2


@dataclass(frozen=True)
class Theft:
    """A copy of the victim and the queries spent on it.

    Attributes:
        clone: the copy; untrained when every query was refused.
        transfer: the queries and their answers.
    """

    clone: KerasClassifier
    transfer: TransferSet

    @property
    def queries(self) -> int:
        """Images sent to the victim."""
        return self.transfer.queries

    @property
    def refused(self) -> int:
        """Queries that the victim refused."""
        return self.transfer.refusals


@dataclass(frozen=True, kw_only=True)
class CopycatCNN:
    """Query random images of the pool and train a network on the answers.

    Args:
        queries: the budget: images sent to the victim.
        thief: how answers become training targets; the paper's thief uses labels only.
        recipe: how the copy is trained.
        build: the copy's network.

    Cost: `queries` queries and one training (three for a thief that needs a guess).
    Raises: InvalidInput: a pool of another shape, empty, or smaller than the budget.
    """

    queries: int = 5000
    thief: Thief = field(default_factory=lambda: THIEVES["labels"])
    recipe: Recipe = field(default_factory=lambda: OPTIMISERS["adam"])
    build: Build = reference_network

    name = "copycat_cnn"

    def __call__(self, victim: Classifier, pool: Images, *, seed: int = 0, progress: Progress = silent) -> Theft:
        """Copy `victim` with the thief's own images [n, h, w, c]; the same seed gives the same copy."""
        thief = self.thief
        check_pool(victim, pool, self.queries, asks=thief.asks)
        rows = shuffled(pool, seed)[: self.queries // thief.asks]
        transfer = ask(victim, pool, rows, asks=thief.asks, shift=thief.shift, seed=seed, progress=progress)
        distillation = Distillation(victim.input_shape, len(victim.labels), recipe=self.recipe, build=self.build)
        return Theft(copy(victim, transfer, thief, distillation, seed=seed), transfer)


def copy(victim: Classifier, transfer: TransferSet, thief: Thief, distillation: Distillation, *, seed: int) -> KerasClassifier:
    """Train a copy of `victim` on its answers. Cost: no queries."""
    return KerasClassifier(train_copy(transfer, thief, distillation, seed=seed), labels=victim.labels)


def train_copy(transfer: TransferSet, thief: Thief, distillation: Distillation, *, seed: int, start: Any = None) -> Any:
    """The Keras model of `copy`; training continues from the model `start` when given."""
    images, answers = transfer.answered()
    if not len(images):
        return distillation.untrained(seed) if start is None else start
    targets = thief.learn(answers, lambda: _label_only_guess(images, answers, distillation, seed))
    return distillation.train(images, targets, seed=seed, start=start)


def _label_only_guess(images: Images, answers: Probabilities, distillation: Distillation, seed: int) -> Probabilities:
    """Out-of-fold predictions [n, k] of copies trained on the answered labels."""
    fold = np.arange(len(images)) % _FOLDS
    labels = one_hot(answers)
    if len(images) < _FOLDS:
        return labels
    guess = np.empty_like(answers)
    for number in range(_FOLDS):
        model = distillation.train(images[fold != number], labels[fold != number], seed=seed + number)
        guess[fold == number] = distillation.predict(model, images[fold == number])
    return guess
