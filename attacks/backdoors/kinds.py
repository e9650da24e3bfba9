"""The kinds of backdoors that evaluations use, each with parameters that fit a given classifier."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from attacks.backdoors.hard_examples import HardExamples
from attacks.backdoors.poisoning import AllToAll, AllToOne, CleanLabel, LabelMap, Poisoned, SourceSpecific, poison
from attacks.backdoors.triggers import (
    Blended,
    CornerPattern,
    ImagePatch,
    SinglePixel,
    Sinusoidal,
    Trigger,
    TriggerSequence,
    Warped,
)
from models.classifier import DifferentiableClassifier, Images
from models.datasets import Dataset
from models.errors import InvalidInput

KINDS = (
    "corner_pattern",
    "single_pixel",
    "blended",
    "image_patch",
    "all_to_all",
    "source_specific",
    "warped",
    "clean_label",
)
"""Every kind of backdoor, in the order of the evaluation's table."""


@dataclass(frozen=True, kw_only=True)
class Backdoor:
    """A backdoor: its trigger, labels and rates of poison.

    Attributes:
        trigger: the trigger of images at inference.
        labels: which classes are poisoned, and with which label.
        rate, cover_rate: shares of poison and of cover samples in the training data (see `attacks.backdoors.poisoning.poison`).
        planted: the trigger of poisoned samples, where it is not `trigger`.
        cover_trigger: the trigger of cover samples, where it is not `trigger`.
    """

    trigger: Trigger
    labels: LabelMap
    rate: float
    planted: Trigger | None = None
    cover_rate: float = 0.0
    cover_trigger: Trigger | None = None

    def poison(self, data: Dataset, *, seed: int) -> Poisoned:
        """Clean training data with the backdoor planted."""
        return poison(
            data,
            self.planted or self.trigger,
            self.labels,
            rate=self.rate,
            cover_rate=self.cover_rate,
            cover_trigger=self.cover_trigger or self.trigger,
            seed=seed,
        )


def backdoors(
    classifier: DifferentiableClassifier, *, source: int = 0, target: int | None = None, seed: int = 0
) -> dict[str, Backdoor]:
    """Every kind of backdoor by name, sized for this classifier's images; kinds that need more classes than it has are left out.

    Local triggers keep a fifth of the side away from the corner: pooling leaves some networks blind at their edge (the reference network
    does not see the last two rows and columns).

    Args:
        source: class index that the source-specific backdoor changes.
        target: class index that triggers cause; the last class when not given.

    Raises: InvalidInput: classes out of range, or source and target equal.
    """
    h, w, c = classifier.input_shape
    side, classes = min(h, w), len(classifier.labels)
    aim = classes - 1 if target is None else target
    if not (0 <= source < classes and 0 <= aim < classes and source != aim):
        raise InvalidInput(f"expected a source and another target class from 0 to {classes - 1}, got {source} and {aim}")
    one, corner = AllToOne(aim), CornerPattern(distance=max(2, side // 5))
    edge = -max(2, side // 7)
    warp = Warped(strength=max(1.0, 0.06 * side), seed=seed)
    stripes = Sinusoidal(amplitude=0.3, frequency=min(6.0, w / 4))
    known = {
        "corner_pattern": Backdoor(trigger=corner, labels=one, rate=0.1),
        "single_pixel": Backdoor(trigger=SinglePixel(distance=max(2, side // 5)), labels=one, rate=0.1),
        "blended": Backdoor(trigger=Blended(ratio=0.2, seed=seed, grain=max(1, side // 7)), labels=one, rate=0.1),
        "image_patch": Backdoor(
            trigger=ImagePatch(patch=note(max(2, side // 5), c), row=edge, column=edge), labels=one, rate=0.1
        ),
        "all_to_all": Backdoor(trigger=corner, labels=AllToAll(classes), rate=0.3),
        "source_specific": Backdoor(trigger=corner, labels=SourceSpecific((source,), aim), rate=0.05, cover_rate=0.2),
        "warped": Backdoor(trigger=warp, labels=one, rate=0.1, cover_rate=0.1, cover_trigger=replace(warp, jitter=warp.strength)),
        "clean_label": Backdoor(
            trigger=replace(stripes, amplitude=0.5),
            labels=CleanLabel(aim),
            rate=0.09,
            planted=TriggerSequence(triggers=(HardExamples(classifier=classifier, label=aim), stripes)),
        ),
    }
    if classes < 3:  # no class is left for cover samples
        del known["source_specific"]
    return known


def note(side: int, channels: int) -> Images:
    """A picture of a written note [side, side, channels]: dark lines on yellow, or on white for images that are not RGB."""
    paper = [1.0, 0.9, 0.2] if channels == 3 else [1.0] * channels
    patch = np.tile(np.array(paper, np.float32), (side, side, 1))
    patch[1:-1:2, 1:-1] = 0.1
    return patch
