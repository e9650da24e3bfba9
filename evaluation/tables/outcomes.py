"""Outcomes of attacked images, counted in two ways: an abstention as safe, and an abstention as a failure."""

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
"""Answered with the right label, refused, answered with a wrong label: from worst to best for the attacker."""

Outcomes = NDArray[np.int64]
"""int64 [n] of RIGHT, ABSTAINED, WRONG."""


def outcomes(classifier: Classifier, images: Images, labels: Labels) -> Outcomes:
    """The outcomes [n] of images [n, h, w, c] with true labels [n]. A refusal is a label of -1, or a row of zeros from `predict`."""
    if isinstance(classifier, DefendedClassifier):
        predicted = classifier.classify(images).labels
    else:
        predicted = predicted_labels(classifier.predict(images))
    return np.where(predicted == labels, RIGHT, np.where(predicted == REFUSED, ABSTAINED, WRONG))


def worst(many: Sequence[Outcomes]) -> Outcomes:
    """The best outcome for the attacker, per image, over several attacks on the same images."""
    most: Outcomes = np.max(np.stack(many), axis=0)
    return most


@dataclass(frozen=True)
class Robustness:
    """Robust accuracy with an abstention counted as safe (no wrong answer) and as a failure (only right answers count), and the share of
    abstentions."""

    abstention_safe: Share
    abstention_failure: Share
    abstained: Share


def robustness(found: Outcomes) -> Robustness:
    """The three shares over outcomes [n], with exact 95 % intervals."""
    return Robustness(share(found != WRONG), share(found == RIGHT), share(found == ABSTAINED))
