"""Invert an unknown perturbation of probabilities by regression on the thief's own predictions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.classifier import Probabilities

_TINY = 1e-9
_PAIRS_AT_LEAST = 20


def look_up(answers: Probabilities, believed: Probabilities) -> NDArray[np.float64]:
    """Estimate the unperturbed probabilities: fit a monotone map of each class's losing probabilities, rising or falling.

    Maths: for class c, over the rows it did not win, isotonic regression of log believed_c on answer_c; the winner gets the rest.
    A class with fewer than twenty such rows shares the map of all classes. The thief knows neither formula nor parameters of the
    defence, nor any unperturbed probability: `believed` are the predictions of its own copy, trained on labels.

    Shapes: answers, believed [n, k] -> [n, k], rows that sum to one.   Cost: 2 (k + 1) isotonic regressions of at most n (k - 1) pairs.
    """
    loses = np.ones(answers.shape, bool)
    loses[np.arange(len(answers)), answers.argmax(axis=1)] = False
    logs = np.log(np.maximum(believed.astype(np.float64), _TINY))
    behind = np.zeros(answers.shape)
    behind[loses] = _monotone(answers[loses], logs[loses])
    for column in range(answers.shape[1]):
        rows = loses[:, column]
        if rows.sum() >= _PAIRS_AT_LEAST:
            behind[rows, column] = _monotone(answers[rows, column], logs[rows, column])
    behind[loses] = np.exp(behind[loses])
    # The winner must stay ahead: the losers are scaled down until each is below the rest.
    losers = np.where(loses, behind, 0)
    whole = losers.sum(axis=1) + losers.max(axis=1)
    losers *= np.minimum(1.0, 1 / np.maximum(whole, _TINY))[:, None]
    behind = losers
    behind[~loses] = 1 - losers.sum(axis=1)
    return behind


def _monotone(given: NDArray[np.float32], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """`wanted`, fitted by the better of a rising and a falling step function of `given`."""
    from sklearn.isotonic import IsotonicRegression

    fits = [IsotonicRegression(increasing=rising).fit_transform(given, wanted) for rising in (True, False)]
    best: NDArray[np.float64] = min(fits, key=lambda fit: float(((fit - wanted) ** 2).sum()))
    return best
