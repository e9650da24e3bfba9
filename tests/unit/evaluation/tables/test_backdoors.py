"""Backdoors against STRIP from end to end: what it catches, what it misses, what is refused at the door."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from defences.calibration.sentinet import fit_sentinet
from defences.defended_classifier import Step
from defences.purifiers.total_variation import TotalVariation
from evaluation.tables.backdoors import BackdoorBudget, BackdoorRow, backdoor_rows
from models.bundle import read_bundle, standard_bundle_directory
from models.datasets import MNIST, Dataset, load_dataset
from models.engines.keras import KerasClassifier
from models.errors import InvalidInput
from tests.fakes import squares

DATA, HELD_OUT, TEST = squares(200, seed=11), squares(300, seed=12), squares(60, seed=13)
TARGET = 7
BUDGET = BackdoorBudget(training=1500, held_out=330, clean=200, triggered=80, epochs=6)


@pytest.fixture(scope="module")
def squares_classifier(keras_model: Any) -> KerasClassifier:
    return KerasClassifier(keras_model)


@pytest.fixture(scope="module")
def rows(keras_model: Any, digits: Dataset) -> dict[str, BackdoorRow]:
    """Two backdoors in the bundled classifier."""
    classifier = KerasClassifier.from_bundle(read_bundle(standard_bundle_directory()))
    training = load_dataset(MNIST).take(slice(58_000, None))
    told: list[tuple[str, int, int]] = []
    kinds = ("blended", "all_to_all")
    found = backdoor_rows(
        classifier,
        training,
        training.take(slice(1500, None)),
        digits,
        kinds=kinds,
        target=TARGET,
        rate=0.02,
        budget=BUDGET,
        progress=lambda *args: told.append(args),
    )
    result = {row.kind: row for row in found}
    assert tuple(result) == kinds
    assert [done for what, done, of in told if what == "backdoor blended" and of == 4] == [0, 1, 2, 3, 4]
    return result


def test_a_blended_trigger_works_and_strip_refuses_it(rows: dict[str, BackdoorRow]) -> None:
    row = rows["blended"]
    assert row.success.rate > 0.9
    assert row.success_purified.rate > 0.9
    assert row.success_before.rate < 0.2
    assert row.accuracy.rate > 0.9
    assert row.strip_mode == "enforce"
    assert row.refused_triggered.rate > 0.8
    assert row.refused_clean.rate < 0.07
    assert row.answered.rate < 0.1
    assert row.refused_of_working.rate > 0.9
    # A triggered image on which the trigger fails changes its answer as clean ones do: 1 to 5 % over seeds 0 to 2.
    # The refusals are of seed 0: from 220 held images the threshold may be low (seed 1 refuses 62.5 %), the area is not (.953 to .988).
    assert row.auroc.value > 0.9
    assert row.auroc.low > 0.8


def test_all_to_all_works_and_strip_does_not_see_it(rows: dict[str, BackdoorRow]) -> None:
    # The label depends on the digit as well, which an overlay hides: the attack is published, the miss is not a mistake of ours.
    row = rows["all_to_all"]
    assert row.success.rate > 0.5
    assert row.success_before.rate < 0.1
    assert row.refused_triggered.rate < 0.2
    assert row.answered.rate > 0.4


def check_numbers(row: BackdoorRow, *, triggered: int, clean: int) -> None:
    """The numbers of a row agree with each other."""
    assert row.refused_triggered.of == row.answered.of == row.success.of == triggered
    assert row.refused_clean.of == row.accuracy.of == clean
    assert row.refused_of_working.of == row.success_purified.hits
    # Who gets the attacker's label is who would without STRIP and is not refused by it.
    spared = row.refused_of_working.hits if row.strip_mode == "enforce" else 0
    assert row.answered.hits == row.success_purified.hits - spared
    assert row.detectors[0].refused_of_working.hits == row.refused_of_working.hits
    assert row.detectors[-1].refused_of_working.hits == spared
    assert row.curve.tpr[-1] == row.curve.fpr[-1] == 1
    assert row.auroc.value == pytest.approx(np.trapezoid(row.curve.tpr, row.curve.fpr))
    assert row.seconds > 0


def test_the_numbers_of_a_row_agree_with_each_other(rows: dict[str, BackdoorRow]) -> None:
    for row in rows.values():
        check_numbers(row, triggered=80, clean=200)


def test_a_row_is_written_as_plain_json(rows: dict[str, BackdoorRow]) -> None:
    for row in rows.values():
        read = json.loads(json.dumps(row.as_json(), allow_nan=False))
        assert read["refused_triggered"]["rate"] == row.refused_triggered.rate
        assert read["auroc"] == {"value": row.auroc.value, "low": row.auroc.low, "high": row.auroc.high}
        assert read["curve"]["thresholds"][0] is None  # refuses nobody: minus infinity
        assert len({len(read["curve"][axis]) for axis in ("fpr", "tpr", "band_low", "band_high")}) == 1
        assert len(read["curve"]["fpr"]) <= 200


def test_the_same_seed_gives_the_same_row_behind_a_purifier_too(squares_classifier: KerasClassifier) -> None:
    small = BackdoorBudget(training=200, held_out=300, clean=50, triggered=20, epochs=1, batch_size=64)
    first, second = (
        next(
            backdoor_rows(
                squares_classifier,
                DATA,
                HELD_OUT,
                TEST,
                kinds=["image_patch"],
                preprocessors=[Step(TotalVariation(weight=0.05)), Step(TotalVariation(weight=1.0), "monitor")],
                budget=small,
                seed=5,
            )
        )
        for _ in range(2)
    )
    assert {**first.as_json(), "seconds": 0} == {**second.as_json(), "seconds": 0}
    check_numbers(first, triggered=20, clean=50)


def test_sentinet_beside_strip_is_measured_too_and_both_share_the_rate(squares_classifier: KerasClassifier) -> None:
    small = BackdoorBudget(training=200, held_out=300, clean=50, triggered=20, epochs=1, batch_size=64)
    (row,) = backdoor_rows(
        squares_classifier, DATA, HELD_OUT, TEST, kinds=["image_patch"], fits={"sentinet": fit_sentinet}, rate=0.05, budget=small
    )
    strip, sentinet, together = row.detectors
    assert (strip.name, sentinet.name, together.name) == ("strip", "sentinet", "together")
    assert strip.refused_triggered == row.refused_triggered
    assert together.refused_triggered.hits >= max(strip.refused_triggered.hits, sentinet.refused_triggered.hits)
    assert [one["name"] for one in json.loads(json.dumps(row.as_json(), allow_nan=False))["detectors"]] == [
        "strip",
        "sentinet",
        "together",
    ]


def test_what_cannot_be_measured_is_refused_before_anything_is_trained(squares_classifier: KerasClassifier) -> None:
    with pytest.raises(InvalidInput, match=r"kinds of backdoors of corner_pattern, .* got invisible"):
        backdoor_rows(squares_classifier, DATA, HELD_OUT, TEST, kinds=["corner_pattern", "invisible"])
    with pytest.raises(InvalidInput, match="at least 300 clean images"):
        backdoor_rows(squares_classifier, DATA, HELD_OUT.take(slice(0, 20)), TEST)
    only_target = Dataset(TEST.images[TEST.labels == 2], TEST.labels[TEST.labels == 2])
    with pytest.raises(InvalidInput, match="corner_pattern: expected test images of the classes it attacks"):
        backdoor_rows(squares_classifier, DATA, HELD_OUT, only_target)
