"""Which problem a failed step is for its requests."""

from __future__ import annotations

import pytest

from defences.errors import StageFailure
from models.errors import RemoteBadAnswer, RemoteIsAnother, RemoteTooSlow, RemoteUnreachable
from service.failures import is_outage, problem_of, said


def of_a_stage(cause: Exception) -> StageFailure:
    failure = StageFailure("predict")
    failure.__cause__ = cause
    return failure


@pytest.mark.parametrize(
    ("cause", "code", "outage"),
    [
        (RemoteUnreachable("gone"), "classifier_unavailable", True),
        (RemoteTooSlow("slow"), "classifier_too_slow", True),
        (RemoteBadAnswer("NaN"), "classifier_failed", False),
        (RemoteIsAnother("another"), "classifier_failed", True),
        (ValueError("ours"), "internal_error", False),
    ],
)
def test_a_failure_of_the_models_server_is_told_apart_from_ours(cause: Exception, code: str, outage: bool) -> None:
    failure = of_a_stage(cause)
    assert problem_of(failure).code == code
    assert problem_of(failure).__cause__ is failure
    assert is_outage(failure) is outage
    assert code == "internal_error" or said(failure) == str(cause)


@pytest.mark.parametrize(("seconds", "told"), [(None, b"1"), (0.2, b"1"), (3.2, b"4")])
def test_who_is_to_come_back_is_told_when_the_next_look_is(seconds: float | None, told: bytes) -> None:
    problem = problem_of(RemoteUnreachable("gone", retry_after_s=seconds))
    assert dict(problem.headers)[b"retry-after"] == told
