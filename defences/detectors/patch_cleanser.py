"""Abstain on images whose answer changes when a part of them is masked, which proves answers against local patches.

Paper: PatchCleanser, Xiang, Mahloujifar & Mittal, USENIX Security 2022, arXiv:2108.09135: one round of its masks, as a detector. The
paper goes on with pairs of masks to recover the label of an image on which single masks disagree. Here a mask that disagrees is divided
into smaller ones, twice at most, and where one of the smallest disagrees the image is refused, as in McCoyd et al. 2020, arXiv:2004.13799
(Minority Reports).
Known to beat it: patches that are larger than stated, or two of them; triggers that are not local (docs/defences/patch_cleanser.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from defences.defence import Defence, DefenceRecord
from defences.detectors.mask_set import LEVELS, MASKS, MIDDLE, PARTS, Boxes, mask_boxes, parts_of, under_masks
from defences.errors import InvalidParameter
from defences.keyed import Keys
from models.classifier import Images, Labels, Probabilities

LEAD = 1e-3
"""By how much more probable the answer has to be than any other class under a mask that agrees with it.

More than rounding: a classifier may give the same image probabilities that differ in their last digits in another batch, and with a lead
of 0 a proof about one batch would say nothing of another.
"""

DIVIDED_AT_MOST = 3
"""Masks of an image and a step; where more disagree it is refused at once, which bounds the model calls of an image that is."""

# 64 MiB of float32, as for STRIP.
_NUMBERS_PER_PROBE = 1 << 24


def leads(outputs: Probabilities, labels: Labels) -> NDArray[np.float64]:
    """By how much each row prefers its label to every other class, float64: [n, k], [n] -> [n], in [-1, 1]; 1 with a single class."""
    rows = np.arange(len(labels))
    others = outputs.astype(np.float64)
    own = others[rows, labels]
    others[rows, labels] = 0.0
    lead: NDArray[np.float64] = own - others.max(axis=1)
    return lead


@dataclass(frozen=True, kw_only=True, eq=False)
class PatchCleanser(Defence):
    """Answer only where the classifier says the same under masks, one of which covers a patch wherever it is:

        agrees(j) = f(m_j(x))_y - max_{k != y} f(m_j(x))_k > 0.001,   y the answer to x
        upheld(j) = agrees(j), or else upheld(i) for each of the four parts i of mask j;   abstain when one of nine masks is not upheld

    m_j(x) is x with the pixels of mask j in one colour. Every rectangle of `patch` rows and columns lies wholly inside one of the nine
    masks, and inside one of the parts of that mask, and of those parts, which have none (`mask_set.py`).

    Guarantee: let x' be x with a patch of at most that size, anywhere and of any content. If x' is answered, one of the masks that cover
    the patch agrees with the answer; call it j. As m_j(x') = m_j(x), the answer is the class that f gives to m_j(x), an image that the
    patch is no part of. If f gives one class y to x under every mask of all sizes, each time with that lead (x is *certified*), x' is
    answered y or refused, whatever the patch.

    This holds for the answer that is given, whatever purifiers made of x' on its way to f: y is that answer, not f(x'). A purifier may
    spread a patch beyond its mask or draw at random, and can only cause a refusal. The masked images are therefore not purified: they
    would have to be purified after masking, with randomness that does not depend on the patch, which keys of images do.

    Args:
        patch: (rows, columns), the largest patch that is covered.
        colour: of the masks, a value in [0, 1] for each channel.
        middle: the share of a patch's places along an axis that is left to the middle mask of three; above 0, at most 1/3.

    Shapes: images float32 [n, h, w, c] in [0, 1] -> abstain bool [n].
    Where more than three masks of one size disagree, the image is refused without looking at their parts.

    Cost: nine model calls per image in one step, and four in another for each mask that disagrees; 33 at most.
    Raises: InvalidParameter on construction, and for images that are smaller than the patch or have other channels.
    """

    patch: tuple[int, int]
    colour: tuple[float, ...]
    middle: float = MIDDLE

    _ink: NDArray[np.float32] = field(init=False, repr=False)
    """The colour as float32."""

    name = "patch_cleanser"
    record: ClassVar[DefenceRecord] = DefenceRecord(
        stage="abstain",
        title="PatchCleanser",
        summary="Refuses images whose answer changes when a part of them is masked: local patches and triggers.",
        mitigations=("AML.M0015",),
        techniques=("AML.T0043", "AML.T0043.004", "AML.T0018.000"),
        calibrated={"colour": "numbers"},
        fitted_by="defences.calibration.patch_cleanser:fit_patch_cleanser",
    )

    def __post_init__(self) -> None:
        whole = isinstance(self.patch, tuple) and len(self.patch) == 2 and all(type(size) is int for size in self.patch)
        if not whole or min(self.patch) < 1:
            raise InvalidParameter(f"patch_cleanser: expected patch, two whole numbers above 0, got {self.patch!r}")
        if not self.colour or not all(0 <= value <= 1 for value in self.colour):
            raise InvalidParameter(f"patch_cleanser: expected a colour, a number in [0, 1] for each channel, got {self.colour!r}")
        if not 0 < self.middle <= 1 / 3:
            raise InvalidParameter(f"patch_cleanser: expected middle, a share above 0 and at most 1/3, got {self.middle!r}")
        object.__setattr__(self, "_ink", np.array(self.colour, np.float32))

    @property
    def calls_at_most(self) -> int:
        """Model calls one image can cost, beside its own prediction."""
        return MASKS + (len(LEVELS) - 1) * DIVIDED_AT_MOST * PARTS

    def boxes(self, shape: tuple[int, ...]) -> Boxes:
        """All masks for images of this shape [h, w, c], see `mask_boxes`."""
        self.check_input_shape((shape[0], shape[1], shape[2]))
        return mask_boxes(shape, self.patch, self.middle)

    def under_masks(self, images: Images, *, first: int = 0, last: int = MASKS) -> Images:
        """Every image under each of these masks, the nine of the first level unless told otherwise: [n, h, w, c] -> [n * m, h, w, c]."""
        return under_masks(images, self.boxes(images.shape[1:])[first:last], self._ink)

    def begin(self, images: Images, keys: Keys) -> PatchCleanserSession:
        """Start a session for images [n, h, w, c], not purified."""
        session = PatchCleanserSession(self, images.shape[1:])
        session.join(np.empty(0, np.int64), images, keys)
        return session

    def check_input_shape(self, shape: tuple[int, int, int]) -> None:
        """The patch has to fit into the image, and the colour has to have its channels."""
        if any(size > side for size, side in zip(self.patch, shape[:2], strict=True)):
            raise InvalidParameter(f"expected images that the patch {self.patch} of patch_cleanser fits into, got {shape[:2]}")
        if len(self.colour) != shape[2]:
            raise InvalidParameter(
                f"expected a colour of patch_cleanser for {shape[2]} channels in calibration.npz, got {len(self.colour)} values"
            )

    def in_words(self) -> str:
        """How many masks there are, and which patches they cover."""
        return f"{MASKS} masks for any patch of up to {self.patch[0]}x{self.patch[1]} pixels"


class PatchCleanserSession:
    """The images of a batch: each is predicted under nine masks, and under the parts of those that disagree with its answer.

    Call `probe`, predict its rows, pass the outputs to `decide`; repeat until `undecided` is empty. A probe is bounded in bytes: where
    many large images would exceed it, they take turns.

    Attributes, one entry per image:
        abstained: bool [n], meaningful for decided images.
        calls: int64 [n].
        scores: float64 [n], the least lead under a mask that agrees or has no parts; NaN before the first step.
    """

    def __init__(self, detector: PatchCleanser, shape: tuple[int, ...]) -> None:
        self._boxes, self._ink = detector.boxes(shape), detector._ink
        self._images = np.empty((0, *shape), np.float32)
        self._open = np.empty((0, len(self._boxes)), bool)  # masks that are still to be tried
        self.scores = np.empty(0)
        self.calls = np.empty(0, np.int64)
        self._turn = self._masks = np.empty(0, np.int64)  # image and mask of each row of the last probe

    def join(self, kept: NDArray[np.int64], images: Images, keys: Keys) -> None:
        """Drop all images but those at `kept`, and append these."""

        def joined(old: NDArray[Any], new: NDArray[Any]) -> NDArray[Any]:
            return np.concatenate([old[kept], new]) if kept.size else new

        n = len(images)
        self._images, self.calls = joined(self._images, images), joined(self.calls, np.zeros(n, np.int64))
        self.scores = joined(self.scores, np.full(n, np.nan))
        self._open = joined(self._open, np.tile(np.arange(len(self._boxes)) < MASKS, (n, 1)))

    @property
    def abstained(self) -> NDArray[np.bool_]:
        return self.scores <= LEAD

    @property
    def undecided(self) -> NDArray[np.int64]:
        """Indices of undecided images."""
        return np.flatnonzero(self._open.any(axis=1))

    @property
    def next_calls(self) -> NDArray[np.int64]:
        return self._open.sum(axis=1)

    @property
    def entropies(self) -> NDArray[np.float64]:
        return np.full(len(self.scores), np.nan)

    def probe(self, among: NDArray[np.bool_] | None = None) -> Images:
        """The images whose turn it is, each under the masks of its step, image by image."""
        turn = self.undecided if among is None else self.undecided[among[self.undecided]]
        most = _NUMBERS_PER_PROBE // int(np.prod(self._images.shape[1:]))
        fitting = int(np.searchsorted(np.cumsum(self.next_calls[turn]), most, side="right"))
        turn = turn[: max(1, fitting)]
        image, self._masks = self._open[turn].nonzero()
        self._turn = turn[image]
        rows = self._images[self._turn]
        for number in np.unique(self._masks):
            top, left, bottom, right = self._boxes[number]
            rows[self._masks == number, top:bottom, left:right] = self._ink
        return rows

    def decide(self, outputs: Probabilities, answers: Probabilities) -> None:
        """Take the outputs for the rows of `probe`: a mask that disagrees with the answer is divided, or its image refused."""
        image, mask = self._turn, self._masks
        lead = leads(outputs, answers[image].argmax(axis=1))
        np.add.at(self.calls, image, 1)
        self._open[image] = False
        disagrees = lead <= LEAD
        many = np.bincount(image[disagrees], minlength=len(self.scores)) > DIVIDED_AT_MOST
        divided = disagrees & (mask < len(self._boxes) - LEVELS[-1]) & ~many[image]
        self._open[np.repeat(image[divided], PARTS), parts_of(mask[divided]).ravel()] = True
        scores = self.scores.copy()
        scores[image[np.isnan(scores[image])]] = np.inf
        np.minimum.at(scores, image[~divided], lead[~divided])
        self.scores = scores
