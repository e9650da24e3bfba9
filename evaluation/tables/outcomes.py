"""What became of attacked images, counted both ways: an abstention as safe, and as a failure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attacks.attack import REFUSED, predicted_labels
from defences.defended_classifier import DefendedClassifier
from evaluation.statistics.intervals import Share, share
from models.classifier import Classifier, Images, Labels

RIGHT, ABSTAINED, WRONG = 0, 1, 2
"""Answered with the right label, refused, answered with another: in the order in which an attacker prefers them."""

Outcomes = NDArray[np.int64]
"""int64 [n] of RIGHT, ABSTAINED, WRONG."""


def outcomes(classifier: Classifier, images: Images, labels: Labels) -> Outcomes:
    """Ask a classifier, defended or not, about images whose true labels are known; a refusal is a row of zeros or a label of -1."""
    if isinstance(classifier, DefendedClassifier):
        predicted = classifier.classify(images).labels
    else:
        predicted = predicted_labels(classifier.predict(images))
    return np.where(predicted == labels, RIGHT, np.where(predicted == REFUSED, ABSTAINED, WRONG))


def worst(many: Sequence[Outcomes]) -> Outcomes:
    """The attacker's best per image over several attacks on the same images."""
    most: Outcomes = np.max(np.stack(many), axis=0)
    return most


@dataclass(frozen=True)
class Robustness:
    """Robust accuracy with an abstention counted as safe (the attacker got no wrong answer), as a failure (only right answers count),
    and how many were refused."""

    abstention_safe: Share
    abstention_failure: Share
    abstained: Share


def robustness(found: Outcomes) -> Robustness:
    """The three shares of some outcomes, with their exact 95 % intervals."""
    return Robustness(share(found != WRONG), share(found == RIGHT), share(found == ABSTAINED))
