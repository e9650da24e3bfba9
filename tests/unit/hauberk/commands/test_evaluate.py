"""hauberk evaluate, end to end on colour images with a tiny budget: the report, its page, resuming, agreement, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from defences.assembly import calibrated_for
from evaluation.budget import BUDGETS
from evaluation.reporting.report import REPORT, Report
from hauberk.commands.data import sha256_of
from models.bundle import read_bundle, record, write_bundle
from models.engines.keras import KerasClassifier
from models.engines.keras_export import exported
from tests.bundles import SQUARES, STRIP, settings
from tests.fakes import squares
from tests.poisoned import small_network
from tests.unit.hauberk.conftest import Command, Ran
from tests.unit.hauberk.test_main import assert_refused

TINY = replace(
    BUDGETS["quick"],
    images=12,
    benign_images=150,
    steps=4,
    queries=12,
    curve_points=2,
    surrogate_images=100,
    surrogate_epochs=1,
    backdoor_images=100,
    backdoor_epochs=1,
    extraction_budgets=(30, 60),
    optimisers=("sgd, as published",),
    timed=5,
)


@pytest.fixture(scope="module")
def bundle(keras_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network that tells squares apart, behind all three defences."""
    directory = tmp_path_factory.mktemp("bundles") / "squares"
    directory.mkdir()
    shutil.copy(keras_file, directory / "model.keras")
    defences = [
        {"name": "total_variation", "mode": "enforce", "weight": 0.05, "keep_probability": 0.9},
        STRIP,
        {"name": "reverse_sigmoid", "mode": "enforce"},
    ]
    calibration = {
        "strip_calibrated_for": np.array(calibrated_for(STRIP)),
        "strip_overlays": np.rint(squares(8, seed=5).images * 255).astype(np.uint8),
        "strip_threshold": np.array(0.02),
        "strip_slack": np.zeros(3),
    }
    declared = settings(*defences, **SQUARES) | {"name": "squares"}
    write_bundle(directory, settings=declared, calibration=calibration, card={})
    return directory


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,000 images, of which 12 are attacked, 150 held back."""
    path = tmp_path_factory.mktemp("data") / "squares.npz"
    some = squares(1000, seed=21)
    np.savez(path, images=np.rint(some.images * 255).astype(np.uint8), labels=some.labels)
    return path


@pytest.fixture(autouse=True)
def _a_tiny_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUDGETS, "quick", TINY)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first run writes; the others find what it found."""
    return tmp_path_factory.mktemp("evaluated")


def evaluate(hauberk: Command, bundle: Path, data: Path, out: Path, **options: Any) -> Ran:
    given = {"budget": "quick", "threads": 2} | options
    more = [f"--{name}={value}" for name, value in given.items()]
    return hauberk("evaluate", "--bundle", bundle, "--data", data, "--out", out, *more)


@pytest.fixture
def report(hauberk: Command, bundle: Path, data: Path, out: Path) -> Report:
    ran = evaluate(hauberk, bundle, data, out)
    assert ran.code == 0, ran.errors
    return REPORT.validate_json((out / "report.json").read_bytes())


def steady(path: Path) -> dict[str, Any]:
    """report.json without what differs from run to run: when, how long, how fast."""
    found: dict[str, Any] = json.loads(path.read_text())
    for name in ("created", "seconds"):
        del found[name]
    for row in found["benign"]:
        del row["latency"]
    for one in found["verdict"]["variants"]:
        del one["more_ms"]
    found["verdict"]["summary"] = re.sub(r"\d+\.\d\d ms", "so many ms", found["verdict"]["summary"])
    return found


def test_every_attack_meets_every_stack_and_the_worst_case_is_no_better_than_any(report: Report) -> None:
    variants = ["none", "total_variation", "strip", "reverse_sigmoid", "full stack"]
    assert [row.variant for row in report.benign] == variants
    attacks = {"clean", "jsma", "noise", "fgm", "bim", "pgd", "transfer", "square", "hop_skip_jump", "bpda_eot"}
    attacks |= {"bpda_eot_with_secret"}
    radii = {round(2 / 255, 6), round(8 / 255, 6)}
    for variant in variants:
        rows = [row for row in report.evasion if row.variant == variant]
        blurred = {"square_unblurred"} if variant in ("reverse_sigmoid", "full stack") else set()
        assert {row.attack for row in rows} == attacks | blurred
        assert {round(row.eps, 6) for row in rows if row.eps is not None} == radii
        for worst in (row for row in report.worst_case if row.variant == variant):
            others = [row.robustness for row in rows if row.eps == worst.eps]
            assert worst.robustness.abstention_safe.rate <= min(other.abstention_safe.rate for other in others)
            assert worst.robustness.abstention_failure.rate <= min(other.abstention_failure.rate for other in others)


