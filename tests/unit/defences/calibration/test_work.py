"""What a calibration is going to cost, and what is left out when that is too much."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from defences.calibration.conformal import scores_needed
from defences.calibration.effort import COUNTED, FULL, Effort, Speed, Task, estimate, overlays_for, within
from defences.calibration.plan import CalibrationPlan
from defences.calibration.sentinet import _PATIENCE
from defences.calibration.work import DEADLINE_S, Work, images_per_request, work_of
from defences.detectors.sentinet import SentiNet
from defences.errors import InvalidInput
from service.settings import read_settings
from tests.fakes import linear

TASK = Task(clean=1000, test=0, needed=300, detectors=("strip",))
SLOW = Speed(0.02, 0.002)


def test_the_estimate_counts_every_overlay_of_every_trial() -> None:
    whole = estimate(FULL, TASK)
    candidates, others = 333 // 3, 333 - 333 // 3
    assert whole.calls["overlays"] == others + 4 * (128 * candidates + others * 32)
    assert whole.calls["purifier"] == 1000 * 22
    assert whole.model_calls == sum(whole.calls.values())
    assert whole.seconds(Speed(0.001, 0.0)) == pytest.approx(whole.model_calls / 1000)


def test_a_fast_classifier_is_calibrated_with_all_there_is() -> None:
    assert within(720, TASK, Speed(1e-4)).effort == FULL
    assert within(720, TASK, Speed(1e-4)).left_out == ()


def test_a_budget_is_kept_and_everything_left_out_is_said() -> None:
    before = float("inf")
    for minutes in (60, 30, 15, 12, 9, 8):
        chosen = within(60 * minutes, TASK, SLOW)
        assert chosen.estimate.seconds(SLOW) <= min(60 * minutes, before)
        before = chosen.estimate.seconds(SLOW)
        changed = [
            each.name for each in dataclasses.fields(Effort) if getattr(chosen.effort, each.name) != getattr(FULL, each.name)
        ]
        assert len(chosen.left_out) == len(changed)


def test_the_least_harmful_goes_first() -> None:
    gone: list[str] = []
    for minutes in range(70, 1, -1):
        for phrase in within(60 * minutes, TASK, SLOW).left_out:
            if (what := phrase.split(" ", 1)[1].split("on")[0]) not in gone:
                gone.append(what)
    assert gone[0].startswith("purifier")
    assert any(what.startswith(("overlays are kept", "ways to lay")) for what in gone[3:])


def test_what_no_budget_pays_is_told_and_done_all_the_same() -> None:
    chosen = within(1.0, TASK, SLOW)
    assert chosen.estimate.seconds(SLOW) > 1
    told = Work(chosen, SLOW, 2, 6, 1.0).told()
    assert "that is the least there is, and more than about 1 s" in told


@pytest.mark.parametrize("confidence", [None, 0.95])
def test_the_promise_gets_its_images_whatever_the_budget(confidence: float | None) -> None:
    plan = CalibrationPlan(false_abstention_rate=0.001, confidence=confidence, minutes=0.01)
    work = plan.work(linear((4, 4, 1), 3), 200_000, 1, spent_s=0.5)
    used = min(200_000, work.chosen.effort.clean_images)
    assert used - used // 3 >= scores_needed(0.001, confidence)


def test_the_announcement_says_minutes_calls_and_milliseconds() -> None:
    chosen = within(1e9, TASK, Speed(0.007, 0.0))
    minutes, calls = chosen.estimate.seconds(Speed(0.007)) / 60, round(chosen.estimate.model_calls, -4)
    told = Work(chosen, Speed(0.007, 0.0), 2, 6, None).told()
    assert told == f"calibrating takes about {minutes:.0f} minutes at most: {calls:,} model calls of 7 ms"


def test_what_opening_took_is_part_of_the_minutes_and_is_said() -> None:
    spent = work_of(linear((4, 4, 1), 3), TASK, start=FULL, within_s=600, image_s=None, threads=1, spent_s=300)
    alone = spent.chosen.estimate.seconds(spent.speed)
    assert spent.seconds == pytest.approx(300 + alone)
    assert "about 5 minutes until here, and " in spent.told()
    gone = work_of(linear((4, 4, 1), 3), TASK, start=FULL, within_s=600, image_s=None, threads=1, spent_s=601)
    assert "that is the least there is, and more than about 10 minutes" in gone.told()


def test_a_fit_whose_cost_is_unknown_is_said_to_be_uncounted() -> None:
    task = dataclasses.replace(TASK, detectors=("strip", "binary_input_detector"))
    work = work_of(linear((4, 4, 1), 3), task, start=FULL, within_s=None, image_s=None, threads=1)
    assert work.told().endswith("; training binary_input_detector comes on top, and is not counted")
    counted = dataclasses.replace(TASK, detectors=COUNTED)
    assert "not counted" not in work_of(linear((4, 4, 1), 3), counted, start=FULL, within_s=None, image_s=None, threads=1).told()


def test_every_patience_that_sentinet_tries_is_counted() -> None:
    task = dataclasses.replace(TASK, detectors=("sentinet",))
    sentinet = SentiNet(overlays=np.zeros((2, 28, 28, 1), np.uint8), overlay_labels=np.zeros(2, np.int64), threshold=0.0)
    assert estimate(FULL, task).calls["windows"] >= 333 * (sentinet.calls_at_most - 1) * len(_PATIENCE)


def test_so_many_overlays_are_kept_that_an_image_is_decided_in_time() -> None:
    assert overlays_for(5, 0.007) == 32
    assert overlays_for(5, 0.2) == 24
    assert overlays_for(5, 10) == 8
    slow = linear((4, 4, 1), 3)
    work = work_of(slow, TASK, start=FULL, within_s=None, image_s=1e-9, threads=1)
    assert work.chosen.effort.mean_overlays == 0


@pytest.mark.parametrize(
    ("calls", "call_s", "shape", "most"),
    [
        (97, 30e-6, (28, 28, 1), 64),
        (97, 0.007, (224, 224, 3), 7),
        (1, 0.007, (224, 224, 3), 17),  # what 64 MiB of JSON hold
        (97, 1.0, (224, 224, 3), 1),
    ],
)
def test_a_request_may_hold_what_takes_half_a_deadline(calls: int, call_s: float, shape: tuple[int, int, int], most: int) -> None:
    assert images_per_request(calls, call_s, shape) == most
    settings = read_settings({}).for_bundle(most)
    assert settings.deadline_s == DEADLINE_S
    longest = 26 * most * shape[0] * shape[1] * shape[2]
    assert settings.body_at_most(shape) >= longest


@pytest.mark.parametrize(
    ("budget", "complaint"),
    [
        ({"minutes": 0}, "minutes"),
        ({"minutes": float("nan")}, "minutes"),
        ({"minutes": 1e6}, "minutes"),
        ({"image_s": -1}, "seconds of an image"),
        ({"image_s": 11}, "seconds of an image"),
    ],
)
def test_a_budget_that_is_none_is_refused(budget: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidInput, match=f"expected {complaint} .* above 0"):
        CalibrationPlan(**budget)
