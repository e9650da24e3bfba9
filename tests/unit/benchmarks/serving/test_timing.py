"""What the section on times of answers says of its measurements."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from benchmarks.harness.cells import LoadCell
from benchmarks.harness.closed_loop import Outcome
from benchmarks.serving.timing import QUESTIONS, Question, TimeTold, ask, text
from evaluation.statistics.roc import IntervalEstimate
from models.bundle import read_bundle, standard_bundle_directory


def test_a_guess_that_is_worse_than_chance_tells_as_much_as_one_that_is_better() -> None:
    cell = LoadCell((Outcome(np.array([[0.0, 0.1, 200, 0]]), 1.0, 0.1),))
    answers = [
        TimeTold(Question(2, 96), IntervalEstimate(1.0, 0.9, 1.0), IntervalEstimate(0.4, 0.3, 0.5), "0.1 s"),
        TimeTold(Question(2, 96, copies=32), IntervalEstimate(0.99, 0.9, 1.0), None, "0.6 s"),
    ]
    page = text(answers, {1: {"none": cell, "0.1 s": cell}}, 300, 30.0)
    assert "| AUC of 2 or 96, schedule of 0.1 s | <= 0.55x | **0.6x** | no |" in page
    assert "| 2 or 96, 32 copies a request | 0.990 (0.900 to 1.000) | too large | 0.6 s |" in page
    assert "| none | 1 | 100.0 | 100.0 |" in page


def test_questions_are_about_numbers_of_overlays_after_which_the_served_bundle_decides() -> None:
    (strip,) = (
        defence for defence in read_bundle(standard_bundle_directory()).settings["defences"] if defence["name"] == "strip"
    )
    assert {number for question in QUESTIONS for number in (question.few, question.many)} <= set(strip["stages"])


class Told(ThreadingHTTPServer):
    """Answers bright images later than dark ones; keeps who asked."""

    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.asked: list[str] = []


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Told

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.asked.append(self.client_address[0])
        time.sleep(0.05 if body[-1] else 0.0)
        self.send_response(self.server.status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Not into the tests' output."""


@pytest.fixture
def told() -> Iterator[Told]:
    with Told() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


KINDS = {3: np.zeros((4, 2, 2, 1), np.uint8), 96: np.full((4, 2, 2, 1), 255, np.uint8)}


@pytest.mark.parametrize(
    ("question", "interval_s", "attackers"),
    [(Question(3, 96), 0.0, 1), (Question(3, 96, copies=2), 0.01, 4), (Question(3, 96, together=2), 0.01, 2)],
)
def test_times_that_differ_tell_the_kinds_apart_whoever_asks(
    told: Told, question: Question, interval_s: float, attackers: int
) -> None:
    found = ask(told.server_port, question, KINDS, 8, interval_s)
    assert found is not None
    assert found.value > 0.8
    assert len(set(told.asked)) == attackers
    assert len(told.asked) == 16 * question.together


def test_a_gateway_that_refuses_requests_of_this_size_tells_nothing(told: Told) -> None:
    told.status = 422
    assert ask(told.server_port, Question(3, 96), KINDS, 8, 0.01) is None
