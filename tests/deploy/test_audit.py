"""deploy/audit.py and `make sbom`: a service that was not reached never looks like a clean answer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.audit import CANNOT, UNREACHED, VULNERABLE, main, verdict
from tests.service.conftest import ROOT

CLEAN = {"name": "numpy", "version": "1.0", "vulns": []}
KNOWN = {"name": "pillow", "version": "2.0", "vulns": [{"id": "PYSEC-2023-1", "fix_versions": ["2.1"]}]}
SKIPPED = {"name": "keras", "skip_reason": "Dependency not found on PyPI and could not be audited: keras (3.0)"}


def test_only_a_service_that_answered_for_every_package_makes_it_pass() -> None:
    assert verdict(json.dumps({"dependencies": [CLEAN]}), "") == (0, "audit: no vulnerability is known of 1 packages")


def test_a_known_vulnerability_is_named_with_its_fix() -> None:
    code, text = verdict(json.dumps({"dependencies": [CLEAN, KNOWN, SKIPPED]}), "")
    assert code == VULNERABLE
    assert "pillow 2.0: PYSEC-2023-1, fixed in 2.1" in text
    assert "did not answer for 1 of 3 packages: keras" in text


@pytest.mark.parametrize(
    "report", ["", "{}", "[", json.dumps({"dependencies": [CLEAN, SKIPPED]}), json.dumps({"dependencies": []})]
)
def test_a_service_that_did_not_answer_has_an_exit_code_of_its_own(report: str) -> None:
    code, text = verdict(report, "ERROR: connection refused")
    assert code == UNREACHED
    assert "could not be reached" in text or "did not answer" in text


def test_a_wrong_call_is_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == CANNOT
    assert "expected one file" in capsys.readouterr().err


def test_the_bill_of_materials_names_everything_a_bento_installs(tmp_path: Path) -> None:
    options = ["--pyproject", "pyproject.toml", "--mc-type", "application", "--spec-version", "1.6", "--output-reproducible"]
    out = tmp_path / "sbom.json"
    command = [sys.executable, "-m", "cyclonedx_py", "requirements", *options, "-o", str(out), "requirements.runtime.lock"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    bill = json.loads(out.read_text())
    locked = {line.split("==")[0] for line in (ROOT / "requirements.runtime.lock").read_text().splitlines() if "==" in line}
    locked = {name for name in locked if not name.startswith((" ", "#"))}
    assert bill["specVersion"] == "1.6"
    assert bill["metadata"]["component"]["name"] == "hauberk"
    assert {component["name"] for component in bill["components"]} == locked
    assert all(component["purl"].startswith("pkg:pypi/") for component in bill["components"])
