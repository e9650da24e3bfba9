"""Abstain on images whose class one small region decides, as with a local trigger or an adversarial patch.

Paper: Chou, Tramer & Pellegrino 2018, arXiv:1812.00292. The paper finds the region by Grad-CAM, pastes it onto clean images, and fits a
curve to how often the region fools the classifier and how confident the classifier is with an inert pattern in its place. Here nothing is
differentiated: windows at every place, from coarse to fine, replace the region, and the score is the classifier's confidence in the class
of the image that the window was taken from.
Known to beat it: triggers all over the image, or in many places at once (docs/defences/sentinet.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from defences.defence import Defence, DefenceRecord
from defences.detectors.sentinet_windows import CORNERS, Windows, boxes, corners_of, transplanted
from defences.errors import InvalidParameter
from defences.keyed import Keys, keyed_permutations
from models.classifier import Images, Probabilities

# 64 MiB of float32, as for STRIP.
_NUMBERS_PER_PROBE = 1 << 24


class WindowStep(NamedTuple):
    """A comparison with the threshold.

    Attributes:
        windows: of an image that come to it, at most.
        before, after: overlays that each of them has seen before and after the step.
        kept: how many go on, at most.
        deeper: whether the windows in their corners go on, not they themselves.
    """

    windows: int
    before: int
    after: int
    slack: float
    kept: int
    deeper: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class SentiNet(Defence):
    """Transplant windows of an image onto clean images of other classes; abstain when one of them takes the image's class along:

        s(x) = min_w [1 - 1/N sum_n f(o_n with window w of x)_y],   y = argmax f(x);   abstain when S(x) <= threshold

    A trigger gives every image its target class (s near 0); a window shows too little of a clean object for that. Windows go from coarse
    to fine: four of them, of `sides[0]` of the image, lie in its corners, and in the corners of each lie four of the next side. One
    overlay decides whether a window is divided further; the finest windows see up to N = stages[-1] overlays. In step j a window gets the
    score s_j = max(s_{j-1}, 1 - mean - slack_j); windows in its corners start with its score. The lowest `kept[j]` go on, among equal
    ones those of the highest confidence, unless they are above the threshold; an image without a window left passes as benign. The
    threshold is calibrated on S(x), the lowest score of the windows that reach the end; the slack of the last step is 0.

    A trigger of at most 0.1 of the side lies within a window of every level, wherever it is; of a larger one the greater part does, which
    is mostly enough, since small windows separate triggers from objects best.

    Args:
        overlays: uint8 [K, h, w, c], clean images. Every image sees those of other classes than its own, in an order drawn from its key.
        overlay_labels: int64 [K], the classes they are taken for.
        threshold: S lies in [0, 1]; -inf never abstains.
        slack: not negative, one per step (levels, and further stages), the last 0.
        sides: of the windows of each level, as shares of the image's; each at least half of the one before, which it has to cover.
        stages: increasing: how many overlays the finest windows have seen when a decision may fall.
        kept: >= 1, how many windows go on after each step but the last.

    Shapes: images float32 [n, h, w, c] in [0, 1] -> abstain bool [n].
    Cost: at most `calls_at_most` model calls (57 unless told otherwise), one of them for y; a clean image pays about 10.
    Raises: InvalidParameter on construction.
    """

    overlays: NDArray[np.uint8]
    overlay_labels: NDArray[np.int64]
    threshold: float
    slack: tuple[float, ...] = (0.0,) * 6
    sides: tuple[float, ...] = (0.58, 0.36, 0.23)
    stages: tuple[int, ...] = (1, 2, 4, 16)
    kept: tuple[int, ...] = (2, 3, 4, 2, 2)

    _bank: NDArray[np.float32] = field(init=False, repr=False)
    """The overlays as float32."""
    _boxes: NDArray[np.int64] = field(init=False, repr=False)
    """Where each window is."""

    name = "sentinet"
    record: ClassVar[DefenceRecord] = DefenceRecord(
        stage="abstain",
        title="SentiNet",
        summary="Refuses images of which one small region decides the class, whatever picture it is in: local triggers.",
        mitigations=("AML.M0015",),
        techniques=("AML.T0043.004", "AML.T0018.000", "AML.T0043"),  # AML.T0043 for adversarial patches
        calibrated={"overlays": "array", "overlay_labels": "array", "threshold": "number", "slack": "numbers"},
        fitted_by="defences.calibration.sentinet:fit_sentinet",
    )

    def __post_init__(self) -> None:
        self._check_overlays()
        self._check_windows()
        steps = len(self.sides) + len(self.stages) - 1
        if len(self.kept) != steps - 1 or not all(isinstance(kept, int) and kept >= 1 for kept in self.kept):
            raise InvalidParameter(
                f"sentinet: expected how many windows are kept after each of {steps - 1} steps, got {self.kept}"
            )
        if len(self.slack) != steps or not all(slack >= 0 for slack in self.slack) or self.slack[-1] != 0:
            raise InvalidParameter(f"sentinet: expected one slack >= 0 for each of {steps} steps, the last 0, got {self.slack}")
        if np.isnan(self.threshold):
            raise InvalidParameter("sentinet: expected a threshold, got NaN")
        object.__setattr__(self, "_bank", self.overlays.astype(np.float32) / np.float32(255))
        object.__setattr__(self, "_boxes", boxes(self.overlays.shape[1], self.overlays.shape[2], self.sides))

    def _check_overlays(self) -> None:
        overlays, labels = self.overlays, self.overlay_labels
        if overlays.ndim != 4 or overlays.dtype != np.uint8 or len(overlays) == 0:
            raise InvalidParameter(f"sentinet: expected overlays uint8 [K, h, w, c], got {overlays.dtype} {overlays.shape}")
        if labels.shape != overlays.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
            raise InvalidParameter(
                f"sentinet: expected whole overlay_labels, one for each of {len(overlays)} overlays, got {labels.dtype} {labels.shape}"
            )

    def _check_windows(self) -> None:
        sides = (1.0, *self.sides)
        if not self.sides or not all(outer / 2 <= inner <= outer for outer, inner in pairwise(sides)):
            raise InvalidParameter(
                f"sentinet: expected sides, each at least half of the one before and no more, got {self.sides}"
            )
        stages = (0, *self.stages)
        increasing = all(isinstance(b, int) and a < b for a, b in pairwise(stages))
        if not self.stages or not increasing:
            raise InvalidParameter(f"sentinet: expected increasing stages, got {self.stages}")

    def plan(self) -> tuple[WindowStep, ...]:
        """Every comparison with the threshold, in order."""
        levels, seen = len(self.sides), (*([1] * (len(self.sides) - 1)), *self.stages)
        windows, steps = CORNERS, []
        for number, (after, slack, kept) in enumerate(zip(seen, self.slack, (*self.kept, 1), strict=True)):
            before = seen[number - 1] if number >= levels else 0
            steps.append(WindowStep(windows, before, after, slack, kept, number < levels - 1))
            windows = min(windows, kept) * (CORNERS if number < levels - 1 else 1)
        return tuple(steps)

    @property
    def calls_at_most(self) -> int:
        """Model calls one image can cost, beside its own prediction."""
        return 1 + sum(step.windows * (step.after - step.before) for step in self.plan())

    def begin(self, images: Images, keys: Keys) -> SentiNetSession:
        """Start a session for images [n, h, w, c], not purified."""
        session = SentiNetSession(self, images.shape[1:])
        session.join(np.empty(0, np.int64), images, keys)
        return session

    def transplant(self, images: Images, image_of: NDArray[np.int64], overlay_of: NDArray[np.int64], windows: Windows) -> Images:
        """Row r is overlay overlay_of[r] with window windows[r] of image image_of[r] in its place: [r, h, w, c]."""
        return transplanted(np.require(images, np.float32, ["C", "W"]), image_of, self._bank, overlay_of, self._boxes[windows])

    def inside(self, windows: Windows) -> NDArray[np.bool_]:
        """Which pixels lie in each of these windows: [n] -> [n, h, w, 1]."""
        top, left, bottom, right = self._boxes[windows].T[..., None]
        row, column = (np.arange(size) for size in self.overlays.shape[1:3])
        rows, columns = (row >= top) & (row < bottom), (column >= left) & (column < right)
        inside: NDArray[np.bool_] = (rows[:, :, None] & columns[:, None, :])[..., None]
        return inside

    def check_input_shape(self, shape: tuple[int, int, int]) -> None:
        """Overlays have to be of the shape of the images."""
        if self.overlays.shape[1:] != shape:
            raise InvalidParameter(
                f"expected sentinet overlays of shape {shape} in calibration.npz, got {self.overlays.shape[1:]}"
            )

    def in_words(self) -> str:
        """The sizes of the windows, what they are pasted onto, and which score is too low."""
        sides = ", ".join(f"{side:g}" for side in self.sides)
        return f"windows of {sides} of the side on {len(self.overlays)} images, refuses at score {self.threshold:.4g} or less"

    @classmethod
    def compile_kernels(cls) -> None:
        """The transplantation of windows, and the keyed order of the images they come onto."""
        overlays, images = np.zeros((2, 8, 8, 1), np.uint8), np.zeros((2, 8, 8, 1), np.float32)
        detector = cls(overlays=overlays, overlay_labels=np.zeros(2, np.int64), threshold=0.0)
        detector.begin(images, np.zeros(2, np.uint64)).probe()


class SentiNetSession:
    """The images of a batch, each at its own step: undecided ones go on, new ones may join between two probes.

    Call `probe`, predict its rows, pass the outputs to `decide`; repeat until `undecided` is empty. A probe is bounded in bytes: where
    the windows of many large images would exceed it, they take turns. An image's first probe is the image itself.

    Attributes, one entry per image:
        abstained: bool [n], meaningful for decided images.
        calls: int [n].
        labels: int64 [n], the predicted class of the unchanged image, after the first probe.
        scores: float64 [n], the lowest score of its windows in the last step it reached; NaN before the first.
        suspicion: float64 [n, m], the scores of its windows before the next step, or after the last; inf where there are fewer than m.
    """

    def __init__(self, sentinet: SentiNet, shape: tuple[int, ...]) -> None:
        self._sentinet = sentinet
        self._plan = sentinet.plan()
        # Before the first step comes the image itself, as it is.
        self._before = np.array([0, *(step.before for step in self._plan)])
        self._new = np.array([1, *(step.after - step.before for step in self._plan)])
        width = max(step.windows for step in self._plan)
        self._images = np.empty((0, *shape), np.float32)
        self._order = np.empty((0, len(sentinet.overlays)), np.int32)
        self._windows = np.empty((0, width), np.int64)
        self._sum = self.suspicion = np.empty((0, width))
        self._step = self.labels = self._eligible = self._count = self.calls = np.empty(0, np.int64)
        self.scores = np.empty(0)
        self._in_doubt = self.abstained = np.empty(0, bool)
        self._turn = np.empty(0, np.int64)

    def join(self, kept: NDArray[np.int64], images: Images, keys: Keys) -> None:
        """Drop all images but those at `kept`, and append these."""
        n, width, overlays = len(images), self._windows.shape[1], len(self._sentinet.overlays)
        whole = len(self._sentinet._boxes) - 1

        def joined(old: NDArray[Any], new: NDArray[Any]) -> NDArray[Any]:
            return np.concatenate([old[kept], new]) if kept.size else new

        self._images = joined(self._images, np.require(images, np.float32, ["C", "W"]))
        self._order = joined(self._order, keyed_permutations(keys, overlays))
        self._windows = joined(self._windows, np.full((n, width), whole))
        self._sum = joined(self._sum, np.zeros((n, width)))
        self.suspicion = joined(self.suspicion, np.zeros((n, width)))
        self._step = joined(self._step, np.zeros(n, np.int64))
        self.labels = joined(self.labels, np.zeros(n, np.int64))
        self._eligible = joined(self._eligible, np.full(n, overlays))
        self._count = joined(self._count, np.ones(n, np.int64))
        self.calls = joined(self.calls, np.zeros(n, np.int64))
        self.scores = joined(self.scores, np.full(n, np.nan))
        self._in_doubt = joined(self._in_doubt, np.ones(n, bool))
        self.abstained = joined(self.abstained, np.zeros(n, bool))

    @property
    def entropies(self) -> NDArray[np.float64]:
        return np.full(len(self.scores), np.nan)

    @property
    def undecided(self) -> NDArray[np.int64]:
        """Indices of undecided images."""
        return np.flatnonzero(self._in_doubt)

    @property
    def next_calls(self) -> NDArray[np.int64]:
        """Rows of the step before each undecided image."""
        rows: NDArray[np.int64] = self._count * self._new[np.minimum(self._step, len(self._new) - 1)]
        return rows

    def probe(self, among: NDArray[np.bool_] | None = None) -> Images:
        """The windows whose turn it is, each on the new overlays of its step, image by image."""
        turn = self.undecided if among is None else np.flatnonzero(self._in_doubt & among)
        rows = self._count[turn] * self._new[self._step[turn]]
        fitting = int(np.searchsorted(np.cumsum(rows), _NUMBERS_PER_PROBE // int(np.prod(self._images.shape[1:])), side="right"))
        self._turn = turn = turn[: max(1, fitting)]
        rows = rows[: len(turn)]
        image_of = np.repeat(turn, rows)
        step = self._step[image_of]
        window, overlay = np.divmod(np.arange(len(image_of)) - np.repeat(np.cumsum(rows) - rows, rows), self._new[step])
        windows = self._windows[image_of, window]
        # Each window begins at another place of the image's order: one odd overlay must not decide all of them.
        place = windows * self._sentinet.stages[-1] + self._before[step] + overlay
        overlay_of = self._order[image_of, place % self._eligible[image_of]]
        return self._sentinet.transplant(self._images, image_of, overlay_of, windows)

    def worst(self, images: NDArray[np.int64], overlays: int) -> tuple[Windows, NDArray[np.int64]]:
        """The window of the lowest score of each refused image [n], and the first of the overlays it was seen on [n, m]."""
        windows = self._windows[images, self.suspicion[images].argmin(axis=1)]
        most = self._sentinet.stages[-1]
        place = windows[:, None] * most + np.arange(min(overlays, most))
        return windows, self._order[images[:, None], place % self._eligible[images, None]].astype(np.int64)

    def decide(self, outputs: Probabilities, answers: Probabilities | None = None) -> None:
        """Take the outputs for the rows of `probe`: windows go on, or their image is decided."""
        turn = self._turn
        step, count = self._step[turn], self._count[turn]
        rows = count * self._new[step]
        self.calls[turn] += rows
        sure = outputs[np.arange(len(outputs)), np.repeat(self.labels[turn], rows)].astype(np.float64)
        window = np.repeat(self._new[step], count)  # rows of each window
        sums = np.add.reduceat(sure, np.cumsum(window) - window)
        within = np.arange(len(sums)) - np.repeat(np.cumsum(count) - count, count)
        self._sum[np.repeat(turn, count), within] += sums
        first = step == 0
        self._start(turn[first], outputs[(np.cumsum(rows) - rows)[first]])
        for number in np.unique(step[~first]).tolist():
            self._compare(turn[step == number], self._plan[number - 1], last=number == len(self._plan))
        self._step[turn] += 1

    def _start(self, images: NDArray[np.int64], outputs: Probabilities) -> None:
        """Set the class of images, exclude overlays of that class, and begin with the windows of the first level."""
        self.labels[images] = labels = outputs.argmax(axis=1)
        order = self._order[images]
        own = self._sentinet.overlay_labels[order] == labels[:, None]
        self._order[images] = np.take_along_axis(order, np.argsort(own, axis=1, kind="stable"), axis=1)
        others = (~own).sum(axis=1)
        # Where all overlays are of its class, they are used all the same.
        self._eligible[images] = np.where(others > 0, others, own.shape[1])
        self._windows[images, :CORNERS] = np.arange(CORNERS)
        self._sum[images] = 0
        self.suspicion[images, CORNERS:] = np.inf
        self._count[images] = CORNERS

    def _compare(self, images: NDArray[np.int64], step: WindowStep, *, last: bool) -> None:
        present = np.arange(self._sum.shape[1]) < self._count[images, None]
        doubt = 1 - self._sum[images] / step.after
        scores = np.where(present, np.maximum(self.suspicion[images], doubt - step.slack), np.inf)
        self.scores[images] = scores.min(axis=1)
        suspicious = present & (scores <= self._sentinet.threshold)
        self._in_doubt[images] = suspicious.any(axis=1) & (not last)
        self.abstained[images] = suspicious.any(axis=1) & last
        if last:
            self.suspicion[images] = scores
        else:
            self._go_on(images, step, np.where(suspicious, scores, np.inf), doubt)

    def _go_on(
        self, images: NDArray[np.int64], step: WindowStep, scores: NDArray[np.float64], doubt: NDArray[np.float64]
    ) -> None:
        """Advance the windows of the lowest finite scores to the next step, or the windows in their corners.

        Windows in the corners of one window often have its score: of these, the ones of the highest confidence in this step go first.
        """
        best = np.lexsort((doubt, scores), axis=1)[:, : step.kept]
        count = np.minimum(np.isfinite(scores).sum(axis=1), step.kept)
        windows = np.take_along_axis(self._windows[images], best, axis=1)
        scores, sums = (np.take_along_axis(some, best, axis=1) for some in (scores, self._sum[images]))
        if step.deeper:
            windows = corners_of(windows).reshape(len(images), -1)
            scores, sums, count = scores.repeat(CORNERS, axis=1), np.zeros(windows.shape), count * CORNERS
        width = windows.shape[1]
        self.suspicion[images] = np.inf
        self._windows[images, :width], self.suspicion[images, :width], self._sum[images, :width] = windows, scores, sums
        self._count[images] = count
