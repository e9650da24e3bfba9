"""Invert the reverse sigmoid: the thief knows the formula and assumes values of beta and gamma.

Against: Lee et al. 2018, arXiv:1806.00054 (defences/postprocessors/reverse_sigmoid.py, argmax guard included).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from defences.postprocessors.reverse_sigmoid import ReverseSigmoid
from models.classifier import Classifier, ClassifierWrapper, Images, Probabilities

_TINY = 1e-9
_LOWEST = float(np.log(_TINY) - np.log1p(-_TINY))  # the logit at which the defence clips
_TABLE = 4096
_SCANNED = 96
_HALVINGS = 45
_UPPER_AT_MOST = 3
_SLACK = 1e-5
_MATCHES = 1e-5


class Inverted(NamedTuple):
    """Inverted answers: probabilities float64 [n, k]; solved bool [n], whether the defence maps the row to the given answer."""

    probabilities: NDArray[np.float64]
    solved: NDArray[np.bool_]


def invert_reverse_sigmoid(answers: Probabilities, *, beta: float, gamma: float) -> Inverted:
    """Probabilities before a reverse sigmoid with these parameters was applied.

    Maths: y' = h(y) / Z with h(y) = y - beta_k (sigmoid(gamma logit y) - 1/2) and Z the unknown sum of h. A loser's h falls from
    y = 1e-9 to a fold (y = .024 at beta 1, gamma .1) and rises beyond it: two losing probabilities have the same answer. So for a
    choice of branches, Z is the root of  h(1 - sum over losers of h^-1(Z y'_i)) = Z y'_winner. Tried in this order: all losers
    below the fold, then the largest one above it, then two, three, and all; the first choice that reproduces the answer is taken:
    the most confident row. It is the true one wherever all losers together hold less than the fold.

    Not recovered: losers under 1e-9 (returned as values under 1e-9); less confident rows with the same answer as a more confident row
    (returned instead); rows where the argmax guard shrank beta, and rows made with other parameters: another row with the same answer
    is returned, or, where none is found, the answer itself, not `solved`.

    Shapes: answers [n, k >= 2] -> [n, k].   Cost: no queries; about 0.1 ms per row of ten classes, in proportion to the classes.
    """
    given = answers.astype(np.float64)
    result = Inverted(given.copy(), np.zeros(len(given), bool))
    if not len(given):
        return result
    defence = ReverseSigmoid(beta=beta, gamma=gamma)
    curve = _Curve.of(beta * min(1.0, 9 / (given.shape[1] - 1)), gamma)
    losers = given.shape[1] - 1
    for above in sorted({*range(min(_UPPER_AT_MOST, losers) + 1), losers}):
        left = np.flatnonzero(~result.solved)
        found = curve.solve(given[left], above)
        again = defence(found.astype(np.float32))
        exact = np.isfinite(found).all(axis=1) & (np.abs(again - given[left]).max(axis=1) < _MATCHES)
        result.probabilities[left[exact]] = found[exact]
        result.solved[left[exact]] = True
    return result


@dataclass(frozen=True, kw_only=True)
class InvertedClassifier(ClassifierWrapper):
    """A classifier behind a reverse sigmoid, with its answers inverted: for query attacks by an attacker who knows beta and gamma.

    The defence gives very confident answers a *lower* probability than less confident ones, which misleads a search on raw answers. A
    refused row stays a row of zeros.   Cost: no queries beyond those of `classifier`.
    """

    classifier: Classifier
    beta: float
    gamma: float

    def predict(self, images: Images) -> Probabilities:
        """Probabilities [n, k], inverted where that keeps the predicted class, else as answered."""
        answers = self.classifier.predict(images)
        answered = answers.any(axis=1)
        undone = answers.copy()
        undone[answered] = invert_reverse_sigmoid(answers[answered], beta=self.beta, gamma=self.gamma).probabilities
        other = undone.argmax(axis=1) != answers.argmax(axis=1)
        undone[other] = answers[other]
        return undone


@dataclass(frozen=True)
class _Curve:
    """h as a function of the logit, tabulated for the two branches a loser can be on: below the fold and above it."""

    beta: float
    gamma: float
    below: NDArray[np.float64]
    above: NDArray[np.float64]

    @property
    def clipped(self) -> float:
        """h at probabilities of 1e-9 and less; infinite where h does not fall there."""
        return float(self.below[0, -1]) if self.below[0, -1] > self.below[0, 0] else np.inf

    @classmethod
    def of(cls, beta: float, gamma: float) -> _Curve:
        whole = np.linspace(_LOWEST, 0.0, _TABLE)
        fold = whole[np.argmin(_h(whole, beta, gamma))]
        tables = [np.linspace(start, stop, _TABLE) for start, stop in ((fold, _LOWEST), (fold, 0.0))]
        return cls(beta, gamma, *(np.stack([_h(logits, beta, gamma), logits]) for logits in tables))

    def solve(self, answers: NDArray[np.float64], above: int) -> NDArray[np.float64]:
        """Rows [n, k] of the most confident solution with the `above` largest losers above the fold; NaN where there is none."""
        rows = np.arange(len(answers))
        order = np.argsort(-answers, axis=1)
        ordered = np.take_along_axis(answers, order, axis=1)
        lowest, highest = self._scales(ordered, above)
        grid = highest + (lowest - highest) * np.linspace(0, 1, _SCANNED)[:, None]
        errors = np.stack([self._error(ordered, scale, above)[0] for scale in grid])
        crosses = (errors[:-1] > 0) != (errors[1:] > 0)
        first = crosses.argmax(axis=0)  # the largest Z: the smallest losers
        high, low = grid[first, rows], grid[first + 1, rows]
        sign = errors[first, rows] > 0
        for _ in range(_HALVINGS):
            middle = (high + low) / 2
            same = (self._error(ordered, middle, above)[0] > 0) == sign
            high, low = np.where(same, middle, high), np.where(same, low, middle)
        solved = self._error(ordered, (high + low) / 2, above)[1]
        solved[~crosses.any(axis=0) | (lowest > highest)] = np.nan
        result = np.empty_like(solved)
        np.put_along_axis(result, order, solved, axis=1)
        return result

    def _scales(self, ordered: NDArray[np.float64], above: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lowest and highest Z for which every loser stays on its branch: [n], [n]."""
        lowest, highest = np.zeros(len(ordered)), np.full(len(ordered), 1 + ordered.shape[1] * self.beta / 2)
        losers = np.maximum(ordered[:, 1:], _TINY)
        for branch, table in ((losers[:, :above], self.above), (losers[:, above:], self.below)):
            if branch.shape[1]:
                lowest = np.maximum(lowest, table[0].min() / branch[:, -1])
                highest = np.minimum(highest, table[0].max() / branch[:, 0])
        return lowest * (1 - _SLACK), highest * (1 + _SLACK)

    def _error(
        self, ordered: NDArray[np.float64], scale: NDArray[np.float64], above: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """h(winner) - Z y'_winner [n], and the rows [n, k]; winner first, then losers by falling answer."""
        values = ordered * scale[:, None]
        logits = np.zeros_like(values)
        logits[:, 1 : 1 + above] = np.interp(values[:, 1 : 1 + above], *self.above)
        logits[:, 1 + above :] = np.interp(values[:, 1 + above :], *self.below)
        y = 1 / (1 + np.exp(-logits))
        if np.isfinite(self.clipped):  # all values up to 1e-9 have the same answer; the rest of the row determines them
            under = np.clip(1 - (values[:, 1 + above :] / self.clipped - 1) / _SLACK, 0, 1)
            y[:, 1 + above :] *= under
        others = np.clip(y[:, 1:].sum(axis=1), _TINY, 1 - _TINY)
        y[:, 0] = 1 - others
        return _h(np.log1p(-others) - np.log(others), self.beta, self.gamma) - values[:, 0], y


def _h(logits: NDArray[np.float64], beta: float, gamma: float) -> NDArray[np.float64]:
    curve: NDArray[np.float64] = 1 / (1 + np.exp(-logits)) - beta * np.tanh(0.5 * gamma * logits) / 2
    return curve
