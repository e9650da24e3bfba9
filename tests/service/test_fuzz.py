"""A short run of `python -m benchmarks.fuzzing.fuzz`, and that it would notice."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from benchmarks.fuzzing.fuzz import FuzzedServer, Fuzzer, alike, complaint, described
from benchmarks.fuzzing.hostile_requests import attempt
from benchmarks.harness.raw_http import RawAnswer

PROBLEM = dict.fromkeys(("type", "title", "status", "detail", "code", "request_id"), "x")


def test_two_thousand_random_and_mutated_requests_find_nothing(server: Any) -> None:
    target = FuzzedServer.at(server.port)
    report = Fuzzer(target, seed=7, requests=2000, patient=200).run()
    assert [(violation.attempt.number, violation.attempt.kind, violation.what) for violation in report.violations] == []
    assert not report.failed
    assert report.known_right == 40
    assert len(report.outcomes) == 32
    statuses = set().union(*report.outcomes.values())
    assert {200, 400, 404, 405, 413, 415, 422, 501, 505, None} <= statuses
    assert "0 violations" in described(report)


def test_an_attempt_depends_on_the_seed_and_its_number_only(server: Any) -> None:
    requests = FuzzedServer.at(server.port).requests
    forwards = [attempt(requests, 3, number) for number in range(50)]
    assert [attempt(requests, 3, number) for number in reversed(range(50))] == forwards[::-1]
    assert [attempt(requests, 4, number) for number in range(50)] != forwards


def answer(status: int, body: Any, media_type: str = "application/problem+json", **headers: str) -> RawAnswer:
    headers = {"content-type": media_type, "x-request-id": "x"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    return RawAnswer(status, headers, orjson.dumps(body))


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (answer(500, PROBLEM), "a server error"),
        (answer(503, PROBLEM | {"code": "stopping"}), "a server error"),
        (answer(501, PROBLEM), "a server error"),
        (answer(200, {}, x_request_id=""), "no X-Request-ID"),
        (
            RawAnswer(400, {"content-type": "text/plain", "connection": "close"}, b"Invalid HTTP request received."),
            "no X-Request-ID",
        ),
        (answer(422, PROBLEM | {"detail": "x" * 3000}), "a refusal of"),
        (answer(422, PROBLEM | {"errors": [{}] * 6}), "not a problem document"),
        (answer(422, PROBLEM, x_request_id="y"), "not a problem document"),
        (answer(422, {"detail": "x"}), "not a problem document"),
        (answer(422, [], "application/json"), "an error of another shape"),
        (answer(200, {}), None),
        (answer(422, PROBLEM), None),
        (answer(422, {"error": "x"}, "application/json"), None),
        (answer(503, PROBLEM | {"code": "queue_full"}), None),
        (answer(505, PROBLEM | {"code": "unsupported_version"}), None),
    ],
)
def test_answers_that_must_not_be_are_noticed(given: RawAnswer, what: str | None) -> None:
    found = complaint(given)
    assert found == what or (found is not None and what is not None and found.startswith(what))


def test_another_answer_than_the_known_one_is_noticed() -> None:
    known = [{"label": "7", "abstained": False, "probabilities": [0.2, 0.8]}]
    assert alike([{**known[0], "probabilities": [0.2001, 0.7999]}], known)
    for change in ({"label": "1"}, {"abstained": True}, {"probabilities": [0.1, 0.9]}):
        assert not alike([{**known[0], **change}], known)
    assert not alike([], known)
