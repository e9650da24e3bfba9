"""Thieves: how the attacker turns the victim's answers into training targets, one row of `THIEVES` each.

Every thief has unlabelled images and knows the classes; `knows` says what else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from attacks.extraction.inversion import invert_reverse_sigmoid
from attacks.extraction.look_up import look_up
from defences.postprocessors.reverse_sigmoid import ReverseSigmoid
from models.classifier import Probabilities
from models.errors import InvalidInput

Answers = Literal["probabilities", "labels"]
"""The part of an answer that the thief uses."""

Guess = Callable[[], Probabilities]
"""Predictions [n, k] of the thief's own label-only copy for the queried images; the copy is trained on the first call."""

Targets = Callable[[Probabilities, Guess], NDArray[np.floating]]
"""Answered rows [n, k] -> training targets [n, k]; `Thief.learn` normalises the rows."""


@dataclass(frozen=True, kw_only=True)
class Thief:
    """How answers become training targets.

    Args:
        name: the name in tables.
        knows: the thief's knowledge beside the answers, in a few words, for reports.
        targets: see `Targets`. A thief of "labels" gets one-hot rows.
        answers: "probabilities" or "labels".
        asks: queries per image; their mean counts as the answer.
        shift: pixels by which each repeated query is moved at most, at random; 0 repeats the same image.

    Raises: InvalidInput on construction.
    """

    name: str
    targets: Targets
    knows: str = "nothing"
    answers: Answers = "probabilities"
    asks: int = 1
    shift: int = 0

    def __post_init__(self) -> None:
        if self.answers not in get_args(Answers):
            raise InvalidInput(f"expected answers of {', '.join(get_args(Answers))}, got {self.answers!r}")
        if self.asks < 1 or self.shift < 0:
            raise InvalidInput(f"expected asks >= 1 and shift >= 0, got {self.asks} and {self.shift}")

    def learn(self, answers: Probabilities, guess: Guess) -> Probabilities:
        """Training targets [n, k], rows that sum to one, of answered rows [n, k]."""
        seen = one_hot(answers) if self.answers == "labels" else answers
        targets = np.maximum(np.asarray(self.targets(seen, guess), np.float64), 0)
        rows: Probabilities = (targets / targets.sum(axis=1, keepdims=True)).astype(np.float32)
        return rows


def one_hot(answers: Probabilities) -> Probabilities:
    """Rows [n, k] with 1 for the predicted class and 0 for the others."""
    rows: Probabilities = np.eye(answers.shape[1], dtype=np.float32)[answers.argmax(axis=1)]
    return rows


def as_answered(answers: Probabilities, guess: Guess) -> Probabilities:
    """The answers, unchanged."""
    return answers


def top_1(answers: Probabilities, guess: Guess) -> Probabilities:
    """The predicted class's probability as answered, the rest spread evenly over the other classes."""
    classes = answers.shape[1]
    top = answers.max(axis=1, keepdims=True)
    rows: Probabilities = np.where(one_hot(answers) > 0, top, (1 - top) / (classes - 1)).astype(np.float32)
    return rows


def sharpened(temperature: float) -> Targets:
    """p^(1/T), normalised: T < 1 sharpens flattened answers, T > 1 flattens further."""
    if not temperature > 0:
        raise InvalidInput(f"expected a temperature > 0, got {temperature}")

    def targets(answers: Probabilities, guess: Guess) -> NDArray[np.floating]:
        logs = np.log(np.maximum(answers.astype(np.float64), 1e-12)) / temperature
        rows: NDArray[np.floating] = np.exp(logs - logs.max(axis=1, keepdims=True))
        return rows

    return targets


def smoothed(share: float) -> Targets:
    """Label smoothing: 1 - share for the predicted class, `share` spread evenly over the others."""
    if not 0 < share < 1:
        raise InvalidInput(f"expected a share in (0, 1), got {share}")

    def targets(answers: Probabilities, guess: Guess) -> NDArray[np.floating]:
        winner = one_hot(answers)
        rows: NDArray[np.floating] = winner * (1 - share) + (1 - winner) * share / (answers.shape[1] - 1)
        return rows

    return targets


def inverted(*, beta: float, gamma: float) -> Targets:
    """The inverse of the reverse sigmoid with these parameters; rows it cannot have produced stay as answered."""
    ReverseSigmoid(beta=beta, gamma=gamma)  # raises for invalid parameters

    def targets(answers: Probabilities, guess: Guess) -> NDArray[np.floating]:
        return invert_reverse_sigmoid(answers, beta=beta, gamma=gamma).probabilities

    return targets


def looked_up(answers: Probabilities, guess: Guess) -> NDArray[np.floating]:
    """A monotone map per class, fitted from the answers to the predictions of the thief's own label-only copy."""
    return look_up(answers, guess())


THIEVES: dict[str, Thief] = {
    thief.name: thief
    for thief in (
        Thief(name="probabilities", targets=as_answered),
        Thief(name="labels", targets=as_answered, answers="labels"),
        Thief(name="smoothed labels", targets=smoothed(0.1), answers="labels"),
        Thief(name="top-1", targets=top_1),
        Thief(name="sharpened", targets=sharpened(0.25), knows="that the answers are flattened"),
        Thief(name="averaged", targets=as_answered, knows="that answers may be random", asks=3),
        Thief(name="averaged, shifted", targets=as_answered, knows="that answers may be random", asks=3, shift=1),
        Thief(
            name="inverted", targets=inverted(beta=1.0, gamma=0.1), knows="the formula; takes beta and gamma to be the defaults"
        ),
        Thief(name="looked up", targets=looked_up, knows="that each class's probability was mapped monotonically; no formula"),
    )
}
"""Thieves by name. `inverted(beta=..., gamma=...)` makes one that knows the operator's parameters."""
