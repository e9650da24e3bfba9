"""The tutorial's notebooks run, hold what they showed at full size, and their page quotes what they found."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial"
NOTEBOOKS = ("backdoor", "evasion", "extraction", "hardening", "poison")
PAGE = (TUTORIAL / "README.md").read_text(encoding="utf-8")

# "16.16 % <!-- backdoor.refused_percent -->": the number, and which result of which notebook it is.
QUOTED = re.compile(r"(\d[\d,]*(?:\.\d+)?)[^\d|<>]*<!-- (\w+)\.([\w.]+) -->")


def read(name: str) -> dict[str, Any]:
    notebook: dict[str, Any] = json.loads((TUTORIAL / f"{name}.ipynb").read_text(encoding="utf-8"))
    return notebook


def outputs(name: str) -> list[dict[str, Any]]:
    return [output for cell in read(name)["cells"] for output in cell.get("outputs", [])]


def results(name: str) -> dict[str, Any]:
    (cell,) = (cell for cell in read(name)["cells"] if "results" in cell["metadata"].get("tags", []))
    found: dict[str, Any] = json.loads("".join(cell["outputs"][0]["text"]))
    return found


def test_the_table_of_this_test_has_every_notebook() -> None:
    assert {path.stem for path in TUTORIAL.glob("*.ipynb")} == set(NOTEBOOKS)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_at_reduced_size_and_writes_nothing_to_stderr(name: str) -> None:
    before = (TUTORIAL / f"{name}.ipynb").read_bytes()
    command = [sys.executable, str(TUTORIAL / "execute.py"), "--reduced", name]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    assert (TUTORIAL / f"{name}.ipynb").read_bytes() == before


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_holds_the_outputs_of_one_run_from_its_first_cell_to_its_last(name: str) -> None:
    cells = [cell for cell in read(name)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert "error" not in [output["output_type"] for output in outputs(name)]
    assert "stderr" not in [output.get("name") for output in outputs(name)]
    assert sum("image/png" in output.get("data", {}) for output in outputs(name)) >= 2


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_says_nothing_of_the_machine_it_was_run_on(name: str) -> None:
    notebook = read(name)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    assert notebook["metadata"] == {"kernelspec": kernel, "language_info": {"name": "python"}}
    for cell in notebook["cells"]:
        assert set(cell["metadata"]) <= {"tags"}
        assert re.fullmatch(r"[a-z-]+", cell["id"]), cell["id"]
    for output in outputs(name):
        assert not output.get("metadata")
        told = "".join([*output.get("text", []), *output.get("data", {}).get("text/plain", [])])
        assert not re.search(r"(^|[\s'\"=(])/\w+/|0x[0-9a-f]{6,}|[A-Z]:\\", told), told


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_page_quotes_what_a_notebook_found(name: str) -> None:
    found = results(name)
    quoted = [(number, key) for number, notebook, key in QUOTED.findall(PAGE) if notebook == name]
    assert quoted
    for number, key in quoted:
        decimals = len(number.partition(".")[2])
        assert number == f"{found[key]:,.{decimals}f}", key


def test_every_mark_on_the_page_is_understood() -> None:
    assert len(re.findall("<!--", PAGE)) == len(QUOTED.findall(PAGE))
    assert {name for _, name, _ in QUOTED.findall(PAGE)} == set(NOTEBOOKS)
