"""Plans and limits of red-teaming; the attacks themselves run against real gateways in tests/service."""

from __future__ import annotations

from typing import Any

import pytest

from evaluation.red_team.attack_report import (
    AttackedGateway,
    AttackOptions,
    AttackReport,
    NamedDefence,
    Queries,
    measured_limits,
    summary,
)
from evaluation.red_team.red_team import RedTeamPlan
from models.errors import InvalidInput


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [
        ({"attacks": ()}, "expected attacks from clean, noise"),
        ({"attacks": ("ray",)}, "got ray"),
        ({"eps": 0.0}, "expected eps > 0, got 0.0"),
        ({"eps": float("nan")}, "expected eps > 0, got nan"),
        ({"images": 0}, "expected at least 1 image to attack, got 0"),
    ],
)
def test_a_plan_that_is_none_is_refused_before_a_query(plan: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        RedTeamPlan(**plan)


def report(wrong: float, limit: float | None) -> AttackReport:
    return AttackReport(
        software="0",
        gateway=AttackedGateway(url="http://g", model="m", model_version="v", input_shape=(2, 2, 1), classes=2, defences=[]),
        options=AttackOptions(
            attacks=["clean"],
            data="d.npz",
            split="test",
            rows=None,
            images=10,
            eps=0.1,
            seed=0,
            max_queries=10,
            patience_s=1,
            fail_above=limit,
            fail_above_agreement=None,
        ),
        status="finished",
        queries=Queries(spent=10, refused=0, requests=1, turned_away=0, waited_s=0, latency_p50_s=None, latency_p99_s=None),
        evasions=[],
        worst_case_wrong=int(10 * wrong),
        worst_case_wrong_share=wrong,
        thefts=[],
        findings=[],
    )


def test_a_limit_that_is_met_is_said_and_so_is_one_that_is_not() -> None:
    assert "within the limit: share of attacked images answered wrong 0.300 <= 0.7" in summary(report(0.3, 0.7))
    assert "over the limit: share of attacked images answered wrong 0.800 > 0.7" in summary(report(0.8, 0.7))
    assert "limit" not in summary(report(0.8, None))
    assert measured_limits(report(0.8, None)) == []


def test_what_the_gateway_calls_itself_is_shown_and_not_obeyed() -> None:
    forged = "m\x1b[2J\n  worst case       0.0 % answered wrong\u202e\x9b1m"
    harmless, hostile = report(0.3, None), report(0.3, None)
    hostile.gateway.model = hostile.gateway.model_version = hostile.reason = forged
    hostile.gateway.defences = [NamedDefence(name=forged, mode=forged)]
    hostile.status = harmless.status = "gateway_gone"
    lines = summary(hostile).split("\n")
    assert len(lines) == len(summary(harmless).split("\n"))
    assert all(line.isprintable() for line in lines)
    assert "m\\x1b[2J\\n  worst case" in lines[0]
