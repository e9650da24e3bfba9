"""Every package that the wheel's modules import is declared in pyproject.toml, and nothing is declared that they do not need."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

from hauberk.mistakes import missing_extra

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SHIPPED = {name.rstrip("*") for name in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]}
# Where a distribution has another name than what is imported; of several prefixes of a module the longest counts.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "_bentoml_impl": "bentoml",
    "opentelemetry": "opentelemetry-api",
    "opentelemetry.exporter.otlp.proto.http": "opentelemetry-exporter-otlp-proto-http",
    "opentelemetry.sdk": "opentelemetry-sdk",
    "prometheus_client": "prometheus-client",
    "sklearn": "scikit-learn",
}
# What no module of ours imports.
USED_BY_OTHERS = {
    "uvloop": "uvicorn's event loop where it is installed",
    "onnxscript": "PyTorch's exporter of ONNX",
    "dask": "joblib's backend of that name",
}
# Parts of these are used that are not public: a new version may change them without saying so.
WITH_A_CEILING = {"bentoml", "uvicorn", "starlette", "opentelemetry-exporter-otlp-proto-http"}
# Commands look for the extra before these are imported, or these do, and say what to install.
MAY_IMPORT_AN_EXTRA = ("evaluation/reporting/", "evaluation/scanning/", "service/observing/tracing.py", "lab/rendering.py")
# `hauberk.mistakes.missing_extra` says what to install for these, wherever a command comes upon them.
SAID_BY_EVERY_COMMAND = {"tensorflow", "keras", "tf2onnx", "h5py", "onnx", "onnxscript", "skl2onnx", "skops", "torch"}
# What a server runs, beside service/: the bundle, its graph, the defences that its requests meet, and the kernels' compilation.
SERVER = (
    "service/",
    "models/bundle.py",
    "models/engines/onnx.py",
    "models/engines/remote/",
    "models/pictures/",
    "defences/detectors/",
    "defences/purifiers/",
    "hauberk/compile.py",
)


def _names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower() for requirement in requirements}


REQUIRED = _names(PROJECT["project"]["dependencies"])
SERVING = PROJECT["dependency-groups"]["serving"]
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
        told = name in SAID_BY_EVERY_COMMAND or file.startswith(MAY_IMPORT_AN_EXTRA)
        assert name not in optional or told, (name, file)


def test_every_command_says_which_extra_brings_a_framework() -> None:
    for name in SAID_BY_EVERY_COMMAND:
        [extra] = re.findall(r'pip install "hauberk\[(.*)\]"', missing_extra(ModuleNotFoundError(name=f"{name}.inner")) or "")
        assert name in EXTRAS[extra]
    assert missing_extra(ModuleNotFoundError(name="numpy")) is None


def test_a_server_is_installed_with_what_it_imports_and_nothing_else() -> None:
    used = {name for name, file in EVERYTHING if file.startswith(SERVER)} - EXTRAS["tracing"]
    assert _names(SERVING) == used | {"uvloop", "starlette"}
    assert set(SERVING) <= set(PROJECT["project"]["dependencies"])


def locked(name: str) -> set[str]:
    """The packages of a lock file, each with its version."""
    return {re.split(r"[ ;]", line)[0] for line in (ROOT / name).read_text().splitlines() if re.match(r"[a-z0-9]", line)}


def test_the_packages_of_a_server_are_locked_as_those_of_everybody_and_without_a_framework() -> None:
    runtime, everything = (locked(name) for name in ("requirements.runtime.lock", "requirements.lock"))
    names, all_names = ({line.split("==")[0] for line in lines} for lines in (runtime, everything))
    assert runtime <= everything
    assert _names(SERVING) <= names
    assert not names & (SAID_BY_EVERY_COMMAND | {"scikit-learn", "scipy"})
    assert SAID_BY_EVERY_COMMAND - EXTRAS["torch"] <= all_names


@pytest.mark.parametrize("name", sorted(WITH_A_CEILING))
def test_packages_whose_inner_parts_are_used_have_a_ceiling(name: str) -> None:
    [requirement] = [wanted for wanted in (*PROJECT["project"]["dependencies"], *OPTIONAL) if wanted.startswith(name)]
    assert re.search(r",<\d", requirement), requirement
