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
from benchmarks.serving.timing import Question, TimeTold, ask, in_words, overlays_of, questions, served_bundle, text
from evaluation.statistics.roc import IntervalEstimate
from models.datasets import MNIST, load_dataset


def test_a_guess_that_is_worse_than_chance_tells_as_much_as_one_that_is_better() -> None:
    cell = LoadCell((Outcome(np.array([[0.0, 0.1, 200, 0]]), 1.0, 0.1),))
    answers = [
        TimeTold(Question(3, 20), IntervalEstimate(1.0, 0.9, 1.0), IntervalEstimate(0.4, 0.3, 0.5), "0.1 s"),
        TimeTold(Question(3, 20, copies=32), IntervalEstimate(0.99, 0.9, 1.0), None, "0.6 s"),
    ]
    page = text(answers, {1: {"none": cell, "0.1 s": cell}}, 300, 30.0, "the bundle mnist")
    assert "| AUC of 3 or 20, schedule of 0.1 s | <= 0.55x | **0.6x** | no |" in page
    assert "| 3 or 20, 32 copies a request | 0.990 (0.900 to 1.000) | too large | 0.6 s |" in page
    assert "| none | 1 | 100.0 | 100.0 |" in page
    assert "300 queries of each kind, one at a time, of the bundle mnist, every defence on" in page


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


KINDS = {3: np.zeros((4, 2, 2, 1), np.uint8), 20: np.full((4, 2, 2, 1), 255, np.uint8)}


@pytest.mark.parametrize(
    ("question", "interval_s", "attackers"),
    [(Question(3, 20), 0.0, 1), (Question(3, 20, copies=2), 0.01, 4), (Question(3, 20, together=2), 0.01, 2)],
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
    assert ask(told.server_port, Question(3, 20), KINDS, 8, 0.01) is None


def test_the_questions_are_of_the_numbers_of_overlays_that_images_take() -> None:
    assert {(each.few, each.many) for each in questions([20, 3, 4, 5, 6, 8], 64)} == {(3, 20), (3, 6)}
    assert {(each.few, each.many) for each in questions([5, 9, 12], 64)} == {(5, 12)}
    assert str(questions([3, 6, 20], 7)[3]) == "3 or 20, 7 copies a request"
    with pytest.raises(ValueError, match="got only such that take 3"):
        questions([3], 64)


def test_what_is_served_is_named_and_images_take_its_stages() -> None:
    bundle = served_bundle()
    (stages,) = (defence["stages"] for defence in bundle.settings["defences"] if defence["name"] == "strip")
    said = in_words(bundle)
    assert f"the bundle {bundle.name} in " in said
    assert said.endswith(f"after {', '.join(map(str, stages[:-1]))} or {stages[-1]} overlays")
    digits = load_dataset(MNIST, split="test").images[:40]
    taken = set(overlays_of(digits, bundle).tolist())
    assert taken <= set(stages)
    assert len(taken) > 1
