"""Repair of a training set with known poison: drop it, or relabel it with the class its images show; then train again.

Paper: Chen et al. 2018, arXiv:1811.03728, section 5: relabel poison with its source class and continue training.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from defences.poison.exclusionary_reclassification import reclassify, standardised
from defences.poison.findings import Findings, TrainingSet
from defences.poison.second_look import some_of
from models.datasets import Dataset
from models.errors import InvalidInput

Repair = Literal["drop", "relabel"]

_TRAINED_ON = 6000


def repaired(
    data: Dataset, findings: Findings, *, how: Repair = "drop", training: TrainingSet | None = None, seed: int = 0
) -> Dataset:
    """The training data without poison, to train from scratch (`models.training.reference_classifier.train`) or to continue training
    (`models.training.fine_tuning.fine_tune`).

    Args:
        how: "drop" removes suspicious samples. "relabel" gives them the class assigned by a linear classifier trained on the witness
            activations of the clean samples; continued training then unlearns the trigger, which it does not after "drop".
        training: the detector's input; required for "relabel".

    Raises: InvalidInput: findings of other data, nothing clean, "relabel" without `training`.
    """
    if len(findings.is_clean) != len(data):
        raise InvalidInput(f"expected findings about {len(data)} samples, got {len(findings.is_clean)}")
    if not findings.is_clean.any():
        raise InvalidInput("expected at least one clean sample to train on, got none")
    if how == "drop":
        return data.take(np.flatnonzero(findings.is_clean))
    if training is None:
        raise InvalidInput("expected the training set that the detector read, to relabel by; pass training=, or how='drop'")
    labels = data.labels.copy()
    poison = np.flatnonzero(~findings.is_clean)
    labels[poison] = _true_labels(training, findings, poison, seed)
    return Dataset(data.images, labels)


def _true_labels(training: TrainingSet, findings: Findings, poison: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    if not len(poison):
        return training.labels[poison]
    clean = np.sort(some_of(np.flatnonzero(findings.is_clean), _TRAINED_ON, seed))
    features = standardised(training.looked_at_again(np.concatenate([clean, poison])), seed)
    known, asked = features[: len(clean)], features[len(clean) :]
    # own=-1, no class: the label of a poisoned sample does not say which class its image shows.
    return reclassify(known, training.labels[clean], asked, own=-1, classes=len(training.classes)).classes
