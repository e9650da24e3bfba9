"""Budgets: which detectors are chosen by trials, how the rate is shared among them, and that the promise does not depend on either."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from defences.calibration.budgets import Trial, chosen_budgets
from defences.calibration.conformal import conformal_threshold, joint_scores, joint_thresholds
from defences.calibration.plan import CalibrationPlan
from defences.calibration.split import Terms
from defences.calibration.thresholds import FittedDetector, conclude
from defences.errors import InvalidInput

CALLS = {"sharp": 0.0, "dull": 5.0}


def normal(n: int, seed: int, shift: float = 0.0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=n) - shift


def trial(trigger: str, *, sharp: float, dull: float) -> Trial:
    """Detectors that see a trigger so many standard deviations below clean images."""
    return Trial(
        trigger=trigger,
        choosing={"sharp": normal(300, 1), "dull": normal(300, 2)},
        holding={"sharp": normal(1000, 3), "dull": normal(1000, 4)},
        triggered={"sharp": normal(400, 5, sharp), "dull": normal(400, 6, dull)},
    )


def test_a_detector_that_sees_nothing_gets_little() -> None:
    shared = chosen_budgets([trial("warped", sharp=2.5, dull=0.0)], 0.01, calls=CALLS)
    assert shared.budgets["sharp"] >= 0.75
    equal = trial("warped", sharp=2.5, dull=0.0).caught({"sharp": 0.5, "dull": 0.5}, 0.01)
    assert shared.caught["warped"] > equal + 0.02  # what sharing by the smallest of scores would lose


def test_detectors_of_different_triggers_share_the_rate() -> None:
    shared = chosen_budgets([trial("warped", sharp=3.0, dull=0.0), trial("patch", sharp=0.0, dull=4.0)], 0.01, calls=CALLS)
    assert min(shared.caught.values()) > 0.5
    assert shared.budgets["sharp"] > shared.budgets["dull"] > 0  # the second sees its trigger far off: little is enough
    assert sum(shared.budgets.values()) == 1


def test_detectors_that_see_the_same_are_both_kept_and_share_evenly() -> None:
    assert chosen_budgets([trial("patch", sharp=6.0, dull=6.0)], 0.01, calls=CALLS).budgets == {"sharp": 0.5, "dull": 0.5}


def test_a_detector_above_the_budget_of_model_calls_is_left_out() -> None:
    trials = [trial("patch", sharp=0.5, dull=6.0)]
    assert chosen_budgets(trials, 0.01, calls=CALLS).budgets["dull"] > 0
    assert chosen_budgets(trials, 0.01, calls=CALLS, calls_at_most=4).budgets == {"sharp": 1.0, "dull": 0.0}
    with pytest.raises(InvalidInput, match=r"at most 4 model calls an image, got sharp: 9\.0, dull: 5\.0"):
        chosen_budgets(trials, 0.01, calls={"sharp": 9.0, "dull": 5.0}, calls_at_most=4)


def test_without_trials_there_is_nothing_to_choose_by() -> None:
    with pytest.raises(InvalidInput, match="got none"):
        chosen_budgets([], 0.01, calls=CALLS)


@pytest.mark.parametrize("budgets", [(1.0, 1.0), (7.0, 1.0), (0.02, 0.98)])
def test_the_rate_is_kept_whatever_the_budgets_and_spent_in_their_proportion(budgets: tuple[float, float]) -> None:
    runs, rate, refused = 200, 0.05, np.empty((200, 2))
    false = np.empty(runs)
    for run in range(runs):
        scores = [[normal(n, 1000 * run + 10 * n + which) for which in range(2)] for n in (500, 600, 4000)]
        thresholds = joint_thresholds(scores[0], scores[1], rate, budgets=budgets)
        each = np.stack([fresh <= threshold for fresh, threshold in zip(scores[2], thresholds, strict=True)])
        false[run], refused[run] = each.any(axis=0).mean(), each.mean(axis=1)
    assert abs(false.mean() - rate) < 1 / 600 + 4 * false.std() / np.sqrt(runs)
    first, second = refused.mean(axis=0)
    assert first / (first + second) == pytest.approx(budgets[0] / sum(budgets), abs=0.03)


def test_a_confidence_is_kept_with_unequal_budgets() -> None:
    rate, above = 0.05, 0
    for run in range(200):
        scores = [[normal(n, 1000 * run + 10 * n + which) for which in range(2)] for n in (100, 600, 20_000)]
        thresholds = joint_thresholds(scores[0], scores[1], rate, 0.9, budgets=(0.8, 0.2))
        above += np.any([fresh <= at for fresh, at in zip(scores[2], thresholds, strict=True)], axis=0).mean() > rate + 0.003
    assert above <= 33  # binomial(200, .1) with probability .999


def test_equal_budgets_of_any_size_are_none() -> None:
    choosing, holding = [normal(50, 0), normal(50, 1)], [normal(500, 2), normal(500, 3)]
    without = joint_thresholds(choosing, holding, 0.05)
    assert joint_thresholds(choosing, holding, 0.05, budgets=(1, 1)) == without
    np.testing.assert_allclose(joint_thresholds(choosing, holding, 0.05, budgets=(3, 3)), without)


def test_a_detector_with_outliers_takes_no_more_than_its_budget() -> None:
    """The clean images that a classifier gets wrong lie far below the others: the last of them must not eat the other's part."""
    rng = np.random.default_rng(5)
    outlying = np.where(rng.random(1000) < 0.012, -50 * rng.random(1000), rng.normal(size=1000))
    choosing, holding = [normal(300, 6), normal(300, 7)], [outlying, normal(1000, 8)]
    thresholds = joint_thresholds(choosing, holding, 0.02)
    first, second = ((scores <= at).sum() for scores, at in zip(holding, thresholds, strict=True))
    assert first == second == 10


