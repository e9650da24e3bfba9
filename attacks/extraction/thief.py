"""What a thief makes of the answers: each thief turns them into training targets, and is one row of `THIEVES`.

Every thief owns unlabelled images and knows the classes. What more it knows is said in `knows`.
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
"""What of an answer the thief looks at."""

Guess = Callable[[], Probabilities]
"""What the thief's own label-only copy says [n, k] of the images it asked about; trained when first called."""

Targets = Callable[[Probabilities, Guess], NDArray[np.floating]]
"""Answered rows [n, k] -> training targets [n, k]; rows are normalised for it."""


@dataclass(frozen=True, kw_only=True)
class Thief:
    """How answers become training targets.

    Args:
        name: for tables.
        knows: what it knows beside the answers, in a few words, for reports.
        targets: see `Targets`. A thief of "labels" is given one-hot rows.
        answers: "probabilities" or "labels".
        asks: how often every image is asked; the mean of what was answered counts as its answer, each asking is a query.
        shift: each time the image is moved by up to so many pixels; 0 asks the same image again.

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
    """1 for the winner, 0 for the others."""
    rows: Probabilities = np.eye(answers.shape[1], dtype=np.float32)[answers.argmax(axis=1)]
    return rows


def as_answered(answers: Probabilities, guess: Guess) -> Probabilities:
    """The answers themselves."""
    return answers


def top_1(answers: Probabilities, guess: Guess) -> Probabilities:
    """The winner's share as it was answered; what is left is spread evenly, whatever was said of the others."""
    classes = answers.shape[1]
    top = answers.max(axis=1, keepdims=True)
    rows: Probabilities = np.where(one_hot(answers) > 0, top, (1 - top) / (classes - 1)).astype(np.float32)
    return rows


def sharpened(temperature: float) -> Targets:
    """p^(1/T), normalised: T < 1 undoes a flattening without knowing how it was made, T > 1 flattens further."""
    if not temperature > 0:
        raise InvalidInput(f"expected a temperature > 0, got {temperature}")

    def targets(answers: Probabilities, guess: Guess) -> NDArray[np.floating]:
        logs = np.log(np.maximum(answers.astype(np.float64), 1e-12)) / temperature
        rows: NDArray[np.floating] = np.exp(logs - logs.max(axis=1, keepdims=True))
        return rows

    return targets


def smoothed(share: float) -> Targets:
    """Label smoothing: the winner gets 1 - share, the others `share` between them."""
    if not 0 < share < 1:
        raise InvalidInput(f"expected a share in (0, 1), got {share}")

    def targets(answers: Probabilities, guess: Guess) -> NDArray[np.floating]:
        winner = one_hot(answers)
        rows: NDArray[np.floating] = winner * (1 - share) + (1 - winner) * share / (answers.shape[1] - 1)
        return rows

    return targets


def inverted(*, beta: float, gamma: float) -> Targets:
    """The reverse sigmoid's formula, undone for these parameters; a row that they cannot have made stays as it was answered."""
    ReverseSigmoid(beta=beta, gamma=gamma)  # refuses parameters that no defence has

    def targets(answers: Probabilities, guess: Guess) -> NDArray[np.floating]:
        return invert_reverse_sigmoid(answers, beta=beta, gamma=gamma).probabilities

    return targets


def looked_up(answers: Probabilities, guess: Guess) -> NDArray[np.floating]:
    """A monotone map for every class, fitted between the answers and what the thief's own label-only copy says."""
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
"""By name. Those who know what an operator chose are made with `inverted(beta=..., gamma=...)`."""