def test_the_verdict_is_that_of_the_tables(report: Report) -> None:
    assert [one.variant for one in report.verdict.variants] == [row.variant for row in report.benign[1:]]
    plain = {row.eps: row.robustness for row in report.worst_case if row.variant == "none"}
    for one, row in zip(report.verdict.variants, report.benign[1:], strict=True):
        evasion = [gain for gain in one.gains if gain.against.startswith("evasion")]
        defended = {worst.eps: worst.robustness for worst in report.worst_case if worst.variant == one.variant}
        for gain, eps in zip(evasion, sorted(plain), strict=True):
            assert gain.without == pytest.approx(1 - plain[eps].abstention_safe.rate)
            assert gain.defended == pytest.approx(1 - defended[eps].abstention_safe.rate)
            assert gain.less.low <= gain.less.value <= gain.less.high
        assert one.accuracy_lost.value == pytest.approx(report.benign[0].accuracy.rate - row.accuracy.rate)
        assert one.worth == any(gain.less.low > 0 for gain in one.gains)
    assert "jsma" in report.verdict.left_out_of_the_worst_case


def test_the_other_sections_are_there(report: Report) -> None:
    assert {row["kind"] for row in report.backdoors} == {"corner_pattern"}
    assert {row["victim"] for row in report.extraction} == {"none", "reverse_sigmoid", "full stack"}
    assert {row["queries"] for row in report.extraction} == {30, 60}
    assert {row["victim"] for row in report.membership} == {"none", "full stack"}
    assert len({(point.eps, point.variant, point.kind) for point in report.curves}) == 2 * 5 * 3
    assert not report.left_out
    assert len(report.checks) == 6


def test_a_second_call_finds_everything_found_and_says_the_same(
    hauberk: Command, bundle: Path, data: Path, out: Path, report: Report
) -> None:
    before, kept = steady(out / "report.json"), sorted(out.rglob("*.json"))
    times = [file.stat().st_mtime_ns for file in kept if file.parent.name != out.name]
    assert evaluate(hauberk, bundle, data, out).code == 0
    assert steady(out / "report.json") == before
    assert [file.stat().st_mtime_ns for file in kept if file.parent.name != out.name] == times


def test_two_runs_with_one_seed_agree(
    hauberk: Command, bundle: Path, data: Path, out: Path, report: Report, tmp_path: Path
) -> None:
    assert evaluate(hauberk, bundle, data, tmp_path / "again").code == 0
    assert steady(tmp_path / "again" / "report.json") == steady(out / "report.json")


def test_the_page_loads_nothing_and_has_a_picture_of_every_section(out: Path, report: Report) -> None:
    page = (out / "report.html").read_text()
    assert page.count("<svg") == 3
    assert "Checks on this evaluation" in page
    for attribute in re.findall(r'(?:src|href)="([^"]*)"', page):
        assert attribute.startswith("#"), attribute
    assert "http-equiv" in page
    unclosed: list[str] = []

    class Nesting(HTMLParser):
        def handle_starttag(self, tag: str, attrs: Any) -> None:
            if tag not in ("meta", "br"):
                unclosed.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert unclosed.pop() == tag

    Nesting().feed(page)
    assert unclosed == []


def test_the_summary_says_what_was_found(hauberk: Command, bundle: Path, data: Path, out: Path, report: Report) -> None:
    printed = evaluate(hauberk, bundle, data, out).output
    first = " ".join(printed.split())
    assert first.startswith(f"squares {report.bundle['version']}, 12 images attacked: All defences together cost ")
    assert report.verdict.summary in first
    assert printed.index("worst case of these") < printed.index("jsma, not within eps")
    for said in (
        "worst case of these",
        "jsma, not within eps",
        "backdoor corner_pattern",
        "extraction, full stack",
        "queries and",
        "report.html",
    ):
        assert said in printed


def test_too_few_images_for_a_section_are_said_in_the_report(hauberk: Command, bundle: Path, data: Path, tmp_path: Path) -> None:
    ran = evaluate(hauberk, bundle, data, tmp_path, rows="0:100", eps="0.1")
    assert ran.code == 0, ran.errors
    found = REPORT.validate_json((tmp_path / "report.json").read_bytes())
    assert set(found.left_out) == {"transfer", "backdoors", "extraction", "membership"}
    assert "left out: transfer, backdoors, extraction, membership: needs 600 images" in ran.output
    assert "transfer" not in {row.attack for row in found.evasion}


