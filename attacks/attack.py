"""The nouns of every attack: what the attacker wants, what an attack is, what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.classifier import Classifier, DifferentiableClassifier, Images, Labels, Probabilities
from models.errors import HauberkError, InvalidInput

REFUSED = -1
"""The class index of an image that a defended classifier refused."""

ImageIndices = NDArray[np.int64]
"""int64 [m], the positions of a batch's images among the n attacked images."""


class NoMoreAnswers(HauberkError):
    """A classifier that is asked over a wire, or within a budget, answers no more: attacks keep what they have found, and return it.

    Attributes:
        answered: the probabilities [m, k] of the first m of the images that were asked about, those it did answer.
    """

    def __init__(self, message: str, answered: Probabilities) -> None:
        super().__init__(message)
        self.answered = answered


class BudgetSpent(NoMoreAnswers):
    """As many images have been sent as may be sent."""


@dataclass(frozen=True)
class Goal:
    """What the attacker wants of every image: any class but `labels`, or, when targeted, exactly that class.

    A refused image has no class: it never reaches a goal.
    """

    labels: Labels
    targeted: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    def reached(self, predicted: Labels) -> NDArray[np.bool_]:
        """Which rows of predicted class indices (REFUSED among them) are what the attacker wants: bool [n]."""
        hit = predicted == self.labels if self.targeted else predicted != self.labels
        reached: NDArray[np.bool_] = hit & (predicted != REFUSED)
        return reached

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_] | slice) -> Goal:
        """The goals of these rows."""
        return Goal(self.labels[rows], self.targeted)


@dataclass(frozen=True)
class Adversarial:
    """What an attack found, and what it spent.

    Attributes:
        images: float32 [n, h, w, c] in [0, 1]; what is closest to the goal where it was not reached.
        success: bool [n], whether the goal was reached, as the attacked classifier itself answered.
        queries: int64 [n], images given to the classifier.
        gradients: int64 [n], backward passes.
    """

    images: Images
    success: NDArray[np.bool_]
    queries: NDArray[np.int64]
    gradients: NDArray[np.int64]


class Attack(Protocol):
    """A frozen dataclass of its parameters, called on a classifier.

    The images given are left as they are; the same seed gives the same images.
    """

    @property
    def name(self) -> str: ...

    def __call__(self, classifier: Classifier, images: Images, goal: Goal, *, seed: int = 0) -> Adversarial:
        """Raises InvalidInput: images of another shape, labels out of range, no gradients where they are needed."""
        ...


def predicted_labels(probabilities: Probabilities) -> Labels:
    """Class indices [n], REFUSED for a row of zeros."""
    return np.where(probabilities.any(axis=1), probabilities.argmax(axis=1), REFUSED)


def check(classifier: Classifier, images: Images, goal: Goal) -> None:
    """Refuse what no attack can work on. Raises: InvalidInput."""
    if images.ndim != 4 or images.shape[1:] != classifier.input_shape:
        raise InvalidInput(f"expected images [n, {', '.join(map(str, classifier.input_shape))}], got {list(images.shape)}")
    if len(goal) != len(images):
        raise InvalidInput(f"expected one label per image, got {len(images)} images and {len(goal)} labels")
    classes = len(classifier.labels)
    if len(goal) and not 0 <= int(goal.labels.min()) <= int(goal.labels.max()) < classes:
        wrong = goal.labels[(goal.labels < 0) | (goal.labels >= classes)][0]
        raise InvalidInput(f"expected labels from 0 to {classes - 1}, the classes of the model, got {wrong}")


def differentiable(classifier: Classifier, attack: str) -> DifferentiableClassifier:
    """The classifier, known to have gradients. Raises: InvalidInput."""
    if not isinstance(classifier, DifferentiableClassifier):
        raise InvalidInput(
            f"{attack} needs a classifier with gradients, got {type(classifier).__name__}, which only predicts; "
            "use square or hop_skip_jump, which need none"
        )
    return classifier


def check_eps(eps: float, attack: str) -> None:
    """Refuse a radius that is no radius. Raises: InvalidInput."""
    if not (np.isfinite(eps) and eps > 0):
        raise InvalidInput(f"{attack}: expected eps > 0, got {eps!r}")
