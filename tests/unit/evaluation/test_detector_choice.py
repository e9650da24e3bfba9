"""Detectors chosen by trials on triggers of our own: what is tried, what is said, and what is taken where nothing can be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from defences.calibration.fits import fittable
from evaluation import detector_choice
from evaluation.detector_choice import CANDIDATES, Choice, ChoiceTerms, choose_detectors, usual_detectors
from models.engines.keras import KerasClassifier
from tests.fakes import linear, squares


@pytest.fixture(scope="module")
def tried(keras_model: Any) -> tuple[Choice, list[tuple[str, int, int]]]:
    """The choice for a small network, with time for two trials and no more."""
    told: list[tuple[str, int, int]] = []
    terms = ChoiceTerms(rate=0.05, within_s=0.0, candidates=usual_detectors(), progress=lambda *args: told.append(args))
    return choose_detectors(KerasClassifier(keras_model), squares(1500, seed=5), terms), told


def test_two_triggers_are_tried_and_the_others_are_said_not_to_be(tried: tuple[Choice, list[tuple[str, int, int]]]) -> None:
    choice, told = tried
    assert len(choice.together) == 2
    assert sum("for want of time" in text for text in choice.said) >= 1
    assert told[-1] == ("detectors", 6, 6)


def test_detectors_share_the_rate_by_what_they_caught(tried: tuple[Choice, Any]) -> None:
    choice, _ = tried
    assert choice.detectors
    assert set(choice.detectors) <= set(usual_detectors()) <= set(CANDIDATES) & set(fittable())
    if choice.budgets is not None:
        assert set(choice.budgets) == set(choice.detectors)
        assert sum(choice.budgets.values()) == pytest.approx(1)
    assert all(0 <= share <= 1 for share in choice.together.values())
    assert sum(choice.calls[name] for name in choice.detectors) <= 8


def test_a_classifier_that_cannot_be_trained_gets_the_usual_detectors_and_a_reason() -> None:
    choice = choose_detectors(linear((16, 16, 3), 3), squares(1500, seed=5), ChoiceTerms())
    assert choice.detectors == usual_detectors()
    assert choice.budgets is None
    assert "copies of this model cannot be trained" in "\n".join(choice.told())


def test_too_few_images_are_said_and_a_detector_that_would_only_monitor_is_left_out(keras_model: Any) -> None:
    choice = choose_detectors(KerasClassifier(keras_model), squares(1499, seed=5), ChoiceTerms())
    assert choice.detectors == ("strip",)
    assert choice.said == (
        "no triggers of our own were tried: that takes 1,500 clean images, got 1,499",
        "layer_disagreement is left out: it would only monitor, and enforce with 1,500 images, got 1,499",
    )


def test_a_model_too_slow_for_two_trials_and_images_too_large_are_said(keras_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector_choice, "seconds_per_call", lambda classifier: 1.0)
    choice = choose_detectors(KerasClassifier(keras_model), squares(1500, seed=5), ChoiceTerms(within_s=60))
    assert "two of them would take about" in choice.said[0]
    monkeypatch.setattr(detector_choice, "_NUMBERS_AT_MOST", 900_000)
    choice = choose_detectors(KerasClassifier(keras_model), squares(1500, seed=5), ChoiceTerms(within_s=60))
    assert choice.said[0].endswith("got 1,500, of which 1,171 fit into memory")


def test_the_table_has_a_row_for_each_trigger_and_a_column_for_each_detector() -> None:
    choice = Choice(
        detectors=("strip", "badexpert"),
        budgets={"strip": 0.25, "badexpert": 0.75},
        alone={"image_patch": {"strip": 0.5, "badexpert": 1.0, "sentinet": 0.0}},
        together={"image_patch": 0.98},
        calls={"strip": 3.0, "badexpert": 1.0, "sentinet": 12.0},
        said=("not tried for want of time (--minutes): warped",),
    )
    head, row, detectors, said = choice.told()
    assert head.split() == ["tried", "on", "own", "triggers", "strip", "badexpert", "sentinet", "chosen", "together"]
    assert row.split() == ["image", "patch", "50", "%", "100", "%", "0", "%", "98", "%"]
    assert detectors == "  detectors: strip, badexpert (of the rate strip 25 %, badexpert 75 %)"
    assert said.strip() == "not tried for want of time (--minutes): warped"
    assert choice.card()["caught"] == {"image_patch": {"strip": 0.5, "badexpert": 1.0, "sentinet": 0.0, "together": 0.98}}
    assert np.isclose(sum(choice.card()["budgets"].values()), 1)
