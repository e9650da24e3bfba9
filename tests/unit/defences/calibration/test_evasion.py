"""The ceiling that harmless changes set, and what a fitted detector says of itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from defences.calibration.conformal import conformal_threshold
from defences.calibration.evasion import HARMLESS_RATE, EvasionScores, FittedEvasion, ceiling
from defences.calibration.split import Terms
from defences.calibration.thresholds import conclude

RNG = np.random.default_rng(0)
CLEAN = RNG.normal(6, 1, 1000)
NOISE = {"noise": RNG.normal(2, 1, 1000), "blur": RNG.normal(5, 1, 1000)}
ATTACKS = {"fgm": RNG.normal(-4, 1, 500), "pgd": RNG.normal(-1, 1, 500)}


def fitted(harmless: dict[str, Any] = NOISE) -> FittedEvasion:
    scores = EvasionScores(choosing=CLEAN[:400], holding=CLEAN[400:], harmless=harmless, attacks=ATTACKS)
    pair: Any = lambda *boundaries: boundaries  # noqa: E731  # stands in for the detector
    return FittedEvasion(name="some", at=pair, settings={}, arrays={}, card={"eps": 0.3}, summary="", scores=scores, calls=1)


def test_the_ceiling_is_the_lowest_of_the_conformal_thresholds_of_every_kind() -> None:
    assert ceiling(NOISE, 0.05) == min(conformal_threshold(scores, 0.05) for scores in NOISE.values())
    assert all((scores <= ceiling(NOISE)).mean() <= HARMLESS_RATE for scores in NOISE.values())


def test_the_promise_about_noise_holds_on_noise_that_was_not_seen() -> None:
    rng = np.random.default_rng(4)
    refused = [(rng.normal(2, 1, 500) <= ceiling({"noise": rng.normal(2, 1, 500)})).mean() for _ in range(200)]
    assert np.mean(refused) < HARMLESS_RATE + 0.001


def test_a_detector_that_clean_images_would_allow_to_refuse_noise_is_held_back() -> None:
    (calibrated,) = conclude([fitted().with_ceiling(0.01)], Terms(rate=0.01))
    highest = float(calibrated.arrays()["some_ceiling"])
    assert calibrated.threshold > highest == ceiling(NOISE)
    stand_in: Any = calibrated.detector
    assert stand_in == (calibrated.threshold, highest)
    assert calibrated.mode == "enforce"
    assert calibrated.mean_calls == 1


def test_the_card_and_the_reason_say_what_is_refused_below_both() -> None:
    (calibrated,) = conclude([fitted().with_ceiling(0.01)], Terms(rate=0.01))
    alone = calibrated.card()["alone"]
    assert alone["boundary"] == ceiling(NOISE)
    assert alone["refused_clean"] == 0
    assert alone["refused_harmless"]["noise"] == pytest.approx((NOISE["noise"] <= ceiling(NOISE)).mean())
    assert alone["refused_attacks"]["pgd"] == pytest.approx((ATTACKS["pgd"] <= ceiling(NOISE)).mean())
    assert calibrated.card()["eps"] == 0.3
    worst = 100 * alone["refused_attacks"]["pgd"]
    assert f"{worst:.1f} to 100.0 % of the attacks it was trained on" in calibrated.reason
