"""The text of an answer."""

from __future__ import annotations

import json

import numpy as np

from defences.defended_classifier import Decisions, Trace
from service.formats.answers import Answer, AnswerWriter


def decisions(probabilities: list[list[float]], abstained: list[bool]) -> Decisions:
    columns = np.array(probabilities, np.float32)
    labels = np.where(abstained, -1, columns.argmax(axis=1))
    return Decisions(columns, np.array(abstained), labels, Trace())


def test_an_answer_is_what_its_model_says_it_is() -> None:
    text = AnswerWriter("m", "v", ("a", "b")).answer("id", decisions([[0.25, 0.75], [0, 0]], [False, True]))
    answer = Answer.model_validate_json(text, strict=True)
    assert answer.model_dump(exclude_unset=True) == json.loads(text)
    assert [p.label for p in answer.predictions] == ["b", None]
    assert answer.predictions[0].probabilities == [0.25, 0.75]
    assert answer.predictions[1].probabilities is None


def test_probabilities_survive_the_text_to_the_last_bit() -> None:
    rows = np.random.default_rng(0).dirichlet(np.ones(10), 50).astype(np.float32)
    answer = json.loads(AnswerWriter("m", "v", tuple("0123456789")).answer("id", decisions(rows.tolist(), [False] * 50)))
    got = np.array([p["probabilities"] for p in answer["predictions"]], np.float32)
    assert np.array_equal(got, rows)


def test_columns_that_are_a_slice_of_a_larger_batch_are_written_alike() -> None:
    whole = decisions([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]], [False] * 3)
    part = Decisions(whole.probabilities[1:2], whole.abstained[1:2], whole.labels[1:2], Trace())
    alone = decisions([[0.8, 0.2]], [False])
    wire = AnswerWriter("m", "v", ("a", "b"))
    assert wire.answer("id", part) == wire.answer("id", alone)