def test_a_detector_without_a_budget_refuses_nobody_and_takes_nothing_from_the_others() -> None:
    choosing, holding = [normal(50, 0), normal(50, 1)], [normal(500, 2), normal(500, 3)]
    assert joint_thresholds(choosing, holding, 0.05, budgets=(0, 2)) == (-np.inf, conformal_threshold(holding[1], 0.05))


def test_where_images_are_few_the_joint_score_refuses_as_the_thresholds_do() -> None:
    choosing, holding = [normal(50, 0), normal(50, 1)], [normal(60, 2), normal(60, 3)]
    budgets = (0.7, 0.3)
    thresholds = joint_thresholds(choosing, holding, 0.05, budgets=budgets)
    joint = joint_scores(choosing, holding, budgets=budgets)
    refused = np.any([scores <= threshold for scores, threshold in zip(holding, thresholds, strict=True)], axis=0)
    np.testing.assert_array_equal(refused, joint <= conformal_threshold(joint, 0.05))


@pytest.mark.parametrize("budgets", [(1.0,), (0.0, 0.0), (-1.0, 2.0), (np.nan, 1.0), (np.inf, 1.0)])
def test_budgets_that_are_none_are_refused(budgets: tuple[float, ...]) -> None:
    some = [normal(50, 0), normal(50, 1)]
    with pytest.raises(InvalidInput, match="a budget >= 0 of each of 2 detectors"):
        joint_thresholds(some, some, 0.1, budgets=budgets)


def fitted(name: str, seed: int, *, only_monitors: str = "") -> FittedDetector:
    """A detector of normal scores."""
    return FittedDetector(
        name=name,
        settings={},
        arrays={},
        card={},
        choosing=normal(300, seed),
        holding=normal(1000, seed + 1),
        at=lambda threshold: None,  # type: ignore[arg-type,return-value]  # never asked
        mean_calls=lambda threshold: 0.0,
        lowest=-np.inf,
        only_monitors=only_monitors,
    )


def test_the_budgets_of_the_terms_reach_the_thresholds() -> None:
    both = [fitted("sharp", 0), fitted("dull", 10)]
    sharp, dull = conclude(both, Terms(rate=0.05, budgets={"sharp": 0.9, "dull": 0.1}))
    equal = conclude(both, Terms(rate=0.05))
    assert sharp.threshold > equal[0].threshold
    assert dull.threshold < equal[1].threshold
    refused = np.mean((both[0].holding <= sharp.threshold) | (both[1].holding <= dull.threshold))
    assert refused == pytest.approx(0.05, abs=1e-3)


def test_a_detector_that_only_monitors_takes_nothing_from_the_rate() -> None:
    enforcing, monitoring = fitted("sharp", 0), fitted("dull", 10, only_monitors="too few images")
    sharp, dull = conclude([enforcing, monitoring], Terms(rate=0.05, budgets={"sharp": 0.5, "dull": 0.5}))
    assert sharp.threshold == conformal_threshold(enforcing.holding, 0.05)
    assert (dull.mode, dull.threshold) == ("monitor", conformal_threshold(monitoring.holding, 0.05))


def test_the_reason_names_those_that_share_the_rate_and_no_detector_that_only_monitors() -> None:
    every = [fitted("sharp", 0), fitted("watching", 10, only_monitors="too few images"), fitted("dull", 20)]
    sharp, watching, dull = conclude(every, Terms(rate=0.05))
    assert [each.mode for each in (sharp, watching, dull)] == ["enforce", "monitor", "enforce"]
    for each in (sharp, dull):
        assert each.reason.endswith("at most 0.05 of clean images refused by sharp or dull on average over calibrations")
    assert watching.reason.endswith("refused by watching on average over calibrations; too few images")
    (alone,) = conclude(every[:1], Terms(rate=0.05, confidence=0.9))
    assert alone.reason.endswith("at most 0.05 of clean images refused with confidence 0.9")


def test_a_plan_has_a_budget_for_each_of_its_detectors() -> None:
    with pytest.raises(InvalidInput, match="a budget of each of strip, got sentinet"):
        CalibrationPlan(detectors=("strip",), budgets={"sentinet": 1.0})
