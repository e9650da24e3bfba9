"""The documents say what the code does: settings, metrics, error codes, commands."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry

from defences.networks.findings import JudgedClass
from defences.poison.findings import ClassFindings, Cluster, Confusion
from defences.table import DEFENCES
from evaluation.red_team.attack_report import (
    AttackedGateway,
    AttackOptions,
    AttackReport,
    EvasionResult,
    Finding,
    Queries,
    TheftResult,
)
from evaluation.red_team.campaign import ATTACKS
from evaluation.reporting import report
from evaluation.scanning.network_report import NetworkReport
from evaluation.scanning.scan_report import MethodReport, ScanReport
from hauberk.commands.evaluate import evaluate
from hauberk.commands.scan import METHODS, scan
from service.errors import every_problem
from service.observing.metrics import Metrics
from service.settings import SETTINGS, table

ROOT = Path(__file__).parents[2]
OPERATING = (ROOT / "docs" / "settings.md").read_text()
README = (ROOT / "README.md").read_text()


def test_every_setting_is_documented_with_its_default_in_the_words_of_its_own_table() -> None:
    assert f"\n{table()}\n" in OPERATING


def test_no_setting_is_documented_that_does_not_exist() -> None:
    documented = set(re.findall(r"^\| `(HAUBERK_\w+)`", OPERATING, re.MULTILINE))
    assert documented == {setting.name for setting in SETTINGS}


def test_every_metric_is_documented_and_no_other() -> None:
    registry = CollectorRegistry()
    Metrics(registry, labels=("a", "b"), build=("0", "m", "v"))
    exported = set()
    for family in registry.collect():
        exported.add(family.name + ("_total" if family.type == "counter" else ""))
    documented = set(re.findall(r"^\| `(hauberk_\w+)` \|", OPERATING, re.MULTILINE))
    assert documented == exported


def test_every_error_code_is_documented() -> None:
    rows = re.findall(r"^\| (\d{3}) \| (.+?) \|", OPERATING, re.MULTILINE)
    documented = {(int(status), code) for status, codes in rows for code in re.findall(r"`(\w+)`", codes)}
    assert documented == {(problem.status, problem.code) for problem in every_problem()}


def test_every_attack_and_every_field_of_its_report_is_documented() -> None:
    page = (ROOT / "docs" / "attacking.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) >= set(ATTACKS)
    section = page.split("## report.json")[1].split("## From Python")[0]
    told = set(re.findall(r"`(\w+)`", section))
    for model in (AttackReport, AttackedGateway, AttackOptions, Queries, EvasionResult, TheftResult, Finding):
        assert set(model.model_fields) <= told, model.__name__


def test_every_attacker_option_and_field_of_an_evaluation_is_documented() -> None:
    page = (ROOT / "docs" / "evaluation.md").read_text()
    told = set(re.findall(r"`([\w-]+)`", page))
    assert set(report.KNOWS) - {"clean"} <= told
    assert {field.name for field in dataclasses.fields(report.Report)} <= told
    assert {f"--{name}" for name in inspect.signature(evaluate).parameters} <= told


def test_every_option_and_field_of_a_scan_is_documented() -> None:
    page = (ROOT / "docs" / "scanning.md").read_text()
    told = set(re.findall(r"`([\w-]+)`", page))
    assert {f"--{name.replace('_', '-')}" for name in inspect.signature(scan).parameters} <= told
    for values in (ScanReport, MethodReport, Confusion, ClassFindings, Cluster, NetworkReport, JudgedClass):
        assert {field.name for field in dataclasses.fields(values)} <= told, values.__name__
    assert set(METHODS) <= told


@pytest.mark.parametrize(
    "module", ["calibration.conformal", "calibration.evasion", "postprocessors.reverse_sigmoid", "purifiers.total_variation"]
)
def test_the_examples_in_docstrings_are_true(module: str) -> None:
    results = doctest.testmod(importlib.import_module(f"defences.{module}"))
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize("name", DEFENCES)
def test_every_defence_has_a_page_that_says_what_beats_it(name: str) -> None:
    page = (ROOT / "docs" / "defences" / f"{name}.md").read_text()
    assert "**What beats it**" in page
    assert "**What it costs**" in page


def test_every_file_and_folder_that_contributing_names_exists() -> None:
    named = re.findall(r"`((?:[\w-]+/)+(?:[\w-]+\.\w+)?|(?:[\w-]+/)+[\w-]+)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert "defences/table.py" in named
    for path in named:
        assert (ROOT / path).exists(), path


DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
PACKAGES = "attacks|benchmarks|defences|deploy|evaluation|hauberk|lab|loadtest|models|service|tests"
WRITTEN_LATER = ("deploy/secrets",)
TRACE_ATTRIBUTES = {"service.name", "service.version"}


def paths_in(text: str) -> set[str]:
    """Paths below our folders, from the root; a pattern (`tests/*`, `NAME`) is none."""
    found = re.findall(rf"(?<![\w./@{{-])((?:{PACKAGES}|docs)/[\w./-]+)(?![\w*{{])", text)
    return {path.rstrip(".") for path in found if not path.startswith(WRITTEN_LATER)}


def modules_in(text: str) -> set[str]:
    """Dotted names below our packages. `hauberk.x` counts where it is run: alone it may be a trace attribute or hauberk.toml."""
    named = re.findall(rf"(?<![\w./-])((?:{PACKAGES})(?:\.[A-Za-z_]\w*)+)(?![\w/-])", text)
    modules = {name for name in named if not re.fullmatch(r"hauberk\.\w+|\w+\.(md|toml)", name)}
    return (modules | set(re.findall(r"python -m (hauberk\.[\w.]*\w)", text))) - TRACE_ATTRIBUTES


def exists(dotted: str) -> bool:
    """Whether a dotted name is a package, a module, or a name that a module's text contains."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:end])
        module = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        if module.exists():
            text = module.read_text(encoding="utf-8")
            return all(re.search(rf"\b{name}\b", text) for name in parts[end:])
    return False


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_every_path_and_module_of_ours_that_a_document_names_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    missing = {path for path in paths_in(text) if not (ROOT / path).exists() and not (document.parent / path).exists()}
    assert missing | {name for name in modules_in(text) if not exists(name)} == set()


