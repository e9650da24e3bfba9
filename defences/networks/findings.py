"""What a judge of networks finds, class by class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models.classifier import Images

NetworkVerdict = Literal["clean", "backdoor", "cannot tell"]


@dataclass(frozen=True)
class JudgedClass:
    """The verdict on one class as the target of a backdoor.

    Attributes:
        reason: the ground for the verdict, one sentence to show.
        score: the name of the score by which it is furthest above the others.
        distance: how far, in deviations of the others.
        p: how likely that is by chance, all scores and classes considered.
        scores: all of them, in the order of the method's list of names.
    """

    label: int
    name: str
    verdict: NetworkVerdict
    reason: str
    score: str
    distance: float
    p: float
    scores: list[float]


@dataclass(frozen=True)
class NetworkFindings:
    """The verdict on a network.

    Attributes:
        reason: the ground for the verdict, one sentence to show.
        classes: one per class, in order.
        patterns: the universal pattern of each class at the radius at which the classes differ most, [k, h, w, c], as offsets.
        image: an image [h, w, c] to show them on.
        gradients: forward and backward passes taken.
    """

    verdict: NetworkVerdict
    reason: str
    classes: tuple[JudgedClass, ...]
    patterns: Images
    image: Images
    gradients: int