@pytest.fixture(scope="module")
def graph_bundle(bundle: Path, keras_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same bundle as a graph, without the Keras model."""
    directory = tmp_path_factory.mktemp("bundles") / "graph"
    directory.mkdir()
    (directory / "model.onnx").write_bytes(exported(KerasClassifier(keras_model)).SerializeToString())
    read = read_bundle(bundle)
    classifier = {key: value for key, value in read.settings["classifier"].items() if key != "file"} | {"engine": "onnx"}
    declared = {**read.settings, "classifier": classifier}
    write_bundle(directory, settings=declared, calibration=read.calibration, card={})
    return directory


def test_of_a_graph_the_black_box_half_is_run_and_the_rest_is_named(
    hauberk: Command, graph_bundle: Path, data: Path, tmp_path: Path
) -> None:
    ran = evaluate(hauberk, graph_bundle, data, tmp_path, rows="0:60", eps="0.1")
    assert ran.code == 0, ran.errors
    said = " ".join(ran.output.split())
    assert "This is the black-box half of an evaluation" in said
    assert (
        "left out: jsma, fgm, bim, pgd, bpda_eot, bpda_eot_with_secret, curves of attackers who have the model, checks on" in said
    )
    assert "DOUBT attacks that follow gradients were tried: none was" in said


def test_a_twin_is_compared_before_it_is_believed(
    hauberk: Command, graph_bundle: Path, keras_file: Path, data: Path, tmp_path: Path
) -> None:
    small_network(seed=3).save(tmp_path / "other.keras")
    options = {"rows": "0:60", "eps": "0.1"}
    ran = evaluate(hauberk, graph_bundle, data, tmp_path / "out", gradients=tmp_path / "other.keras", **options)
    assert_refused(ran, "but other.keras gives the same label on")
    ran = evaluate(hauberk, graph_bundle, data, tmp_path / "out", gradients=keras_file, **options)
    assert ran.code == 0, ran.errors
    found = REPORT.validate_json((tmp_path / "out" / "report.json").read_bytes())
    assert found.capabilities == {"engine": "ONNX", "activations": True, "gradients": "twin", "training": True}
    assert {"pgd", "bpda_eot"} <= {row.attack for row in found.evasion}
    assert "black-box" not in ran.output


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"budget": "huge"}, "expected --budget quick, standard or full, got 'huge'"),
        ({"eps": "0"}, "expected --eps with radii in (0, 1]"),
        ({"eps": "1/0"}, "expected --eps with radii in (0, 1]"),
        ({"eps": "a,b"}, "expected --eps with radii in (0, 1]"),
        ({"eps": "nan"}, "expected --eps with radii in (0, 1]"),
        ({"rows": "0:10"}, "expected at least 20 images to evaluate on, got 10"),
        ({"split": "both"}, "expected --split train or test"),
    ],
)
def test_bad_options_are_refused(
    hauberk: Command, bundle: Path, data: Path, tmp_path: Path, options: dict[str, str], sentence: str
) -> None:
    assert_refused(evaluate(hauberk, bundle, data, tmp_path, **options), sentence)


def test_data_that_the_bundle_was_calibrated_on_are_told(
    hauberk: Command, bundle: Path, data: Path, tmp_path: Path, report: Report
) -> None:
    assert report.warnings == []
    assert report.data["split"] is None  # a file with images and labels has no test half
    directory = shutil.copytree(bundle, tmp_path / "calibrated")
    used = {"file": "squares.npz", "sha256": sha256_of(data), "split": None, "rows": "90:400"}
    record(read_bundle(directory), "calibration", {"data": used})
    ran = evaluate(hauberk, directory, data, tmp_path, rows="0:100", eps="0.1")
    assert ran.code == 0, ran.errors
    [warning] = REPORT.validate_json((tmp_path / "report.json").read_bytes()).warnings
    assert warning == "10 of these images are among those the bundle was calibrated on: squares.npz, rows 90:400"
    assert f"warning: {warning}" in ran.output
    assert f"Warning: {warning}." in (tmp_path / "report.html").read_text()


def test_a_classifier_that_guesses_on_the_data_is_refused(hauberk: Command, bundle: Path, tmp_path: Path) -> None:
    some = squares(200, seed=22)
    np.savez(tmp_path / "turned.npz", images=some.images, labels=(some.labels + 1) % 3)
    ran = evaluate(hauberk, bundle, tmp_path / "turned.npz", tmp_path)
    assert_refused(ran, "with its classes in another order it is right on 100.0 %")
    assert not (tmp_path / "report.json").exists()


def test_data_that_do_not_fit_the_bundle_are_refused(hauberk: Command, bundle: Path, data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.npz"
    np.savez(other, images=np.zeros((30, 8, 8, 3), np.uint8), labels=np.zeros(30, int))
    assert_refused(evaluate(hauberk, bundle, other, tmp_path), "expected images of the bundle's shape (16, 16, 3), got (8, 8, 3)")
    np.savez(other, images=np.zeros((30, 16, 16, 3), np.uint8), labels=np.full(30, 3))
    assert_refused(evaluate(hauberk, bundle, other, tmp_path), "expected labels below 3, the classes of the bundle, got 3")
    np.savez(other, pictures=np.zeros(3))
    assert_refused(evaluate(hauberk, bundle, other, tmp_path), "to hold images and labels")
    assert_refused(evaluate(hauberk, tmp_path / "none", data, tmp_path), "expected a bundle directory")
