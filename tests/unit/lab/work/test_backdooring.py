"""Backdoored copies as a job, and triggers on one image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attacks.backdoors.kinds import KINDS
from lab.errors import Refused
from lab.offered import BACKDOORS, TRIGGERS, PoisonedCopies
from lab.subject import Subject
from lab.work import attacking
from lab.work.backdooring import backdoored_copies
from lab.work.brought import Brought
from lab.work.loop import Asked
from models.accuracy import judge
from models.classifier import Classifier
from models.datasets import Dataset
from models.engines.keras import KerasClassifier
from models.progress import silent
from tests.fakes import linear, noise, squares

SUBJECT = Subject(model="/m.onnx", data="/d.npz")


def opened(classifier: Classifier, data: Dataset) -> Brought:
    return Brought(classifier, data, judge(classifier, data, advice=None), "it reads", None, lambda: classifier)


@pytest.fixture(scope="module")
def of_squares(keras_model: Any) -> Brought:
    return opened(KerasClassifier(keras_model), squares(1000, seed=5))


def test_every_kind_of_backdoor_is_offered() -> None:
    assert tuple(BACKDOORS) == KINDS
    chosen = PoisonedCopies(kinds=("blended", "warped"), images=300)
    assert PoisonedCopies.from_form(chosen.as_json()) == chosen


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"kinds": []}, "kinds"),
        ({"kinds": ["rm"]}, "kinds"),
        ({"kinds": {"blended": 1}}, "kinds"),
        ({"trained_on": 199}, "trained_on"),
        ({"trained_on": 4001}, "trained_on"),
        ({"trained_on": "many"}, "trained_on"),
    ],
)
def test_copies_that_cannot_be_are_refused_beside_their_field(given: dict[str, Any], field: str) -> None:
    with pytest.raises(Refused) as refused:
        PoisonedCopies.from_form({"kinds": ["blended"], "trained_on": 300, **given})
    assert refused.value.field == field


def test_a_backdoor_works_in_the_copy_and_not_before(of_squares: Brought, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    options = {"kinds": ["blended", "source_specific"], "trained_on": 400}
    request = Asked(SUBJECT, options, tmp_path, lambda _, done, of: steps.append((done, of)))
    found = backdoored_copies(lambda *_: of_squares, request)
    assert [row["kind"] for row in found["rows"]] == options["kinds"]
    assert (found["trained_on"], found["test"], found["detectors"], found["left_out"]) == (400, 200, ("strip",), {})
    blended = found["rows"][0]
    assert blended["works"]["rate"] > 0.8 > 0.5 > blended["before"]["rate"]
    assert blended["called"] == "2" != blended["label"]
    assert found["rows"][1]["label"] == "0"
    assert steps == [*((done, 8) for done in (0, 1, 2, 3, 4)), *((done, 8) for done in (4, 5, 6, 7, 8))]
    before, after = (np.asarray(Image.open(tmp_path / f"{blended['stem']}-{what}.png")) for what in ("before", "after"))
    assert (before != after).any()
    json.dumps(found, allow_nan=False)


def test_what_cannot_be_copied_is_said_beside_the_field(of_squares: Brought, tmp_path: Path) -> None:
    request = Asked(SUBJECT, {"kinds": ["blended"], "trained_on": 400}, tmp_path, silent)
    data = Dataset(noise(60, (8, 8, 1), 1), np.arange(60) % 3)
    with pytest.raises(Refused, match="cannot be trained; bring the Keras model") as refused:
        backdoored_copies(lambda *_: opened(linear((8, 8, 1), 3), data), request)
    assert refused.value.field == "kinds"
    few = opened(of_squares.classifier, squares(100, seed=6))
    with pytest.raises(Refused, match="at least 800 images") as refused:
        backdoored_copies(lambda *_: few, request)
    assert refused.value.field == "trained_on"


@pytest.mark.parametrize("kind", TRIGGERS)
def test_a_trigger_is_laid_on_one_image_and_asks_nothing(of_squares: Brought, tmp_path: Path, kind: str) -> None:
    request = Asked(SUBJECT, {"attack": kind, "strength": 0.1, "image": 3}, tmp_path, silent)
    found = attacking.attack_one(lambda *_: of_squares, request)
    assert (found["queries"], found["gradients"]) == (0, 0)
    assert found["linf"] > 0
    assert found["before"]["data"] != found["after"]["data"]
    json.dumps(found, allow_nan=False)


def test_a_trigger_that_has_no_room_is_refused_beside_the_attack(tmp_path: Path) -> None:
    data = Dataset(noise(60, (2, 2, 1), 1), np.arange(60) % 3)
    request = Asked(SUBJECT, {"attack": "corner_pattern", "strength": 0.1, "image": 3}, tmp_path, silent)
    with pytest.raises(Refused, match="corner_pattern") as refused:
        attacking.attack_one(lambda *_: opened(linear((2, 2, 1), 3), data), request)
    assert refused.value.field == "attack"
