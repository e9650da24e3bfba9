"""Every package that the wheel's modules import is declared in pyproject.toml, and nothing is declared that they do not need."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SHIPPED = {name.rstrip("*") for name in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]}
# Where a distribution has another name than what is imported; of several prefixes of a module the longest counts.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "opentelemetry": "opentelemetry-api",
    "opentelemetry.exporter.otlp.proto.http": "opentelemetry-exporter-otlp-proto-http",
    "opentelemetry.sdk": "opentelemetry-sdk",
    "prometheus_client": "prometheus-client",
    "sklearn": "scikit-learn",
}
# What no module of ours imports.
USED_BY_OTHERS = {
    "uvloop": "uvicorn's event loop where it is installed",
    "starlette": "BentoML's application, in whose place the gateway puts its own",
    "dask": "joblib's backend of that name",
}
# Parts of these are used that are not public: a new version may change them without saying so.
WITH_A_CEILING = {"bentoml", "uvicorn", "starlette", "opentelemetry-exporter-otlp-proto-http"}
# Commands look for the extra before these are imported, or these do, and say what to install.
MAY_IMPORT_AN_EXTRA = ("evaluation/reporting/", "evaluation/scanning/", "service/observing/tracing.py")


def _names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower() for requirement in requirements}


REQUIRED = _names(PROJECT["project"]["dependencies"])
OPTIONAL = [wanted for name, extra in PROJECT["project"]["optional-dependencies"].items() if name != "dev" for wanted in extra]
EXTRAS = {name: _names(wanted) for name, wanted in PROJECT["project"]["optional-dependencies"].items() if name != "dev"}


def imported(file: Path) -> set[str]:
    """Every module that a file imports anywhere, with dots."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def distribution(module: str) -> str:
    """What has to be installed for a module."""
    parts = module.split(".")
    prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((DISTRIBUTIONS[prefix] for prefix in prefixes if prefix in DISTRIBUTIONS), parts[0])


def third_party(package: str) -> set[tuple[str, str]]:
    """The distributions a package of ours imports, each with a file that does."""
    return {
        (distribution(module), file.relative_to(ROOT).as_posix())
        for file in (ROOT / package).rglob("*.py")
        for module in imported(file)
        if module.split(".")[0] not in SHIPPED | sys.stdlib_module_names
    }


EVERYTHING = {found for package in SHIPPED for found in third_party(package)}


def test_every_package_that_is_imported_is_declared() -> None:
    declared = REQUIRED.union(*EXTRAS.values())
    assert len(EVERYTHING) > 100
    assert {(name, file) for name, file in EVERYTHING if name not in declared} == set()


def test_nothing_is_declared_that_no_module_needs() -> None:
    assert REQUIRED.union(*EXTRAS.values()) == {name for name, _ in EVERYTHING} | set(USED_BY_OTHERS)


def test_an_extra_is_imported_only_where_its_absence_is_told() -> None:
    optional = set().union(*EXTRAS.values())
    assert not REQUIRED & optional
    for name, file in EVERYTHING:
        assert name not in optional or file.startswith(MAY_IMPORT_AN_EXTRA), (name, file)


@pytest.mark.parametrize("name", sorted(WITH_A_CEILING))
def test_packages_whose_inner_parts_are_used_have_a_ceiling(name: str) -> None:
    [requirement] = [wanted for wanted in (*PROJECT["project"]["dependencies"], *OPTIONAL) if wanted.startswith(name)]
    assert re.search(r",<\d", requirement), requirement
