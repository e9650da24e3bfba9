"""The rate of arrivals over time. One locust user makes one arrival per second on average."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NAMES = ("steady", "ramp", "spike", "soak")
WARM_UP_S = 3.0
"""Left out of every measurement, because users are still being started."""
SPIKE_FACTOR = 4.0
_STEPS = 8


@dataclass(frozen=True)
class Part:
    """A part of the test, in seconds from its start, with a constant rate of arrivals per second."""

    first_s: float
    last_s: float
    rate: float


def parts(shape: str, rate: float, seconds: float) -> list[Part]:
    """The parts of a shape, in order. Raises: ValueError: an unknown shape.

    steady, soak: one rate. spike: four times the rate in the middle fifth. ramp: from an eighth of the rate up to it, in eight steps.
    """
    if shape in ("steady", "soak"):
        return [Part(0, seconds, rate)]
    if shape == "spike":
        first, last = 0.4 * seconds, 0.6 * seconds
        return [Part(0, first, rate), Part(first, last, SPIKE_FACTOR * rate), Part(last, seconds, rate)]
    if shape == "ramp":
        step = seconds / _STEPS
        return [Part(i * step, (i + 1) * step, rate * (i + 1) / _STEPS) for i in range(_STEPS)]
    raise ValueError(f"expected a shape of {', '.join(NAMES)}, got {shape}")


def users_at(shape_parts: Sequence[Part], now_s: float) -> int | None:
    """The number of users at a time; None after the end of the test."""
    return next((max(1, round(part.rate)) for part in shape_parts if now_s < part.last_s), None)
