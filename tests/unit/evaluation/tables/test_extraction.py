"""The curve: one row a copy, every image asked once, shares as they are defined, and nonsense refused before anything is asked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from attacks.extraction.thief import THIEVES
from evaluation.tables.extraction import ExtractionRow, extraction_curve, queries_needed
from models.classifier import Images, Probabilities
from models.datasets import Dataset
from models.engines.keras import KerasClassifier
from models.errors import InvalidInput
from tests.fakes import FakeClassifier, linear, squares
from tests.students import QUICK, small

POOL, TEST = squares(300, seed=1), squares(150, seed=2)
SHAPE = (16, 16, 3)
TWO = {name: THIEVES[name] for name in ("labels", "averaged")}
OPTIONS: dict[str, Any] = {"optimisers": {"quick": QUICK}, "build": small}


@pytest.fixture(scope="module")
def victim(keras_model: Any) -> KerasClassifier:
    return KerasClassifier(keras_model)


@pytest.fixture(scope="module")
def rows(victim: KerasClassifier) -> list[ExtractionRow]:
    return extraction_curve(victim, POOL.images, TEST, budgets=(200, 20), thieves=TWO, **OPTIONS)


def test_there_is_a_row_for_every_thief_optimiser_and_budget(rows: list[ExtractionRow]) -> None:
    assert [(row.thief, row.budget, row.queries) for row in rows] == [
        ("labels", 20, 20),
        ("labels", 200, 200),
        ("averaged", 20, 18),
        ("averaged", 200, 198),
    ]
    assert {row.optimiser for row in rows} == {"quick"}
    assert all(row.refused == 0 for row in rows)


def test_more_queries_make_a_better_copy_and_the_errors_are_binomial(rows: list[ExtractionRow]) -> None:
    few, many = rows[0], rows[1]
    assert many.agreement > max(few.agreement, 0.9)
    for row in rows:
        assert row.accuracy_error == pytest.approx(np.sqrt(row.accuracy * (1 - row.accuracy) / len(TEST)))
        assert row.agreement_error == pytest.approx(np.sqrt(row.agreement * (1 - row.agreement) / len(TEST)))


def test_a_copy_of_a_victim_that_errs_agrees_without_being_accurate(victim: KerasClassifier) -> None:
    wrong = Dataset(TEST.images, (TEST.labels + 1) % 3)
    row = extraction_curve(victim, POOL.images, wrong, budgets=[200], thieves={"labels": THIEVES["labels"]}, **OPTIONS)[0]
    assert row.agreement > 0.9
    assert row.accuracy < 0.1


def test_every_image_is_asked_once_for_all_who_ask_alike_and_test_images_never() -> None:
    counted = linear(SHAPE, 3)
    alike = {name: THIEVES[name] for name in ("labels", "probabilities", "top-1")}
    extraction_curve(counted, POOL.images, TEST, budgets=(40, 90), thieves=alike, undefended=linear(SHAPE, 3), **OPTIONS)
    assert sum(counted.calls) == 90


def test_refusals_are_reported_and_agreement_counts_what_the_victim_answers() -> None:
    def refuses_red(images: Images) -> Probabilities:
        colours = images.max(axis=(1, 2)).argmax(axis=1)
        answers: Probabilities = np.eye(3, dtype=np.float32)[colours] * (colours > 0)[:, None]
        return answers

    victim = FakeClassifier(refuses_red, SHAPE, 3)
    row = extraction_curve(victim, POOL.images, TEST, budgets=[200], thieves={"labels": THIEVES["labels"]}, **OPTIONS)[0]
    assert row.refused == pytest.approx((POOL.labels == 0).mean(), abs=0.06)
    assert row.agreement > 0.9
    answered = int((TEST.labels > 0).sum())
    assert row.agreement_error == pytest.approx(np.sqrt(row.agreement * (1 - row.agreement) / answered))
    assert row.accuracy < 0.8, "red is never learned"


def test_the_queries_needed_are_the_fewest_of_any_copy_that_is_good_enough(rows: list[ExtractionRow]) -> None:
    given = [replace(rows[0], queries=queries, agreement=agreement) for queries, agreement in ((900, 0.9), (50, 0.5), (300, 0.8))]
    assert queries_needed(given, 0.75) == 300
    assert queries_needed(given, 0.95) is None


def test_two_runs_agree(victim: KerasClassifier, rows: list[ExtractionRow]) -> None:
    assert extraction_curve(victim, POOL.images, TEST, budgets=(20, 200), thieves=TWO, **OPTIONS) == rows


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"budgets": []}, "expected at least one budget, got none"),
        ({"thieves": {}}, "expected at least one thief, got none"),
        ({"optimisers": {}}, "expected at least one optimiser, got none"),
        ({"budgets": [10, 301]}, "expected a budget from 1 to 300 queries"),
        ({"budgets": [2], "thieves": TWO}, "expected a budget from 3 to 900 queries"),
        ({"test": Dataset(TEST.images, TEST.labels + 1)}, "expected test labels from 0 to 2, the classes of the victim, got 3"),
        ({"test": Dataset(TEST.images[:, :8], TEST.labels)}, r"expected test images \[n, 16, 16, 3\], got \[150, 8, 16, 3\]"),
        ({"test": TEST.take(slice(0, 0))}, "expected test images"),
    ],
)
def test_nonsense_is_refused_before_anything_is_asked(wrong: dict[str, Any], said: str) -> None:
    victim = linear(SHAPE, 3)
    usual: dict[str, Any] = {"test": TEST, "budgets": [10]}
    with pytest.raises(InvalidInput, match=said):
        extraction_curve(victim, POOL.images, **usual | wrong)
    assert not victim.calls