def test_a_path_or_module_that_does_not_exist_is_found() -> None:
    assert paths_in("see `attacks/backdoor.py` and docs/limits.md.") == {"attacks/backdoor.py", "docs/limits.md"}
    assert modules_in("`python -m benchmarks.robustness BUNDLE`, `hauberk.compile`") == {"benchmarks.robustness"}
    assert not exists("benchmarks.robustness")
    assert not exists("service.errors.NoSuchProblem")
    assert exists("service.errors.every_problem")


def test_every_link_in_the_documents_leads_somewhere() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            assert target.startswith("https://") or (document.parent / target).exists(), f"{document.name}: {target}"


def test_every_make_target_the_documents_name_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        for target in re.findall(r"\bmake ([a-z-]+)[`\n]", document.read_text()):
            assert target in targets, f"{document.name}: make {target}"


def test_the_curl_of_the_readme_returns_the_answer_it_shows(bundled_server: str) -> None:
    command = next(line for line in README.splitlines() if line.startswith("curl "))
    here = command.replace("http://127.0.0.1:3000", bundled_server)
    answer = json.loads(subprocess.run(here, shell=True, cwd=ROOT, check=True, capture_output=True, text=True).stdout)  # noqa: S602
    shown = json.loads(README.split("```json\n")[1].split("```")[0])
    for told in (answer, shown):
        del told["request_id"]
    assert answer.pop("predictions")[0]["label"] == shown.pop("predictions")[0]["label"]
    assert answer == shown


def test_the_python_of_the_readme_runs(bundled_server: str) -> None:
    code = README.split("```python\n")[1].split("```")[0].replace("http://127.0.0.1:3000", bundled_server)
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "predictions" in printed


def test_the_served_openapi_names_the_routes_the_documents_name(bundled_server: str) -> None:
    documented = set(re.findall(r"`(?:GET|POST) (/[\w./{}]*)`", OPERATING))
    assert set(httpx.get(f"{bundled_server}/docs.json").json()["paths"]) <= documented
