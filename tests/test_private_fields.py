"""A field that begins with an underscore is computed by its class: nobody may pass it, and nobody is shown it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from defences.detectors.strip import Strip

ROOT = Path(__file__).parents[1]
OURS = ("models", "defences", "service", "hauberk", "attacks", "evaluation", "loadtest", "benchmarks")


def private_fields() -> Iterator[tuple[str, ast.AnnAssign]]:
    """Every annotated private name in the body of a dataclass, with its place; class variables are no fields."""
    for file in (file for folder in OURS for file in sorted((ROOT / folder).rglob("*.py"))):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(each) for each in node.decorator_list):
                fields = [each for each in node.body if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)]
                for each in fields:
                    name = ast.unparse(each.target)
                    if name.startswith("_") and not ast.unparse(each.annotation).startswith("ClassVar"):
                        yield f"{file.relative_to(ROOT)}: {node.name}.{name}", each


def test_private_fields_of_dataclasses_are_neither_parameters_nor_shown() -> None:
    found = dict(private_fields())
    assert any("Strip._bank" in place for place in found)
    for place, node in found.items():
        assert isinstance(node.value, ast.Call), place
        options = {option.arg: ast.unparse(option.value) for option in node.value.keywords}
        assert ast.unparse(node.value.func) == "field", place
        assert (options.get("init"), options.get("repr")) == ("False", "False"), place


def test_a_private_field_that_is_passed_is_refused() -> None:
    make: Any = Strip
    given = {"overlays": np.zeros((2, 2, 2, 1), np.uint8), "threshold": 0.0, "stages": (2,), "slack": (0.0,)}
    assert "_bank" not in repr(make(**given))
    with pytest.raises(TypeError, match="_bank"):
        make(**given, _bank=np.zeros((2, 4), np.float32))
