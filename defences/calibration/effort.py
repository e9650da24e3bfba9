"""What a calibration tries, what that costs in model calls, and what to leave out when it would take too long.

Every detector, purifier and measurement walks over images; how many of them, and how many overlays, is one value, `Effort`. A budget of
minutes takes reductions in a fixed order, the least harmful first, until the estimate fits, so that everything left out is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

_ALL = 1 << 40
OVERLAYS, OVERLAY_TRIALS, CHOOSING_IMAGES = 32, 4, 1000
CANDIDATES, RATED_IMAGES = 256, 128
MEAN_OVERLAYS = 5.0
_OVERLAYS_AT_LEAST = 8
_STRENGTHS = 10  # of the purifier, at most
_WINDOWS = 57  # SentiNet's calls of an image that leaves at no step
_SENTINET_TRIALS = 4  # of its patience
_MASKS, _MASK_COLOURS = 9, 2
_CHOOSING_SHARE = 3  # one image of so many is chosen on


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much a calibration looks at.

    Attributes:
        clean_images: of those given, at most; the others are not used.
        choosing_images: on which overlays, stages and slack are chosen; the overlays are taken from them.
        purifier_images: on which the purifier is chosen.
        measured_images: of each set, on which the finished defences are measured.
        candidates, rated_images: STRIP's overlays are the most telling of so many, by so many images.
        overlays: that STRIP keeps at most, and so the model calls of a suspect.
        overlay_trials: ways to lay over that STRIP tries.
        mean_overlays: of a clean image that a way to lay over may take.
    """

    clean_images: int = _ALL
    choosing_images: int = CHOOSING_IMAGES
    purifier_images: int = _ALL
    measured_images: int = _ALL
    candidates: int = CANDIDATES
    rated_images: int = RATED_IMAGES
    overlays: int = OVERLAYS
    overlay_trials: int = OVERLAY_TRIALS
    mean_overlays: float = MEAN_OVERLAYS


FULL = Effort()

COUNTED = ("strip", "sentinet", "patch_cleanser", "layer_disagreement")
"""Detectors whose fits are in the estimate; others train networks on attacks, and nobody knows before how long that takes."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A calibration to be.

    Attributes:
        clean, test: how many images there are.
        needed: of the clean ones, for the promise to hold; fewer are never taken.
    """

    clean: int
    test: int
    needed: int
    detectors: tuple[str, ...]


@dataclass(frozen=True)
class Speed:
    """Of the machine: seconds of a model call, and of the purifier for one image."""

    call_s: float
    purify_s: float = 0.0


@dataclass(frozen=True)
class Estimate:
    """Model calls by part of the work, at most, and images to purify."""

    calls: Mapping[str, int]
    purified: int

    @property
    def model_calls(self) -> int:
        return sum(self.calls.values())

    def seconds(self, speed: Speed) -> float:
        return self.model_calls * speed.call_s + self.purified * speed.purify_s


