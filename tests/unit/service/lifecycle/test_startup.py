"""What is checked and done before the first request."""

from __future__ import annotations

import gc
import logging
import sys
from typing import Any

import numpy as np
import pytest

from defences.defended_classifier import DefendedClassifier, Step
from defences.detectors.strip import Strip
from models.classifier import Images, Probabilities
from models.errors import InvalidInput
from service.lifecycle.request_limit import CallTimes, images_per_request
from service.lifecycle.startup import tune_the_interpreter
from service.lifecycle.warm_up import warm_up
from service.settings import Settings, read_settings


class Counting:
    """A classifier that counts its rows."""

    input_shape, labels = (2, 3, 1), ("a", "b")

    def __init__(self) -> None:
        self.batches: list[int] = []

    def predict(self, images: Images) -> Probabilities:
        self.batches.append(len(images))
        return np.full((len(images), 2), 0.5, np.float32)


def defended(classifier: Any = None) -> DefendedClassifier:
    strip = Strip(overlays=np.zeros((9, 2, 3, 1), np.uint8), threshold=-np.inf, stages=(9,), slack=(0.0,))
    return DefendedClassifier(classifier or Counting(), detectors=[Step(strip)])


def fitting_images(settings: Settings, defended: DefendedClassifier, here: float, stated: float | None = None) -> int:
    return images_per_request(settings, defended.calls_at_most, CallTimes(stated, here))


def test_a_request_may_hold_what_fits_the_deadline_in_the_worst_case(caplog: pytest.LogCaptureFixture) -> None:
    settings = read_settings({"HAUBERK_DEADLINE_S": "1"})
    assert fitting_images(settings, defended(), 0.001) == 64  # 64 images of 10 calls of 1 ms
    with caplog.at_level(logging.WARNING):
        assert fitting_images(settings, defended(), 0.01) == 10
    assert "may hold 10 images, not 64" in caplog.text


def test_who_asked_for_more_than_fits_is_told_what_would() -> None:
    settings = read_settings({"HAUBERK_DEADLINE_S": "1", "HAUBERK_MAX_IMAGES": "20"})
    with pytest.raises(InvalidInput, match="lower HAUBERK_MAX_IMAGES to 10 or raise HAUBERK_DEADLINE_S to 2 or more"):
        fitting_images(settings, defended(), 0.01)


def test_where_answers_leave_by_a_schedule_the_worst_case_fits_a_quarter_of_its_interval() -> None:
    assert fitting_images(read_settings({"HAUBERK_RELEASE_S": "0.4"}), defended(), 0.001) == 10
    with pytest.raises(InvalidInput, match=r"a quarter of HAUBERK_RELEASE_S is 0.1 s; lower .* to 10 or raise HAUBERK_RELEASE_S"):
        fitting_images(read_settings({"HAUBERK_RELEASE_S": "0.4", "HAUBERK_MAX_IMAGES": "11"}), defended(), 0.001)


def test_a_request_may_hold_what_the_budget_of_model_calls_pays_for() -> None:
    assert fitting_images(read_settings({"HAUBERK_MAX_MODEL_CALLS": "109"}), defended(), 0.001) == 10
    assert fitting_images(read_settings({"HAUBERK_MAX_MODEL_CALLS": "100000"}), defended(), 0.001) == 64
    with pytest.raises(InvalidInput, match="HAUBERK_MAX_MODEL_CALLS has to be 10 or more for 1 image a request, got 9"):
        fitting_images(read_settings({"HAUBERK_MAX_MODEL_CALLS": "9"}), defended(), 0.001)
    with pytest.raises(InvalidInput, match="has to be 200 or more for 20 images a request, got 199"):
        fitting_images(read_settings({"HAUBERK_MAX_MODEL_CALLS": "199", "HAUBERK_MAX_IMAGES": "20"}), defended(), 0.001)


