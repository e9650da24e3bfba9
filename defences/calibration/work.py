"""The work of a calibration, before it begins: how fast the classifier is here, what will be tried, how long that takes.

The same speed says how many images a request may hold when the bundle is served: so many that the worst case, where every image needs
every model call, takes half of a server's default deadline. The bundle states the number, so that it does not depend on how busy a
server is when it starts; the other half is for machines that are slower than this one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from defences.calibration.effort import COUNTED, Chosen, Effort, Speed, Task, overlays_for, within
from defences.errors import InvalidInput
from defences.keyed import image_keys
from defences.purifiers.total_variation import TotalVariation
from models.classifier import Classifier
from models.engines.conversion import timing_s
from models.engines.keras import KerasClassifier
from models.speed import rows_to_time, seconds_per_call

DEADLINE_S = 10.0
"""Of a server by default; `tests/unit/defences/calibration/test_work.py` holds the two together."""

_SHARE_OF_DEADLINE = 0.5
_IMAGES_AT_MOST = 64
# A number of JSON, and the body that a server takes by default: a request of that many images has to fit.
_BYTES_PER_NUMBER, _BODY_BYTES = 26, 64 << 20
_MINUTES_AT_MOST = 60.0 * 24 * 7


@dataclass(frozen=True)
class Work:
    """What a calibration is going to do.

    Attributes:
        chosen: how much is looked at, the model calls, and what was left out.
        speed: of the classifier and the purifier here, on so many `threads`.
        rows: of a batch that was timed.
        within_s: that were allowed, for all of it; none without a bound.
        spent_s: of these, before this work: opening, converting and comparing the classifier.
        uncounted: detectors whose fits cost an unknown time beside the estimate.
    """

    chosen: Chosen
    speed: Speed
    threads: int
    rows: int
    within_s: float | None
    spent_s: float = 0.0
    uncounted: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Of all that is counted, from the command to the bundle, at most."""
        return self.spent_s + self.chosen.estimate.seconds(self.speed)

    def told(self) -> str:
        """A sentence or two for people."""
        calls = self.chosen.estimate.model_calls
        behind = f"{_long(self.spent_s)} until here, and " if self.spent_s >= 1 else ""
        text = (
            f"calibrating takes {_long(self.seconds)} at most: {behind}{_round(calls):,} model calls of {_ms(self.speed.call_s)}"
        )
        if self.uncounted:
            text += f"; training {' and '.join(self.uncounted)} comes on top, and is not counted"
        if self.chosen.left_out:
            bound = "" if self.within_s is None else f" to keep within {_long(self.within_s)} (--minutes)"
            text += f"; left out{bound}: {'; '.join(self.chosen.left_out)}"
        if self.within_s is not None and self.seconds > self.within_s:
            text += f"; that is the least there is, and more than {_long(self.within_s)}"
        return text

    def speed_card(self) -> dict[str, Any]:
        """The bundle's entry `speed`."""
        return {"seconds_per_call": self.speed.call_s, "rows": self.rows, "threads": self.threads}

    def card(self) -> dict[str, Any]:
        """The bundle's entry `effort`."""
        return {
            "within_s": None if self.within_s is None else round(self.within_s),
            "model_calls_at_most": self.chosen.estimate.model_calls,
            "left_out": list(self.chosen.left_out),
            **{name: value for name, value in asdict(self.chosen.effort).items() if value < 1 << 40},
        }


Announce = Callable[[str], None]
"""Called before each long part of the work with what it is and how long it will take: a line for people."""


def unannounced(text: str) -> None:
    """Discard the announcement."""


def converting_told(classifier: Classifier, images: int) -> str:
    """What comes first, which no budget shortens: every image through the source and the engine that shall serve it, and both timed."""
    call_s = seconds_per_call(classifier)
    compared_s = 2 * images * call_s
    if isinstance(classifier, KerasClassifier):  # the graph of another framework serves it however fast it is
        compared_s += timing_s(call_s)
    return f"converting the classifier and comparing both on {images:,} images takes {_long(compared_s)}, the export not counted"


def check_budgets(minutes: float | None, image_s: float | None) -> None:
    """Raises: InvalidInput: a budget that is none."""
    if minutes is not None and not 0 < minutes <= _MINUTES_AT_MOST:
        raise InvalidInput(f"expected minutes (--minutes) above 0, a week ({_MINUTES_AT_MOST:g}) at most, got {minutes:g}")
    if image_s is not None and not 0 < image_s <= DEADLINE_S:
        raise InvalidInput(f"expected seconds of an image (--image-seconds) above 0, {DEADLINE_S:g} at most, got {image_s:g}")


def work_of(
    classifier: Classifier,
    task: Task,
    *,
    start: Effort,
    within_s: float | None,
    image_s: float | None,
    threads: int,
    spent_s: float = 0.0,
) -> Work:
    """Time the classifier, and plan what fits.

    Args:
        start: the most that is looked at.
        within_s, image_s: budgets, as `CalibrationPlan` has them; no bound when none.
        spent_s: of the first.
    """
    rows = rows_to_time(classifier.input_shape)
    speed = Speed(seconds_per_call(classifier), _purify_s(classifier.input_shape, threads))
    effort, said = start, tuple[str, ...]()
    most = overlays_for(_SHARE_OF_DEADLINE * DEADLINE_S, speed.call_s)
    if "strip" in task.detectors and most < effort.overlays:
        effort = replace(effort, overlays=most)
        said = (f"{most} overlays are kept, not {start.overlays}, so that an image is decided within {DEADLINE_S / 2:g} s",)
    if image_s is not None:
        spare = (image_s - speed.purify_s) / speed.call_s - 1
        effort = replace(effort, mean_overlays=max(0.0, spare))
    chosen = within(np.inf if within_s is None else max(0.0, within_s - spent_s), task, speed, effort)
    uncounted = tuple(name for name in task.detectors if name not in COUNTED)
    return Work(replace(chosen, left_out=said + chosen.left_out), speed, threads, rows, within_s, spent_s, uncounted)


def images_per_request(calls_at_most: int, call_s: float, input_shape: tuple[int, int, int]) -> int:
    """How many images a request may hold, of which each can take so many model calls: see above."""
    in_time = int(_SHARE_OF_DEADLINE * DEADLINE_S / (calls_at_most * call_s))
    in_a_body: int = _BODY_BYTES // (_BYTES_PER_NUMBER * math.prod(input_shape))
    return max(1, min(_IMAGES_AT_MOST, in_time, in_a_body))


def _purify_s(shape: tuple[int, int, int], threads: int) -> float:
    """The seconds the purifier takes for an image of this shape, in a batch."""
    images = np.zeros((rows_to_time(shape), *shape), np.float32)
    purifier, keys = TotalVariation(weight=1.0, threads=threads), image_keys(images, b"")
    purifier(images, keys)  # compiles, or loads what was compiled
    started = time.perf_counter()
    purifier(images, keys)
    return (time.perf_counter() - started) / len(images)


def _long(seconds: float) -> str:
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    return f"about {seconds / 60:.0f} minutes"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.2g} ms" if seconds < 1 else f"{seconds:.2g} s"


def _round(calls: int) -> int:
    """To two digits: it is an estimate."""
    unit: int = 10 ** max(0, len(str(calls)) - 2)
    return round(calls / unit) * unit
