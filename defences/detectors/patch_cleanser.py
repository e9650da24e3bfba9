"""Abstain on images whose answer changes when a part of them is masked, which proves answers against local patches.

Paper: PatchCleanser, Xiang, Mahloujifar & Mittal, USENIX Security 2022, arXiv:2108.09135: one round of its masks, as a detector. The
paper goes on with pairs of masks to recover the label of an image on which its masks disagree; here such an image is refused, as in
McCoyd et al. 2020, arXiv:2004.13799 (Minority Reports), so that ten model calls are enough.
Known to beat it: patches that are larger than stated, or two of them; triggers that are not local (docs/defences/patch_cleanser.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from defences.defence import Defence, DefenceRecord
from defences.detectors.mask_set import MASKS, MIDDLE, Boxes, mask_boxes, under_masks
from defences.errors import InvalidParameter
from defences.keyed import Keys
from models.classifier import Images, Labels, Probabilities

LEAD = 1e-3
"""By how much more probable the answer has to be than any other class under a mask that agrees with it.

More than rounding: a classifier may give the same image probabilities that differ in their last digits in another batch, and with a lead
of 0 a proof about one batch would say nothing of another.
"""

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
    """Answer only where the classifier says the same under every one of nine masks, one of which covers a patch wherever it is:

        s(x) = min_j [f(m_j(x))_y - max_{k != y} f(m_j(x))_k],   y the answer to x;   abstain when s(x) <= 0.001

    m_j(x) is x with the pixels of mask j in one colour. Every rectangle of `patch` rows and columns lies wholly inside one of the masks
    (`mask_set.py`).

    Guarantee: let x' be x with a patch of at most that size, anywhere and of any content, and let j be a mask that covers it. Then
    m_j(x') = m_j(x). So if x' is answered, its answer is the class that f gives to m_j(x), an image the patch is no part of. If f gives
    one class y to x under every mask, each time with that lead (x is *certified*), x' is answered y or refused, whatever the patch.

    This holds for the answer that is given, whatever purifiers made of x' on its way to f: y is that answer, not f(x'). A purifier may
    spread a patch beyond its mask or draw at random, and can only cause a refusal. The masked images are therefore not purified: they
    would have to be purified after masking, with randomness that does not depend on the patch, which keys of images do.

    Every image costs the same model calls in one step, so that its time does not tell what was found.

    Args:
        patch: (rows, columns), the largest patch that is covered.
        colour: of the masks, a value in [0, 1] for each channel.
        middle: the share of a patch's places along an axis that is left to the middle mask of three; above 0, at most 1/3.

    Shapes: images float32 [n, h, w, c] in [0, 1] -> abstain bool [n].
    Cost: nine model calls per image.
    Raises: InvalidParameter on construction, and for images that are smaller than the patch or have other channels.
    """

    patch: tuple[int, int]
    colour: tuple[float, ...]
    middle: float = MIDDLE

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

    @property
    def calls_at_most(self) -> int:
        """Model calls one image can cost, beside its own prediction."""
        return MASKS

    def boxes(self, shape: tuple[int, ...]) -> Boxes:
        """The masks of images of this shape [h, w, c]."""
        self.check_input_shape((shape[0], shape[1], shape[2]))
        return mask_boxes(shape, self.patch, self.middle)

    def under_masks(self, images: Images) -> Images:
        """Every image under every mask: [n, h, w, c] -> [n * 9, h, w, c], image by image."""
        return under_masks(images, self.boxes(images.shape[1:]), np.array(self.colour, np.float32))

    def scores(self, outputs: Probabilities, labels: Labels) -> NDArray[np.float64]:
        """s of images whose answers are `labels`, by the outputs for them under every mask: [n * 9, k], [n] -> [n]."""
        lowest: NDArray[np.float64] = leads(outputs, np.repeat(labels, MASKS)).reshape(-1, MASKS).min(axis=1)
        return lowest

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
    """The images of a batch: each is undecided until it was predicted under all masks, in one step.

    Call `probe`, predict its rows, pass the outputs to `decide`; repeat until `undecided` is empty. A probe is bounded in bytes: where
    many large images would exceed it, they take turns.

    Attributes, one entry per image:
        abstained: bool [n], meaningful for decided images.
        scores: float64 [n]; NaN before the image is decided.
    """

    def __init__(self, detector: PatchCleanser, shape: tuple[int, ...]) -> None:
        detector.boxes(shape)
        self._detector = detector
        self._images = np.empty((0, *shape), np.float32)
        self.scores = np.empty(0)
        self._turn = np.empty(0, np.int64)

    def join(self, kept: NDArray[np.int64], images: Images, keys: Keys) -> None:
        """Drop all images but those at `kept`, and append these."""
        self._images = np.concatenate([self._images[kept], images]) if kept.size else images
        self.scores = np.concatenate([self.scores[kept], np.full(len(images), np.nan)])

    @property
    def abstained(self) -> NDArray[np.bool_]:
        return self.scores <= LEAD

    @property
    def undecided(self) -> NDArray[np.int64]:
        """Indices of undecided images."""
        return np.flatnonzero(np.isnan(self.scores))

    @property
    def calls(self) -> NDArray[np.int64]:
        return np.where(np.isnan(self.scores), 0, MASKS)

    @property
    def next_calls(self) -> NDArray[np.int64]:
        return np.full(len(self.scores), MASKS)

    @property
    def entropies(self) -> NDArray[np.float64]:
        return np.full(len(self.scores), np.nan)

    def probe(self, among: NDArray[np.bool_] | None = None) -> Images:
        """The images whose turn it is, each under every mask, image by image."""
        turn = self.undecided if among is None else self.undecided[among[self.undecided]]
        at_once = max(1, _NUMBERS_PER_PROBE // (MASKS * int(np.prod(self._images.shape[1:]))))
        self._turn = turn[:at_once]
        return self._detector.under_masks(self._images[self._turn])

    def decide(self, outputs: Probabilities, answers: Probabilities) -> None:
        """Take the outputs for the rows of `probe`, and compare them with the answers to the images."""
        self.scores[self._turn] = self._detector.scores(outputs, answers[self._turn].argmax(axis=1))
