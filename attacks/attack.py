"""The interface of every attack: the attacker's goal, the attack, its result; and the checks that all attacks share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.classifier import Classifier, DifferentiableClassifier, Images, Labels, Probabilities
from models.engines.twins.capabilities import Capabilities
from models.errors import HauberkError, InvalidInput

REFUSED = -1
"""The class index of an image that a defended classifier refused."""

ImageIndices = NDArray[np.int64]
"""int64 [m], the positions of a batch's images among the n attacked images."""


class NoMoreAnswers(HauberkError):
    """A classifier behind a network or a query budget has stopped answering; an attack then returns its results so far.

    Attributes:
        answered: probabilities [m, k] of the first m images of the call, which were answered before it stopped.
    """

    def __init__(self, message: str, answered: Probabilities) -> None:
        super().__init__(message)
        self.answered = answered


class BudgetSpent(NoMoreAnswers):
    """The budget of queries is spent: every image that may be sent has been sent."""


@dataclass(frozen=True)
class Goal:
    """The class the attacker wants for every image: any class but `labels`, or, when targeted, exactly `labels` (int64 [n]).

    A refused image has no class and never reaches a goal.
    """

    labels: Labels
    targeted: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    def reached(self, predicted: Labels) -> NDArray[np.bool_]:
        """Whether each predicted class index (REFUSED among them) meets the goal: bool [n]."""
        hit = predicted == self.labels if self.targeted else predicted != self.labels
        reached: NDArray[np.bool_] = hit & (predicted != REFUSED)
        return reached

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_] | slice) -> Goal:
        """The goals of these images."""
        return Goal(self.labels[rows], self.targeted)


@dataclass(frozen=True)
class Adversarial:
    """The images that an attack returns, and their cost.

    Attributes:
        images: float32 [n, h, w, c] in [0, 1]; where the goal was not reached, the image that came closest to it.
        success: bool [n], whether `predict` of the attacked classifier confirmed the goal.
        queries: int64 [n], forward passes of the classifier spent on each image.
        gradients: int64 [n], backward passes spent on each image.
    """

    images: Images
    success: NDArray[np.bool_]
    queries: NDArray[np.int64]
    gradients: NDArray[np.int64]


class Attack(Protocol):
    """An attack is a frozen dataclass of its parameters, called on a classifier.

    The given images are not changed; the same seed gives the same result.
    """

    @property
    def name(self) -> str: ...

    def __call__(self, classifier: Classifier, images: Images, goal: Goal, *, seed: int = 0) -> Adversarial:
        """Attack images [n, h, w, c]. Raises: InvalidInput: another shape, labels out of range, a classifier without needed gradients."""
        ...


def predicted_labels(probabilities: Probabilities) -> Labels:
    """Class indices int64 [n] of probabilities [n, k]; REFUSED for a row of zeros."""
    return np.where(probabilities.any(axis=1), probabilities.argmax(axis=1), REFUSED)


def check(classifier: Classifier, images: Images, goal: Goal) -> None:
    """Check that images and goal fit the classifier. Raises: InvalidInput: another shape, another number of labels, unknown labels."""
    if images.ndim != 4 or images.shape[1:] != classifier.input_shape:
        raise InvalidInput(f"expected images [n, {', '.join(map(str, classifier.input_shape))}], got {list(images.shape)}")
    if len(goal) != len(images):
        raise InvalidInput(f"expected one label per image, got {len(images)} images and {len(goal)} labels")
    classes = len(classifier.labels)
    if len(goal) and not 0 <= int(goal.labels.min()) <= int(goal.labels.max()) < classes:
        wrong = goal.labels[(goal.labels < 0) | (goal.labels >= classes)][0]
        raise InvalidInput(f"expected labels from 0 to {classes - 1}, the classes of the model, got {wrong}")


def differentiable(classifier: Classifier, attack: str) -> DifferentiableClassifier:
    """The classifier, typed as differentiable. Raises: InvalidInput: a classifier without gradients."""
    if not isinstance(classifier, DifferentiableClassifier):
        raise InvalidInput(
            f"{Capabilities.of(classifier).lacks_gradients(attack)}, or use square or hop_skip_jump, which need none"
        )
    return classifier


def check_eps(eps: float, attack: str) -> None:
    """Check that a radius is finite and above 0. Raises: InvalidInput."""
    if not (np.isfinite(eps) and eps > 0):
        raise InvalidInput(f"{attack}: expected eps > 0, got {eps!r}")
