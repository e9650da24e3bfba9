"""The verdict of an evaluation, on results made up so that the truth about each defence is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from evaluation.reporting.report import worst_rows
from evaluation.reporting.verdict import paired, verdict
from evaluation.tables.outcomes import ABSTAINED, RIGHT, WRONG

N = 200


def outcomes(wrong: int, abstained: int = 0) -> list[int]:
    return [WRONG] * wrong + [ABSTAINED] * abstained + [RIGHT] * (N - wrong - abstained)


def results(*, pgd: dict[str, list[int]], clean: dict[str, list[int]], jsma: int = 0) -> dict[str, dict[str, Any]]:
    """Of `none` and the variants of `pgd`, with clean outcomes of their own."""
    calm = {name: outcomes(0) for name in pgd}
    return {
        "benign": {
            name: {"outcomes": found, "latency": {"p50_ms": 1.0 + at}, "model_calls_per_image": 1.0 + at}
            for at, (name, found) in enumerate(clean.items())
        },
        "evasion": {
            "clean": {"attack": "clean", "eps": None, "outcomes": calm},
            "jsma": {"attack": "jsma", "eps": None, "outcomes": {name: outcomes(jsma) for name in pgd}},
            "pgd 0.3": {"attack": "pgd", "eps": 0.3, "outcomes": pgd},
        },
    }


def test_defences_that_only_refuse_good_images_are_said_to_gain_nothing() -> None:
    same = outcomes(12)
    found = verdict(
        results(
            pgd={"none": same, "strip": outcomes(12, 100), "full stack": outcomes(12, 100)},
            clean={"none": outcomes(2), "strip": outcomes(2, 40), "full stack": outcomes(2, 40)},
            jsma=50,
        )
    )
    assert "No defence alone gained anything measurable here" in found.summary
    assert "evasion at eps 0.3, no difference measurable in their favour (6.0 % without, 6.0 % with)" in found.summary
    assert found.summary.startswith("All defences together cost 20.0 points (")
    assert "20.0 % of clean images refused, 2.00 ms more per image" in found.summary
    assert not any(one.worth for one in found.variants)


def test_what_a_defence_gains_is_said_with_its_interval_and_what_gains_nothing_is_named() -> None:
    found = verdict(
        results(
            pgd={
                "none": outcomes(120),
                "total_variation": outcomes(40),
                "reverse_sigmoid": outcomes(119),
                "full stack": outcomes(40),
            },
            clean=dict.fromkeys(("none", "total_variation", "reverse_sigmoid", "full stack"), outcomes(2)),
        )
    )
    assert "no measurable clean accuracy" in found.summary
    assert "evasion at eps 0.3, 40.0 points (36.4 to 40.0) less for the attacker (60.0 % without, 20.0 % with)" in found.summary
    assert (
        "Worth considering here, alone: total_variation (evasion at eps 0.3). No gain measured: reverse_sigmoid" in found.summary
    )


def test_a_stack_that_does_harm_is_said_to() -> None:
    pgd = {"none": outcomes(10), "full stack": outcomes(60)}
    assert "and they may do harm" in verdict(results(pgd=pgd, clean=dict.fromkeys(pgd, outcomes(0)))).summary


def test_the_worst_case_is_that_of_the_tables_and_says_that_jsma_is_not_in_it() -> None:
    made = results(
        pgd={"none": outcomes(10), "full stack": outcomes(5)}, clean=dict.fromkeys(("none", "full stack"), outcomes(0)), jsma=150
    )
    found = verdict(made)
    rows = {row.variant: 1 - row.robustness.abstention_safe.rate for row in worst_rows(made["evasion"])}
    [gain] = found.variants[0].gains
    assert (gain.without, gain.defended) == pytest.approx((rows["none"], rows["full stack"]))
    assert "it leaves out jsma (bounded in the number of pixels, not in eps)" in found.left_out_of_the_worst_case


def test_a_bundle_without_defences_has_a_verdict() -> None:
    assert "nothing is gained" in verdict(results(pgd={"none": outcomes(3)}, clean={"none": outcomes(0)})).summary


def test_a_detector_is_judged_on_triggered_images_beside_clean_ones_and_the_stack_on_the_attackers_label() -> None:
    def part(rate: float) -> dict[str, float]:
        return {"rate": rate, "of": 500}

    made = results(
        pgd={"none": outcomes(10), "strip": outcomes(10), "full stack": outcomes(10)},
        clean=dict.fromkeys(("none", "strip", "full stack"), outcomes(0)),
    )
    detector = {"name": "strip", "refused_triggered": part(0.99), "refused_clean": part(0.01)}
    made["backdoors"] = {"corner": {"kind": "corner", "success": part(1.0), "answered": part(0.02), "detectors": [detector]}}
    found = verdict(made)
    assert "Worth considering here, alone: strip (1 backdoor)" in found.summary
    assert "backdoor corner, 98.0 points" in found.summary


@pytest.mark.parametrize("seed", range(8))
def test_a_paired_interval_excludes_0_exactly_where_mcnemars_test_rejects(seed: int) -> None:
    rng = np.random.default_rng(seed)
    before, after = rng.random(60) < 0.5, rng.random(60) < rng.uniform(0.2, 0.6)
    fell, rose = int((before & ~after).sum()), int((~before & after).sum())
    found = paired(before, after)
    assert (found.low > 0 or found.high < 0) == (binomtest(fell, fell + rose, 0.5).pvalue < 0.05)


def test_no_image_of_which_the_answers_differ_leaves_an_interval_around_0() -> None:
    found = paired(np.ones(100, bool), np.ones(100, bool))
    assert found.low == -found.high
    assert 0.02 < found.high < 0.05
