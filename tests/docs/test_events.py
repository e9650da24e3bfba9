"""docs/events.md tells of every event there is: lines of the audit log, of the log, spans."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from defences.table import DEFENCES
from service.observing.mitre_atlas import REFUSALS, of_defences
from tests.unit.service.audit_lines import SCHEMA, read

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "events.md").read_text()


def section(heading: str) -> str:
    return PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def messages() -> Iterator[str]:
    """What the service logs, with dots for what is put in."""
    for file in (ROOT / "service").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("logger.") and node.args:
                message = node.args[0]
                if isinstance(message, ast.Constant) and isinstance(message.value, str):
                    yield re.sub("%[sd]", "...", message.value)


def test_the_examples_are_lines_of_the_schema() -> None:
    (examples,) = re.findall(r"```json\n(.+?)```", PAGE, re.DOTALL)
    events = read(examples.splitlines())
    assert [event["event"] for event in events] == ["decision", "refusal"]


def test_every_member_of_the_schema_is_in_the_table_and_no_other() -> None:
    table = section("The audit log").split("### ")[0]
    told = {name for cell in re.findall(r"^\| (`.+?`) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", cell)}
    parts = [SCHEMA, *(part for name, part in SCHEMA["$defs"].items() if "properties" in part)]
    assert told == {name for part in parts for name in part["properties"]}


def test_every_id_is_in_the_table_beside_its_defence_or_refusal() -> None:
    table = section("The audit log").split("### ATLAS ids")[1].split("### ")[0]
    for name, atlas in ({name: of_defences([name]) for name in DEFENCES} | {**REFUSALS}).items():
        (row,) = [line for line in table.splitlines() if line.startswith("|") and f"`{name}`" in line.split("|")[1]]
        assert re.findall(r"AML\.M\d+", row) == list(atlas.mitigations)
        assert re.findall(r"AML\.T[\d.]*\d", row) == list(atlas.techniques)


def test_every_line_the_service_logs_is_documented() -> None:
    told = re.findall(r"^\| `(.+?)` \| (?:info|warning|error)", section("The log"), re.MULTILINE)
    assert "request" in told
    found = sorted(messages())
    assert len(found) > 10
    for message in found:
        assert any(message == event or (event.endswith("...") and message.startswith(event[:-3].rstrip())) for event in told), (
            message
        )
