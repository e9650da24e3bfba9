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
        largest_margin: of its logit over all others, over all images.
        pull: mean of that margin over stand-ins under the universal pattern of each radius, in order.
        distance: of its score from those of the other classes, in their deviations.
        p: how likely that is by chance.
    """

    label: int
    name: str
    verdict: NetworkVerdict
    reason: str
    largest_margin: float
    pull: list[float]
    distance: float
    p: float


@dataclass(frozen=True)
class NetworkFindings:
    """The verdict on a network.

    Attributes:
        reason: the ground for the verdict, one sentence to show.
        classes: one per class, in order.
        patterns: the universal pattern of each class at the radius at which the classes differ most, [k, h, w, c], as offsets.
        stand_in: an image [h, w, c] to show them on.
        gradients: forward and backward passes taken.
    """

    verdict: NetworkVerdict
    reason: str
    classes: tuple[JudgedClass, ...]
    patterns: Images
    stand_in: Images
    gradients: int
