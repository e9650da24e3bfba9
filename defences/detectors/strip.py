"""Abstain on images whose prediction no overlay changes, as with a backdoor trigger.

Paper: Gao et al., ACSAC 2019, arXiv:1902.06531, section 4. Instead of by the entropy of each prediction, it may be measured by whether
the answer stays, as Guo et al., ICLR 2023, arXiv:2302.03251 (SCALE-UP) do with copies of an image that are amplified.
Known to beat it: source-specific triggers, and triggers an overlay destroys (docs/defences/strip.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from defences.compiled import compiled_for
from defences.defence import Defence, DefenceRecord, DetectionHistogram
from defences.errors import InvalidParameter
from defences.keyed import Keys, keyed_permutations
from models.classifier import Images, Probabilities

Blend = Literal["add", "mix"]
Statistic = Literal["change", "entropy"]

# 64 MiB of float32: the last stage of a batch of large images would otherwise take gigabytes.
_NUMBERS_PER_PROBE = 1 << 24
_ENTROPY_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 10.0)
_OVERLAY_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def entropy_bits(probabilities: Probabilities) -> NDArray[np.float64]:
    """Shannon entropy of every row over its *classes*, in bits, in float64, with 0 log 0 = 0: [n, k] -> [n]."""
    p = probabilities.astype(np.float64)
    bits: NDArray[np.float64] = -(p * np.log2(np.where(p > 0, p, 1.0))).sum(axis=1)
    return np.maximum(bits, 0.0)


def change(probabilities: Probabilities, labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """What every row leaves to classes other than its label, in float64: [n, k], [n] -> [n], in [0, 1]."""
    left: NDArray[np.float64] = 1 - probabilities[np.arange(len(labels)), labels].astype(np.float64)
    sure = np.flatnonzero(left <= 0)
    if sure.size:
        # A probability that float32 rounds to 1. The others still tell how sure: without them, a classifier with large logits would have
        # many clean images tie with a perfect backdoor's at 0, and so switch off its own detector.
        others = probabilities[sure].astype(np.float64)
        others[np.arange(len(sure)), labels[sure]] = 0
        left[sure] = others.sum(axis=1)
    return left


@njit(nogil=True, fastmath={"contract"}, cache=True)
def _superimpose(
    images: Any, overlays: Any, order: Any, turn: Any, start: Any, stop: Any, kept: Any, gain: Any, rows: Any
) -> None:
    """clip(kept * images[i] + gain * overlays[order[i, j]]) for i in turn and start <= j < stop, one after the other into rows."""
    zero, one = np.float32(0), np.float32(1)
    at = 0
    for t in range(turn.size):
        picture = images[turn[t]]
        for j in range(start[t], stop[t]):
            overlay, row = overlays[order[turn[t], j]], rows[at]
            for k in range(picture.size):
                row[k] = min(max(kept * picture[k] + gain * overlay[k], zero), one)
            at += 1


@njit(nogil=True, cache=True)
def _probe(
    images: Any, overlays: Any, order: Any, doubtful: Any, stage: Any, stages: Any, most: int, kept: Any, gain: Any
) -> Any:
    """The doubtful images, as many as come under `most` overlays together but one at least, and each under those of its stage."""
    turn = np.flatnonzero(doubtful)
    start, stop = np.empty_like(turn), np.empty_like(turn)
    count = total = 0
    for i in turn:
        start[count], stop[count] = stages[stage[i]], stages[stage[i] + 1]
        total += stop[count] - start[count]
        if count and total > most:
            total -= stop[count] - start[count]
            break
        count += 1
    rows = np.empty((total, overlays.shape[1]), np.float32)
    _superimpose(images, overlays, order, turn[:count], start, stop, kept, gain, rows)
    return turn[:count], rows


@njit(nogil=True, cache=True)
def _judge(
    outputs: Any, answers: Any, turn: Any, stages: Any, boundaries: Any, by_entropy: bool, stage: Any, sums: Any, flags: Any
) -> None:
    """Add to the sums of each image in turn what its outputs say, and decide on it at the end of its stage.

    The same as `entropy_bits` and `change`, in one pass: a dozen small operations of NumPy take longer than the forward pass of an image.
    """
    at = 0
    for i in turn:
        label = 0
        if not by_entropy:
            for k in range(1, answers.shape[1]):
                if answers[i, k] > answers[i, label]:
                    label = k
        seen = stages[stage[i] + 1]
        total = total_bits = 0.0
        for _ in range(stages[stage[i]], seen):
            bits = others = 0.0
            for k in range(outputs.shape[1]):
                p = np.float64(outputs[at, k])
                if p > 0:
                    bits -= p * np.log2(p)
                if k != label:
                    others += p
            bits = max(bits, 0.0)
            left = 1 - np.float64(outputs[at, label])
            total += bits if by_entropy else (left if left > 0 else others)
            total_bits += bits
            at += 1
        sums[i, 0] += total
        sums[i, 1] += total_bits
        suspicious = sums[i, 0] / seen <= boundaries[stage[i]]
        stage[i] += 1
        last = stage[i] == boundaries.size
        flags[i, 0], flags[i, 1] = suspicious and not last, suspicious and last


@dataclass(frozen=True, kw_only=True, eq=False)
class Strip(Defence):
    """Score an image by how little N overlays change its prediction, and abstain when that is not above a threshold:

        s(x) = 1/N sum_n d(f(clip(x + weight * o_n)));   abstain when s(x) <= threshold

    d is the probability that is left to classes other than the answer to the image (statistic "change"), or the entropy over classes in
    bits ("entropy", the paper's). A triggered image keeps its target class under every overlay (s near 0). So does one without a trigger
    whose answer is replaced by another, as certain one, by its entropies alone.

    Most clean images leave early: stage j looks at the first n_j overlays and passes an image as benign when their mean is above a
    boundary. Where a `ceiling` is given, that is ceiling + slack_j, whatever the threshold, which is at most the ceiling; without, as
    in older bundles, threshold + slack_j. As d is not negative, an image also passes once n_j * mean_{n_j} > N * threshold: whatever the
    remaining overlays say, s(x) is above the threshold.

    Whoever changes an image a little draws another order. Boundaries therefore have to be so high that an image which all overlays refuse
    leaves early in next to none of the orders (`defences/calibration/early_exits.py` chooses them so).

    Args:
        overlays: uint8 [N, h, w, c], clean images, fixed. Every image sees them in an order of its own, drawn from its key.
        threshold: in the statistic's unit; -inf never abstains.
        stages: (n_1, ..., n_J = N), increasing: how many overlays have been seen when a decision may fall.
        slack: (slack_1, ..., 0.0), not negative, one per stage.
        front: every image sees the first `front` overlays before the others, both in an order of its own: those that tell clean images
            from suspects best. 0 makes no difference between overlays.
        weight: > 0, of the overlay; at most 1 when mixing.
        blend: "add" is clip(x + weight * o); "mix" is (1 - weight) * x + weight * o.
        statistic: d, "change" or "entropy".
        ceiling: >= 0, the highest threshold that the slack is for, and a bound of it; 0 for none.

    Shapes: images float32 [n, h, w, c] in [0, 1] -> abstain bool [n].
    Cost: N model calls per suspect; a clean image pays a fraction (3 to 6 of 16 to 32 on MNIST: `make bench`).
    Raises: InvalidParameter on construction.
    """

    overlays: NDArray[np.uint8]
    threshold: float
    stages: tuple[int, ...]
    slack: tuple[float, ...]
    weight: float = 1.0
    blend: Blend = "add"
    front: int = 0
    statistic: Statistic = "entropy"
    ceiling: float = 0.0

    _bank: NDArray[np.float32] = field(init=False, repr=False)
    """The overlays as float32 rows."""
    _marks: NDArray[np.int64] = field(init=False, repr=False)
    """Where stages begin and end: 0 and the stages."""
    _ahead: NDArray[np.int64] = field(init=False, repr=False)
    """The overlays of every stage, and none after the last."""
    _limits: NDArray[np.float64] = field(init=False, repr=False)
    """The boundaries."""
    _shares: tuple[np.float32, np.float32] = field(init=False, repr=False)
    """What is kept of an image under an overlay, and of the overlay."""

    name = "strip"
    record: ClassVar[DefenceRecord] = DefenceRecord(
        stage="abstain",
        title="STRIP",
        summary="Refuses images whose answer no overlay changes: the mark of a backdoor trigger.",
        mitigations=("AML.M0015",),
        techniques=("AML.T0043.004", "AML.T0018.000"),
        calibrated={"overlays": "array", "threshold": "number", "slack": "numbers"},
        histograms=(
            DetectionHistogram(
                name="hauberk_strip_entropy_bits",
                help="Mean entropy under the overlays seen, per image.",
                buckets=_ENTROPY_BUCKETS,
                of="entropies",
            ),
            DetectionHistogram(name="hauberk_strip_overlays", help="Overlays per image.", buckets=_OVERLAY_BUCKETS, of="calls"),
        ),
        fitted_by="defences.calibration.strip:fit_strip",
    )

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
        if not isinstance(self.front, int) or not 0 <= self.front < n:
            raise InvalidParameter(f"strip: expected front, a number of overlays below {n}, got {self.front!r}")
        if self.blend not in ("add", "mix"):
            raise InvalidParameter(f'strip: expected blend "add" or "mix", got {self.blend!r}')
        if self.statistic not in ("change", "entropy"):
            raise InvalidParameter(f'strip: expected statistic "change" or "entropy", got {self.statistic!r}')
        if not 0 <= self.ceiling < np.inf:
            raise InvalidParameter(f"strip: expected a ceiling >= 0, got {self.ceiling!r}")
        if not (0 < self.weight < np.inf and (self.blend == "add" or self.weight <= 1)):
            raise InvalidParameter(f"strip: expected weight > 0 (and <= 1 when mixing), got {self.weight!r}")
        if np.isnan(self.threshold):
            raise InvalidParameter("strip: expected a threshold, got NaN")
        object.__setattr__(self, "_bank", (self.overlays.astype(np.float32) / 255).reshape(n, -1))
        object.__setattr__(self, "_marks", np.array([0, *self.stages]))
        object.__setattr__(self, "_ahead", np.diff(self._marks, append=n))
        object.__setattr__(self, "_limits", self.boundaries())
        kept = 1 if self.blend == "add" else 1 - self.weight
        object.__setattr__(self, "_shares", (np.float32(kept), np.float32(self.weight)))

    @property
    def calls_at_most(self) -> int:
        """Model calls one image can cost, beside its own prediction."""
        return len(self.overlays)

    def boundaries(self) -> NDArray[np.float64]:
        """The mean above which an image leaves as benign, per stage [J]: float64."""
        threshold = min(self.threshold, self.ceiling) if self.ceiling else self.threshold
        seen = np.asarray(self.stages, np.float64)
        chosen = (self.ceiling or threshold) + np.asarray(self.slack)
        return np.minimum(chosen, np.float64(self.stages[-1]) * threshold / seen)

    def change_of(self, outputs: Probabilities, labels: NDArray[np.int64]) -> NDArray[np.float64]:
        """d of every row, of an image whose answer has this label: [m, k], [m] -> [m]."""
        return entropy_bits(outputs) if self.statistic == "entropy" else change(outputs, labels)

    def orders(self, keys: Keys) -> NDArray[np.int32]:
        """The order in which the image of each key sees the overlays: int32 [n, N]."""
        rest = len(self.overlays) - self.front
        if not self.front:
            return np.asarray(keyed_permutations(keys, rest))
        return np.concatenate([keyed_permutations(keys, self.front), self.front + keyed_permutations(~keys, rest)], axis=1)

    def begin(self, images: Images, keys: Keys) -> StripSession:
        """Start a session for images [n, h, w, c], not purified."""
        session = StripSession(self, images.shape[1:])
        session.join(np.empty(0, np.int64), images, keys)
        return session

    def superimpose(self, images: Images, order: NDArray[np.int32]) -> Images:
        """Every image i under its overlays order[i]: [n, h, w, c], [n, m] -> [n * m, h, w, c]."""
        n, m = order.shape
        rows = np.empty((n * m, self._bank.shape[1]), np.float32)
        flat, order = compiled_for(images).reshape(n, self._bank.shape[1]), np.ascontiguousarray(order)
        start, stop = np.zeros(n, np.int64), np.full(n, m)
        _superimpose(flat, self._bank, order, np.arange(n), start, stop, *self._shares, rows)
        return rows.reshape(len(rows), *images.shape[1:])

    def check_input_shape(self, shape: tuple[int, int, int]) -> None:
        """Overlays have to be of the shape of the images."""
        if self.overlays.shape[1:] != shape:
            raise InvalidParameter(f"expected strip overlays of shape {shape} in calibration.npz, got {self.overlays.shape[1:]}")

    def in_words(self) -> str:
        """What is laid over an image, how often, and which entropy is too low."""
        how = "added" if self.blend == "add" else "mixed in"
        unit = "bits" if self.statistic == "entropy" else "of change"
        return f"{len(self.overlays)} overlays {how} at weight {self.weight:g}, refuses at {self.threshold:.4g} {unit} or less"

    @classmethod
    def compile_kernels(cls) -> None:
        """The superposition of overlays, the keyed order they come in, and what is made of the outputs."""
        overlays, images = np.zeros((2, 8, 8, 1), np.uint8), np.zeros((2, 8, 8, 1), np.float32)
        strip, keys = cls(overlays=overlays, threshold=0.0, stages=(2,), slack=(0.0,)), np.zeros(2, np.uint64)
        session = strip.begin(images, keys)
        session.decide(np.full((len(session.probe()), 2), 0.5, np.float32))
        strip.superimpose(images, strip.orders(keys))


class StripSession:
    """The images of a batch, each at its own stage: undecided ones go on, new ones may join between two probes.

    Call `probe`, predict its rows, pass the outputs to `decide`; repeat until `undecided` is empty. A probe is bounded in bytes: where
    the stages of many large images would exceed it, they take turns.

    Attributes, one entry per image:
        abstained: bool [n], meaningful for decided images.
        calls: int [n].
        scores: float64 [n], the mean over the overlays seen so far.
        entropies: float64 [n] in bits, whatever the statistic: what operators watch stays the same for every bundle.
    """

    def __init__(self, strip: Strip, shape: tuple[int, ...]) -> None:
        self._strip, self._shape = strip, shape
        self._stages, self._boundaries = strip._marks, strip._limits
        self._images: Images
        self._order: NDArray[np.int32]
        self._stage: NDArray[np.int64]
        self._sums: NDArray[np.float64]  # [n, 2], of the statistic and of entropies
        self._flags: NDArray[np.bool_]  # [n, 2], in doubt and abstained

    def join(self, kept: NDArray[np.int64], images: Images, keys: Keys) -> None:
        """Drop all images but those at `kept`, and append these."""
        n = len(images)
        images, order = compiled_for(images).reshape(n, self._strip._bank.shape[1]), self._strip.orders(keys)
        stage, sums, flags = np.zeros(n, np.int64), np.zeros((n, 2)), np.zeros((n, 2), bool)
        flags[:, 0] = True
        if kept.size:
            images, order = np.concatenate([self._images[kept], images]), np.concatenate([self._order[kept], order])
            stage = np.concatenate([self._stage[kept], stage])
            sums, flags = np.concatenate([self._sums[kept], sums]), np.concatenate([self._flags[kept], flags])
        self._images, self._order, self._stage, self._sums, self._flags = images, order, stage, sums, flags

    @property
    def abstained(self) -> NDArray[np.bool_]:
        return self._flags[:, 1]

    @property
    def undecided(self) -> NDArray[np.int64]:
        """Indices of undecided images."""
        return self._flags[:, 0].nonzero()[0]

    @property
    def calls(self) -> NDArray[np.int64]:
        return self._stages[self._stage]

    @property
    def next_calls(self) -> NDArray[np.int64]:
        """Overlays of the stage before each undecided image."""
        return self._strip._ahead[self._stage]

    @property
    def scores(self) -> NDArray[np.float64]:
        return self._sums[:, 0] / np.maximum(self.calls, 1)

    @property
    def entropies(self) -> NDArray[np.float64]:
        return self._sums[:, 1] / np.maximum(self.calls, 1)

    def probe(self, among: NDArray[np.bool_] | None = None) -> Images:
        """The images whose turn it is, each under the overlays of its stage, image by image."""
        doubtful = self._flags[:, 0] if among is None else self._flags[:, 0] & among
        strip = self._strip
        most = _NUMBERS_PER_PROBE // strip._bank.shape[1]
        self._turn, rows = _probe(
            self._images,
            strip._bank,
            self._order,
            np.ascontiguousarray(doubtful),
            self._stage,
            self._stages,
            most,
            *strip._shares,
        )
        probes: Images = rows.reshape(len(rows), *self._shape)
        return probes

    def decide(self, outputs: Probabilities, answers: Probabilities | None = None) -> None:
        """Take the outputs for the rows of `probe`; pass images whose mean is above the boundary of their stage."""
        by_entropy = self._strip.statistic == "entropy"
        if answers is None:
            if not by_entropy:
                raise ValueError("expected the answers to the images, to which their predictions under overlays are compared")
            answers = outputs
        outputs, answers = compiled_for(outputs), compiled_for(answers)
        _judge(outputs, answers, self._turn, self._stages, self._boundaries, by_entropy, self._stage, self._sums, self._flags)