def test_a_deadline_that_not_even_one_image_meets_is_refused() -> None:
    with pytest.raises(InvalidInput, match="raise HAUBERK_DEADLINE_S to 10 or more"):
        fitting_images(read_settings({"HAUBERK_DEADLINE_S": "0.01"}), defended(), 1.0)
    assert fitting_images(read_settings({"HAUBERK_DEADLINE_S": "10"}), defended(), 1.0) == 1


def test_nobody_is_told_to_lower_what_is_lowest() -> None:
    for settings in ({"HAUBERK_MAX_IMAGES": "1"}, {"HAUBERK_MAX_IMAGES": "3"}, {}):
        with pytest.raises(InvalidInput) as refusal:
            fitting_images(read_settings({"HAUBERK_DEADLINE_S": "0.01"} | settings), defended(), 1.0)
        assert "lower" not in str(refusal.value)
        wanted = int(settings.get("HAUBERK_MAX_IMAGES", "1"))
        assert f"raise HAUBERK_DEADLINE_S to {10 * wanted} or more" in str(refusal.value)
        enough = {"HAUBERK_DEADLINE_S": str(10 * wanted)}
        assert fitting_images(read_settings(enough | settings), defended(), 1.0) == wanted


def test_the_limit_is_the_bundles_however_busy_the_machine_is(caplog: pytest.LogCaptureFixture) -> None:
    settings = read_settings({}).for_bundle(7)
    with caplog.at_level(logging.WARNING):
        assert {fitting_images(settings, defended(), here, stated=0.01) for here in (0.001, 0.01, 0.02)} == {7}
        assert caplog.text == ""
        assert fitting_images(settings, defended(), 0.05, stated=0.01) == 7
        assert (
            "a model call takes 50 ms here, 5.0 times what the bundle's card states; the machine is slower, or busy"
            in caplog.text
        )
        assert fitting_images(settings, defended(), 0.5, stated=0.01) == 7
    assert "the largest request can take 35 s in the worst case, and the deadline is 10 s" in caplog.text


def test_a_shorter_deadline_is_reckoned_with_the_time_that_the_bundle_states() -> None:
    settings = read_settings({"HAUBERK_DEADLINE_S": "1"}).for_bundle(64)
    assert {fitting_images(settings, defended(), here, stated=0.01) for here in (0.001, 0.01, 0.1)} == {10}


def test_the_operators_limit_goes_before_the_bundles() -> None:
    assert read_settings({"HAUBERK_MAX_IMAGES": "20"}).for_bundle(7).max_images == 20
    assert read_settings({}).for_bundle(None).max_images == 64
    assert read_settings({"HAUBERK_BATCH_IMAGES": "64", "HAUBERK_QUEUE_IMAGES": "80"}).for_bundle(200).max_images == 64


def test_warming_up_runs_the_path_at_the_sizes_of_traffic() -> None:
    classifier = Counting()
    assert warm_up(defended(classifier), 16, seconds_per_call=1e-6, within_s=60) == 16
    assert sorted(set(classifier.batches)) == [10, 20, 40, 80, 160]


class Ticking(Counting):
    """A classifier that takes a second a row, by a clock of its own."""

    now = 0.0

    def predict(self, images: Images) -> Probabilities:
        self.now += len(images)
        return super().predict(images)


@pytest.mark.parametrize(("within_s", "largest"), [(1.0, 1), (55.0, 2), (200.0, 4)])
def test_warming_up_a_slow_classifier_ends_in_time(within_s: float, largest: int) -> None:
    classifier = Ticking()
    found = warm_up(defended(classifier), 64, seconds_per_call=1.0, within_s=within_s, clock=lambda: classifier.now)
    assert found == largest
    assert classifier.now <= max(within_s, 10)  # the first step is taken in any case
    assert classifier.batches


def test_after_the_start_threads_take_short_turns_and_what_it_made_is_not_collected() -> None:
    turn_s = sys.getswitchinterval()
    try:
        tune_the_interpreter()
        assert sys.getswitchinterval() == pytest.approx(1e-5)
        assert gc.get_freeze_count() > 0
    finally:
        sys.setswitchinterval(turn_s)
        gc.unfreeze()
