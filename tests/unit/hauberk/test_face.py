"""`import hauberk`: every name it offers, what importing it does not import, and how long that takes."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import hauberk

ROOT = Path(hauberk.__file__).parents[1]
HEAVY = ("tensorflow", "keras", "numpy", "numba", "scipy", "bentoml", "pydantic", "matplotlib")
PACKAGES = ("attacks", "defences", "evaluation", "hauberk", "models", "service")


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", hauberk.__all__)
def test_every_name_of_the_face_is_there_and_is_documented(name: str) -> None:
    value = getattr(hauberk, name)
    assert name in dir(hauberk)
    assert not hasattr(value, "__path__")
    if inspect.isclass(value) or inspect.isfunction(value):
        assert value.__doc__


def test_importing_the_face_imports_nothing_heavy_and_no_other_module_of_ours() -> None:
    code = (
        "import sys; import hauberk; "
        f"print(sorted(name for name in sys.modules if name.partition('.')[0] in {(*HEAVY, *PACKAGES)}))"
    )
    assert python(code).strip() == "['hauberk']"


def test_composing_defences_imports_no_framework_and_no_server() -> None:
    code = (
        "import sys; from hauberk import DefendedClassifier, ReverseSigmoid, Step, Strip, TotalVariation; "
        "print([name for name in ('tensorflow', 'keras', 'bentoml', 'prometheus_client', 'matplotlib') if name in sys.modules])"
    )
    assert python(code).strip() == "[]"


def test_what_is_not_in_the_face_is_no_attribute_and_the_message_says_where_to_look() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'moat'; docs/library\.md lists"):
        _ = hauberk.moat


def test_type_checkers_are_told_of_the_same_names_in_the_same_places() -> None:
    tree = ast.parse(Path(hauberk.__file__).read_text(encoding="utf-8"))
    [checked] = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    told = {(alias.name, str(node.module)) for node in checked.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert told == set(hauberk._HOME_OF.items())
    assert {name for name, _ in told} == set(hauberk.__all__)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_says_that_it_is_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()


def test_every_name_of_the_face_is_in_its_page() -> None:
    page = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    assert [name for name in hauberk.__all__ if f"`{name}`" not in page] == []
