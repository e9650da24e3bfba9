"""Every problem has one shape, and is documented where people look."""

from __future__ import annotations

import json
from typing import Any

import pytest

from service import errors
from service.errors import (
    BodyTooLarge,
    MalformedInference,
    MethodNotAllowed,
    Place,
    Problem,
    TooManyImages,
    UnsupportedMediaType,
    WrongType,
    every_problem,
)

_ARGUMENTS: dict[type[Problem], Any] = {
    MalformedInference: "Expected an input.",
    MethodNotAllowed: "GET",
    TooManyImages: 64,
    UnsupportedMediaType: "application/json",
}
PROBLEMS = list(every_problem())


def make(problem: type[Problem]) -> Problem:
    return problem(_ARGUMENTS[problem]) if problem in _ARGUMENTS else problem()


@pytest.mark.parametrize("problem", PROBLEMS)
def test_every_problem_document_has_the_members_of_the_contract(problem: type[Problem]) -> None:
    document = json.loads(make(problem).body("abc"))
    assert list(document) == ["type", "title", "status", "detail", "code", "request_id"]
    assert document["status"] == problem.status >= 400
    assert document["type"] == f"urn:hauberk:problem:{problem.code}"
    assert document["request_id"] == "abc"
    assert document["detail"].endswith(".")


@pytest.mark.parametrize("problem", PROBLEMS)
def test_every_problem_stands_in_the_tree_with_its_status_and_its_sentence(problem: type[Problem]) -> None:
    line = next(line for line in (errors.__doc__ or "").splitlines() if f" {problem.__name__} " in line)
    assert str(problem.status) in line or problem.__base__ is not Problem
    assert problem.__doc__


def test_codes_are_unique() -> None:
    assert len({problem.code for problem in PROBLEMS}) == len(PROBLEMS)


@pytest.mark.parametrize("problem", [problem for problem in PROBLEMS if problem.status == 503])
def test_who_is_told_to_come_back_is_told_when(problem: type[Problem]) -> None:
    assert dict(make(problem).headers)[b"retry-after"].isdigit()


def test_places_are_five_at_most() -> None:
    document = WrongType([Place(f"/images/{i}", "expected a number") for i in range(9)]).document("abc")
    assert document["errors"] == [{"pointer": f"/images/{i}", "detail": "expected a number"} for i in range(5)]


def test_a_body_that_is_cut_off_closes_its_connection() -> None:
    assert (b"connection", b"close") in BodyTooLarge().headers


def test_a_batch_that_is_too_large_is_told_how_large_it_may_be() -> None:
    assert TooManyImages(64).detail.startswith("One request may hold 64 images at most;")
    assert TooManyImages(1).detail.startswith("One request may hold 1 image at most;")
