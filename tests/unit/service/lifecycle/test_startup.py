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
from service.lifecycle.startup import fitting_images, tune_the_interpreter, warm_up
from service.settings import read_settings


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


def test_warming_up_runs_the_path_at_the_sizes_of_traffic() -> None:
    classifier = Counting()
    warm_up(defended(classifier), 16)
    assert sorted(set(classifier.batches)) == [10, 20, 40, 80, 160]


def test_after_the_start_threads_take_short_turns_and_what_it_made_is_not_collected() -> None:
    turn_s = sys.getswitchinterval()
    try:
        tune_the_interpreter()
        assert sys.getswitchinterval() == pytest.approx(1e-4)
        assert gc.get_freeze_count() > 0
    finally:
        sys.setswitchinterval(turn_s)
        gc.unfreeze()
