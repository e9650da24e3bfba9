"""Blur the returned probabilities, so that a stolen copy learns from misleading targets; the label never changes.

Paper: Lee et al. 2018, arXiv:1806.00054, section 4. Patents: US 11,023,593 and 11,853,436 (IBM).
Known to beat it: attackers who train on labels only or invert it per class (docs/defences/reverse_sigmoid.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

from defences.defence import Defence, DefenceRecord
from defences.errors import InvalidParameter
from models.classifier import Probabilities

_TINY = 1e-9
# The winner keeps at least this share of its lead over every other class.
_LEAD_KEPT = 0.05
# The paper's beta was measured on ten classes: nine other classes share the probability that the winner loses.
_REFERENCE_LOSERS = 9


@dataclass(frozen=True, kw_only=True)
class ReverseSigmoid(Defence):
    """Subtract a reversed sigmoid of every probability's own logit and renormalise:

        r_i = beta_k * (sigmoid(gamma * logit(y_i)) - 1/2),     y' = normalise(clip(y - r, 0, 1))

    As published this is not argmax-preserving: a top probability under about .376 (gamma .1) can lose. Here beta is shrunk in such
    a row, by the closed form of the largest factor with which the winner keeps a twentieth of its lead over each other class.
    beta_k = beta * min(1, 9 / (k - 1)): the mass that goes to the other classes grows with their number and would exceed the winner's.

    Args:
        beta: in (0, 1], the magnitude of the perturbation at ten classes or fewer.
        gamma: > 0, the steepness.

    Shapes: probabilities float32 [n, k], or [n, 1] for the positive class of a binary one -> the same. A row of zeros (a refusal; k >= 2)
    comes back as zeros. Computed in float64.   Cost: no model calls.   Raises: InvalidParameter on construction.

    >>> ReverseSigmoid()(np.array([[0.98, 0.01, 0.01]], np.float32)).round(2).tolist()
    [[0.7799999713897705, 0.10999999940395355, 0.10999999940395355]]
    """

    beta: float = 1.0
    gamma: float = 0.1

    name = "reverse_sigmoid"
    record: ClassVar[DefenceRecord] = DefenceRecord(
        stage="obscure",
        title="Reverse sigmoid",
        summary="Blurs the probabilities on the way out, so that a copy trained on them learns less.",
        mitigations=("AML.M0002",),
        techniques=("AML.T0024.002", "AML.T0005.001"),
    )

    def __post_init__(self) -> None:
        if not 0 < self.beta <= 1:
            raise InvalidParameter(f"reverse_sigmoid: expected beta in (0, 1], got {self.beta!r}")
        if not (math.isfinite(self.gamma) and self.gamma > 0):
            raise InvalidParameter(f"reverse_sigmoid: expected gamma > 0, got {self.gamma!r}")

    def __call__(self, probabilities: Probabilities) -> Probabilities:
        return self.obscure(probabilities)[0]

    def obscure(self, probabilities: Probabilities) -> tuple[Probabilities, NDArray[np.bool_]]:
        """The obscured rows, and which rows [n] the argmax guard had to act on."""
        y = np.ascontiguousarray(probabilities, np.float64)
        beta = self.beta * min(1.0, _REFERENCE_LOSERS / max(1, y.shape[1] - 1))
        both = y if y.shape[1] > 1 else np.concatenate([1 - y, y], axis=1)
        obscured, guarded = _obscure(both, both.sum(axis=1), beta, self.gamma)
        return obscured[:, obscured.shape[1] - y.shape[1] :], guarded

    @classmethod
    def compile_kernels(cls) -> None:
        """The formula, row by row."""
        cls()(np.full((1, 2), 0.5, np.float32))


@njit(nogil=True, cache=True, error_model="numpy")
def _obscure(given: Any, totals: Any, beta: float, gamma: float) -> Any:
    """The obscured rows of float64 [n, k], k >= 2, in float32, and which of them the argmax guard had to act on.

    Compiled, since some thirty operations of NumPy on a few rows take longer than what they compute (docs/decisions/0018). NumPy sums the
    rows: where a winner is near 1, the order of the summands decides its last digits.
    """
    n, classes = given.shape
    result, guarded = given.astype(np.float32), np.zeros(n, np.bool_)
    y, perturbation, obscured = np.empty(classes), np.empty(classes), np.empty(classes, np.float32)
    for i in range(n):
        if not totals[i] > 0:
            continue
        # Near 1 the rounding of float32 is most of the winner's distance to 1, on which the logit depends, and it differs from batch to
        # batch. The other classes are exact to seven digits, so the winner is one minus their sum.
        y[:] = given[i] / totals[i]
        for k in range(classes):
            safe = min(max(y[k], _TINY), 1 - _TINY)
            logit = np.log(safe) - np.log1p(-safe)
            perturbation[k] = beta * np.tanh(0.5 * gamma * logit) / 2  # sigmoid(x) - 1/2, without overflow
        winner = y.argmax()
        share = _largest_share(y, perturbation, winner)
        blurred = np.minimum(np.maximum(y - share * perturbation, 0.0), 1.0)
        obscured[:] = blurred / blurred.sum()
        # A lead that float64 resolves can vanish in float32: such a row is returned unchanged.
        merged = obscured.argmax() != winner
        if not merged:
            result[i] = obscured
        guarded[i] = share < 1 or merged
    return result, guarded


@njit(nogil=True, cache=True, error_model="numpy")
def _largest_share(y: Any, perturbation: Any, winner: Any) -> float:
    """Largest s in [0, 1] such that the winner w keeps a twentieth of its lead over every i:

    (y_w - s r_w) - (y_i - s r_i) >= 0.05 (y_w - y_i)   <=>   s <= 0.95 (y_w - y_i) / (r_w - r_i)  where r_w > r_i
    """
    share = 1.0
    for k in range(y.size):
        loss = perturbation[winner] - perturbation[k]
        if loss > 0:
            share = min(share, (1 - _LEAD_KEPT) * (y[winner] - y[k]) / loss)
    return share