def estimate(effort: Effort, task: Task) -> Estimate:
    """What this effort takes for this task, at most: the purifier may be found at the first of its strengths."""
    clean = min(task.clean, effort.clean_images)
    choosing = min(clean // _CHOOSING_SHARE, effort.choosing_images)
    held, on = clean - choosing, min(clean, effort.purifier_images)
    measured = min(held, effort.measured_images) + min(task.test, effort.measured_images)
    calls = {"purifier": 2 * on * (1 + _STRENGTHS)}
    per_image = 2.0
    if "strip" in task.detectors:
        bank = min(effort.candidates, choosing // 3)
        on_all, rated = choosing - bank, min(effort.rated_images, choosing - bank)
        calls["overlays"] = on_all + (rated * bank + on_all * min(effort.overlays, bank)) * effort.overlay_trials
        per_image += MEAN_OVERLAYS
        calls["threshold"] = int(held * per_image)
    if "sentinet" in task.detectors:
        calls["windows"] = choosing * _WINDOWS * _SENTINET_TRIALS
        calls["held windows"] = held * _WINDOWS // 3
        per_image += _WINDOWS / 5
    if "layer_disagreement" in task.detectors:
        calls["layers"] = clean
    if "patch_cleanser" in task.detectors:
        calls["masks"] = choosing * (1 + _MASKS * _MASK_COLOURS) + held * (1 + _MASKS)
        per_image += _MASKS
    calls["measuring"] = int(measured * per_image)
    return Estimate(calls, 2 * on * _STRENGTHS + measured)


@dataclass(frozen=True)
class Chosen:
    """An effort, what it takes, and what was left out for it: one phrase each."""

    effort: Effort
    estimate: Estimate
    left_out: tuple[str, ...]


def within(seconds: float, task: Task, speed: Speed, start: Effort = FULL) -> Chosen:
    """The most effort that takes at most so long; the least there is where none does, which the estimate shows."""
    effort, left_out = start, dict[str, str]()
    steps = _reductions(task)
    while estimate(effort, task).seconds(speed) > seconds:
        step = next(steps, None)
        if step is None:
            break
        name, value = step
        whole = _whole(task, effort)[name]
        if value < min(whole, getattr(effort, name)):
            effort = replace(effort, **{name: value})
            left_out[name] = _PHRASES[name].format(value=value, of=_whole(task, start)[name])
    return Chosen(effort, estimate(effort, task), tuple(left_out.values()))


def overlays_for(seconds: float, call_s: float) -> int:
    """How many overlays an image may take that has to be decided in so many seconds, its own prediction included."""
    return max(_OVERLAYS_AT_LEAST, min(OVERLAYS, int(seconds / call_s) - 1))


_PHRASES = {
    "measured_images": "the finished defences are measured on {value:,} images of {of:,}",
    "purifier_images": "the purifier is chosen on {value:,} images of {of:,}, so a milder one where it is a near thing",
    "choosing_images": "overlays and their boundaries are chosen on {value:,} images of {of:,}",
    "overlay_trials": "ways to lay over that are tried: {value}, not {of}",
    "candidates": "overlays are the most telling of {value} images, not of {of}",
    "rated_images": "how telling they are is measured on {value} images of {of}",
    "overlays": "{value} overlays are kept at most, not {of}: where that is too few, a trigger that one of them hides is missed",
    "clean_images": "{value:,} clean images of {of:,} are used",
}


def _whole(task: Task, effort: Effort) -> dict[str, int]:
    """What there is of everything that can be reduced."""
    clean = min(task.clean, effort.clean_images)
    return {
        "measured_images": max(clean, task.test),
        "purifier_images": clean,
        "choosing_images": min(clean // _CHOOSING_SHARE, effort.choosing_images),
        "overlay_trials": effort.overlay_trials,
        "candidates": min(effort.candidates, min(clean // _CHOOSING_SHARE, effort.choosing_images) // 3),
        "rated_images": effort.rated_images,
        "overlays": effort.overlays,
        "clean_images": task.clean,
    }


def _reductions(task: Task) -> Iterator[tuple[str, int]]:
    """The least harmful first."""
    yield from (("measured_images", 1000), ("purifier_images", 1000), ("clean_images", max(10_000, task.needed)))
    yield from (("candidates", 128), ("purifier_images", 600), ("measured_images", 300), ("candidates", 64), ("rated_images", 64))
    yield from (
        ("choosing_images", 250),
        ("purifier_images", 300),
        ("overlay_trials", 2),
        ("clean_images", max(3_000, task.needed)),
    )
    yield from (("choosing_images", 150), ("measured_images", 100), ("overlays", 24), ("clean_images", max(1_000, task.needed)))
    yield from (("candidates", 32), ("rated_images", 32), ("overlay_trials", 1), ("overlays", 16), ("choosing_images", 100))
