"""Abstain on inputs whose prediction no overlay can change: the mark of a backdoor trigger.

Paper: Gao et al., ACSAC 2019, arXiv:1902.06531, section 4.
Known to beat it: source-specific triggers, and triggers an overlay destroys (docs/defences/strip.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from defences.errors import InvalidParameter
from defences.keyed import Keys, keyed_permutations
from models.classifier import Images, Probabilities

Blend = Literal["add", "mix"]

# 64 MiB of float32: the last stage of a batch of large images would otherwise take gigabytes.
_NUMBERS_PER_PROBE = 1 << 24


def entropy_bits(probabilities: Probabilities) -> NDArray[np.float64]:
    """Shannon entropy of every row over its *classes*, in bits, in float64, with 0 log 0 = 0: [n, k] -> [n]."""
    p = probabilities.astype(np.float64)
    bits: NDArray[np.float64] = -(p * np.log2(np.where(p > 0, p, 1.0))).sum(axis=1)
    return np.maximum(bits, 0.0)


@njit(nogil=True, fastmath={"contract"}, cache=True)
def _superimpose(images: Any, overlays: Any, order: Any, kept: Any, gain: Any, rows: Any) -> None:
    """rows[i, j] = clip(kept * images[i] + gain * overlays[order[i, j]]) with all pictures flattened."""
    zero, one = np.float32(0), np.float32(1)
    for i in range(order.shape[0]):
        picture = images[i]
        for j in range(order.shape[1]):
            overlay, row = overlays[order[i, j]], rows[i, j]
            for k in range(picture.size):
                row[k] = min(max(kept * picture[k] + gain * overlay[k], zero), one)


@dataclass(frozen=True, kw_only=True, eq=False)
class Strip:
    """Score an image by the mean entropy of its predictions under N overlays, and abstain when that is not above a threshold:

        s(x) = 1/N sum_n H(f(clip(x + weight * o_n))),   H in bits over classes;   abstain when S(x) <= threshold

    A triggered image keeps its target class under every overlay (s near 0). Entropies are not negative, so most clean images can
    leave early: stage j looks at the first n_j overlays and lets an image go as benign when their mean exceeds
    threshold + slack_j. What the threshold is calibrated on is therefore the staged statistic S(x) = max_j (mean_{n_j} - slack_j),
    with slack of the last stage 0. When n_j * mean_{n_j} > N * threshold the final answer is known and the image leaves exactly.

    Args:
        overlays: uint8 [N, h, w, c], clean images, fixed. Every image sees them in an order of its own, drawn from its key.
        threshold: in bits; -inf never abstains.
        stages: (n_1, ..., n_J = N), increasing: how many overlays have been seen when a decision may fall.
        slack: (slack_1, ..., 0.0) in bits, not negative, one per stage.
        weight: > 0, of the overlay; at most 1 when mixing.
        blend: "add" is clip(x + weight * o); "mix" is (1 - weight) * x + weight * o.

    Shapes: images float32 [n, h, w, c] in [0, 1] -> abstain bool [n].
    Cost: N model calls per suspect; a clean image pays a fraction (about 7 of 96 on MNIST: `make bench`).
    Raises: InvalidParameter on construction.
    """

    overlays: NDArray[np.uint8]
    threshold: float
    stages: tuple[int, ...]
    slack: tuple[float, ...]
    weight: float = 1.0
    blend: Blend = "add"

    name = "strip"

    def __post_init__(self) -> None:
        n = len(self.overlays)
        if self.overlays.ndim != 4 or self.overlays.dtype != np.uint8 or n == 0:
            raise InvalidParameter(
                f"strip: expected overlays uint8 [N, h, w, c], got {self.overlays.dtype} {self.overlays.shape}"
            )
        increasing = all(a < b for a, b in zip(self.stages, self.stages[1:], strict=False))
        whole = all(isinstance(stage, int) for stage in self.stages)
        if not self.stages or not whole or self.stages[0] < 1 or not increasing or self.stages[-1] != n:
            raise InvalidParameter(f"strip: expected increasing stages that end at the {n} overlays, got {self.stages}")
        if len(self.slack) != len(self.stages) or not all(slack >= 0 for slack in self.slack) or self.slack[-1] != 0:
            raise InvalidParameter(
                f"strip: expected one slack >= 0 per stage, the last 0, got {self.slack} for stages {self.stages}"
            )
        if self.blend not in ("add", "mix"):
            raise InvalidParameter(f'strip: expected blend "add" or "mix", got {self.blend!r}')
        if not (0 < self.weight < np.inf and (self.blend == "add" or self.weight <= 1)):
            raise InvalidParameter(f"strip: expected weight > 0 (and <= 1 when mixing), got {self.weight!r}")
        if np.isnan(self.threshold):
            raise InvalidParameter("strip: expected a threshold in bits, got NaN")
        object.__setattr__(self, "_bank", (self.overlays.astype(np.float32) / 255).reshape(n, -1))

    @property
    def calls_at_most(self) -> int:
        """Model calls one image can cost, beside its own prediction."""
        return len(self.overlays)

    def boundaries(self) -> NDArray[np.float64]:
        """The mean entropy above which an image leaves as benign, per stage [J]: float64."""
        seen = np.asarray(self.stages, np.float64)
        return np.minimum(self.threshold + np.asarray(self.slack), np.float64(self.stages[-1]) * self.threshold / seen)

    def begin(self, images: Images, keys: Keys) -> StripSession:
        """Start deciding on images [n, h, w, c] as they came."""
        return StripSession(self, images, keyed_permutations(keys, len(self.overlays)))

    def superimpose(self, images: Images, order: NDArray[np.int32]) -> Images:
        """Every image i under its overlays order[i]: [n, h, w, c], [n, m] -> [n * m, h, w, c]."""
        n, m = order.shape
        rows = np.empty((n, m, self._bank.shape[1]), np.float32)
        flat = np.ascontiguousarray(images, np.float32).reshape(n, self._bank.shape[1])
        kept = np.float32(1 if self.blend == "add" else 1 - self.weight)
        _superimpose(flat, self._bank, np.ascontiguousarray(order), kept, np.float32(self.weight), rows)
        return rows.reshape(n * m, *images.shape[1:])

    _bank: NDArray[np.float32] = None  # type: ignore[assignment]  # set in __post_init__: the overlays as float32 rows


class StripSession:
    """One batch on its way through the stages: the set of undecided images shrinks.

    Call `probe`, predict what it returns, pass the outputs to `decide`; repeat until `undecided` is empty. A probe is bounded in bytes:
    where a stage of many large images would exceed that, they take turns.

    Attributes:
        undecided: indices [m] of the images still in doubt.
        abstained: bool [n], meaningful for decided images.
        overlays_seen: int [n].
        mean_entropy: float64 [n] in bits over the overlays seen so far.
    """

    def __init__(self, strip: Strip, images: Images, order: NDArray[np.int32]) -> None:
        n = len(images)
        self._strip, self._images, self._order = strip, images, order
        self._boundaries = strip.boundaries()
        self._stage = 0
        self._sum = np.zeros(n)
        self._waiting = self.undecided = np.arange(n)
        self.abstained = np.zeros(n, bool)
        self.overlays_seen = np.zeros(n, np.int64)

    @property
    def mean_entropy(self) -> NDArray[np.float64]:
        return self._sum / np.maximum(self.overlays_seen, 1)

    def probe(self) -> Images:
        """The images whose turn it is, under the overlays of the stage: [m * (n_j - n_{j-1}), h, w, c]."""
        start, stop = self._span()
        turn = self._turn()
        return self._strip.superimpose(self._images[turn], self._order[turn, start:stop])

    def decide(self, outputs: Probabilities) -> None:
        """Take the predictions of what `probe` returned; let images go whose mean entropy is above the stage's boundary."""
        start, stop = self._span()
        turn = self._turn()
        self._sum[turn] += entropy_bits(outputs).reshape(len(turn), stop - start).sum(axis=1)
        self.overlays_seen[turn] = stop
        suspicious = self._sum[turn] / stop <= self._boundaries[self._stage]
        last = self._stage == len(self._boundaries) - 1
        self.abstained[turn[suspicious]] = last
        decided = turn if last else turn[~suspicious]
        self.undecided = np.setdiff1d(self.undecided, decided, assume_unique=True)
        self._waiting = self._waiting[len(turn) :]
        if not len(self._waiting):
            self._stage += 1
            self._waiting = self.undecided

    def _turn(self) -> NDArray[np.int64]:
        start, stop = self._span()
        numbers = (stop - start) * int(np.prod(self._images.shape[1:]))
        return self._waiting[: max(1, _NUMBERS_PER_PROBE // numbers)]

    def _span(self) -> tuple[int, int]:
        stages = self._strip.stages
        return (0 if self._stage == 0 else stages[self._stage - 1]), stages[self._stage]
