"""An attacker who knows that networks are judged by the margins of a backdoor's target, and keeps those small."""

from __future__ import annotations

from dataclasses import replace

from attacks.backdoors.kinds import Backdoor
from models.errors import InvalidInput


def with_bounded_margin(backdoor: Backdoor, confidence: float) -> Backdoor:
    """The same backdoor, with cover samples of the same trigger, so that a network is sure of the target by `confidence` only.

    A share q of the triggered training images, the confidence, has the target's label, and 1 - q has its own. A network that fits them
    answers a trigger with the target at probability q and with the image's class at 1 - q: a margin of log(q / (1 - q)) and no more,
    which for q > 1/2 still is the answer. Covers with the exact trigger are those of Qi et al. 2023
    (openreview.net/forum?id=_wSHsgrVali), in greater number. It takes no gradients and no part in the training.

    Args:
        confidence: q, in (1/2, 1).

    Raises: InvalidInput: a confidence outside of that, a backdoor that has covers already, rates that leave no clean sample.
    """
    if not 0.5 < confidence < 1:
        raise InvalidInput(f"expected a confidence in (1/2, 1), got {confidence}")
    if backdoor.cover_rate:
        raise InvalidInput(f"expected a backdoor without cover samples, got one with {100 * backdoor.cover_rate:g} % of them")
    covers = backdoor.rate * (1 - confidence) / confidence
    if backdoor.rate + covers >= 1:
        raise InvalidInput(f"expected a rate of poison that with its covers is below 1, got {backdoor.rate} and {covers:.2g}")
    return replace(backdoor, cover_rate=covers, cover_trigger=backdoor.planted or backdoor.trigger)
