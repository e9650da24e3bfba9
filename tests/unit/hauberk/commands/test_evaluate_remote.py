"""hauberk evaluate of a bundle whose classifier is on a model server: the black-box half, and everything with a twin."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.budget import BUDGETS
from evaluation.reporting.report import REPORT, Report
from models.engines.keras import KerasClassifier
from tests.fakes import squares
from tests.model_server import Model, ModelServer, served
from tests.poisoned import small_network
from tests.unit.hauberk.conftest import Command, Ran
from tests.unit.hauberk.test_main import assert_refused

NEED_GRADIENTS = {"jsma", "fgm", "bim", "pgd", "bpda_eot", "bpda_eot_with_secret"}
TINY = replace(BUDGETS["quick"], images=8, benign_images=20, steps=3, queries=8, curve_points=2, timed=3)


@pytest.fixture(scope="module")
def server(keras_model: Any) -> Iterator[ModelServer]:
    """The small network behind a model server."""
    network = KerasClassifier(keras_model)
    model = Model(lambda rows: network.predict(rows.astype(np.float32)), (16, 16, 3), name="squares", columns=3)
    with served(model) as running:
        yield running


@pytest.fixture(scope="module")
def bundle(server: ModelServer, clean_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from hauberk.commands.calibrate import calibrate

    out = tmp_path_factory.mktemp("remote") / "squares"
    calibrate(server.address(), clean_data, out, labels="red,green,blue", false_abstention_rate=0.05)
    return out


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, some = tmp_path_factory.mktemp("data") / "new.npz", squares(60, seed=21)
    np.savez(path, images=np.rint(some.images * 255).astype(np.uint8), labels=some.labels)
    return path


@pytest.fixture(autouse=True)
def _a_tiny_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUDGETS, "quick", TINY)


def evaluate(hauberk: Command, bundle: Path, data: Path, out: Path, *options: Any) -> Ran:
    usual = ("--budget", "quick", "--eps", "0.1", "--threads", 2)
    return hauberk("evaluate", "--bundle", bundle, "--data", data, "--out", out, *usual, *options)


def report(out: Path) -> Report:
    return REPORT.validate_json((out / "report.json").read_bytes())


def test_without_a_twin_the_black_box_half_is_run_and_the_rest_is_named(
    hauberk: Command, bundle: Path, data: Path, tmp_path: Path
) -> None:
    ran = evaluate(hauberk, bundle, data, tmp_path)
    assert ran.code == 0, ran.errors
    said = " ".join(ran.output.split())
    assert "This is the black-box half of an evaluation" in said
    assert "DOUBT attacks that follow gradients were tried: none was" in said
    found = report(tmp_path)
    assert found.capabilities["gradients"] is None
    assert found.left_out.keys() >= NEED_GRADIENTS
    tried = {row.attack for row in found.evasion}
    assert tried & {"square", "hop_skip_jump"}
    assert tried.isdisjoint(NEED_GRADIENTS)


def test_a_twin_lends_its_gradients_and_the_answers_are_the_servers(
    hauberk: Command, bundle: Path, server: ModelServer, keras_file: Path, data: Path, tmp_path: Path
) -> None:
    server.asked.clear()
    ran = evaluate(hauberk, bundle, data, tmp_path, "--gradients", keras_file)
    assert ran.code == 0, ran.errors
    assert "black-box" not in ran.output
    found = report(tmp_path)
    assert found.capabilities["gradients"] == "twin"
    assert {row.attack for row in found.evasion} >= NEED_GRADIENTS
    assert NEED_GRADIENTS.isdisjoint(found.left_out)
    assert sum(len(one.rows) for one in server.asked) > 60


def test_a_twin_of_other_weights_is_refused(hauberk: Command, bundle: Path, data: Path, tmp_path: Path) -> None:
    small_network(seed=3).save(tmp_path / "other.keras")
    ran = evaluate(hauberk, bundle, data, tmp_path / "out", "--gradients", tmp_path / "other.keras")
    assert_refused(ran, "but other.keras gives the same label on")


def test_a_server_that_stops_in_the_middle_ends_it_in_one_sentence_and_what_was_found_is_kept(
    hauberk: Command, bundle: Path, server: ModelServer, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls = server.model.scores, [0]

    def breaks(rows: Any) -> Any:
        calls[0] += 1
        scores = whole(rows)
        return scores if calls[0] < 60 else scores * np.nan

    monkeypatch.setattr(server.model, "scores", breaks)
    ran = evaluate(hauberk, bundle, data, tmp_path)
    assert ran.code == 2, ran
    assert "Traceback" not in ran.errors
    assert "try again when the model server answers" in ran.errors
    assert not (tmp_path / "report.json").exists()
    monkeypatch.setattr(server.model, "scores", whole)
    again = evaluate(hauberk, bundle, data, tmp_path)
    assert again.code == 0, again.errors
