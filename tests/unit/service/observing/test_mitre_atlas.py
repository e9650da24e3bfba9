"""Every part has the names security teams know it by."""

from __future__ import annotations

import re
from pathlib import Path

from defences.table import DEFENCES
from service.errors import every_problem
from service.observing.mitre_atlas import REFUSALS, of_defences
from tests.unit.service.audit_lines import SCHEMA

THREATS = (Path(__file__).parents[4] / "docs" / "threat-model.md").read_text()


def test_every_defence_has_ids_of_the_form_atlas_has() -> None:
    of_each = [of_defences([name]) for name in DEFENCES]
    for entry in of_each:
        assert entry.mitigations
        assert entry.techniques
    for entry in (*of_each, *REFUSALS.values()):
        assert all(re.fullmatch(r"AML\.M\d{4}", mitigation) for mitigation in entry.mitigations)
        assert all(re.fullmatch(r"AML\.T\d{4}(\.\d{3})?", technique) for technique in entry.techniques)


def test_the_threat_model_names_the_same_ids_for_a_defence() -> None:
    for name, defence in DEFENCES.items():
        for row in THREATS.splitlines():
            if row.lower().startswith(f"| {name.replace('_', ' ')} | aml"):
                told = re.findall(r"\bAML\.[MT]\d{4}(?:\.\d{3})?", row)
                assert told == [*defence.record.mitigations, *defence.record.techniques]


def test_the_refusals_told_of_are_problems_and_those_of_the_schema() -> None:
    assert set(REFUSALS) <= {problem.code for problem in every_problem()}
    assert SCHEMA["$defs"]["refusal"]["properties"]["code"]["enum"] == list(REFUSALS)


def test_ids_of_several_defences_come_once_each_and_an_unknown_one_adds_none() -> None:
    together = of_defences(["strip", "sentinet", "something new"])
    assert together == of_defences(["sentinet"])
    assert of_defences([]).techniques == ()
