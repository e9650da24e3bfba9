"""The layers point one way, between packages, between the folders of a package, and between modules.

    models <- defences <- service <- hauberk,    attacks -> models, defences,    evaluation -> attacks, defences, models

`MAY_IMPORT` says the rest: a room is a folder, or a module on top of a package that stands on another floor than its neighbours.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "models": {"models"},
    "defences": {"models", "defences"},
    "service": {"models", "defences", "service"},
    "hauberk": {"models", "defences", "service", "hauberk", "attacks", "evaluation", "lab"},
    "attacks": {"models", "defences", "attacks"},
    "evaluation": {"models", "defences", "attacks", "evaluation"},
    "lab": {"models", "defences", "service", "attacks", "evaluation", "lab"},
    "loadtest": {"loadtest"},
    "deploy": {"deploy", "service"},
}
OURS = {*ALLOWED, "benchmarks", "tests"}

MAY_IMPORT = {
    "models": "",
    "models.engines": "models models.engines.reading models.engines.remote",
    "models.engines.reading": "models",
    "models.engines.remote": "models",
    "models.engines.imports": "models models.engines",
    "models.engines.twins": "models models.engines models.engines.reading models.engines.imports",
    "models.engines.kept": "models models.engines models.engines.imports models.engines.remote",
    "models.pictures": "models",
    "models.training": "models models.engines models.engines.twins",
    #
    "defences": "",
    "defences.purifiers": "defences",
    "defences.detectors": "defences",
    "defences.postprocessors": "defences",
    "defences.table": "defences defences.purifiers defences.detectors defences.postprocessors",
    "defences.assembly": "defences defences.table",
    "defences.calibration": "defences defences.purifiers defences.detectors defences.postprocessors "
    "defences.table defences.assembly",
    "defences.poison": "defences",
    "defences.networks": "defences",
    #
    "service": "",
    "service.errors": "",
    "service.bentoml_hooks": "",
    "service.lines": "service.errors",
    "service.distinct": "",
    "service.jobs": "service.lines service.distinct",
    "service.turns": "service.lines",
    "service.release": "service.errors",
    "service.failures": "service.errors",
    "service.batching": "service.errors service.failures service.lines service.jobs service.turns",
    "service.reader": "",
    "service.formats": "service.errors",
    "service.edge": "service.errors service.bentoml_hooks",
    "service.kinds": "service.edge",
    "service.secret": "service.kinds",
    "service.sizes": "",
    "service.settings": "service.edge service.kinds service.secret service.sizes",
    "service.observing": "service.errors service.bentoml_hooks service.edge service.settings",
    "service.serving": "service.errors service.batching service.reader service.release service.formats service.edge service.observing",
    "service.routes": "service.errors service.formats service.edge service.observing service.serving",
    "service.lifecycle": "service.settings service.bentoml_hooks",
    "service.gateway": "service.settings service.batching service.release service.edge service.observing "
    "service.serving service.formats service.routes service.lifecycle service.bentoml_hooks service.distinct",
    #
    "attacks": "",
    "attacks.evasion": "attacks",
    "attacks.backdoors": "attacks attacks.evasion",
    "attacks.extraction": "attacks attacks.evasion",
    "attacks.gateway": "attacks",
    "attacks.detector_training": "attacks attacks.evasion",
    #
    "evaluation": "",
    "evaluation.statistics": "",
    "evaluation.tables": "evaluation evaluation.statistics",
    "evaluation.reporting": "evaluation evaluation.statistics evaluation.tables",
    "evaluation.evaluate": "evaluation evaluation.statistics evaluation.tables evaluation.reporting",
    "evaluation.scanning": "evaluation evaluation.statistics evaluation.reporting",
    "evaluation.red_team": "evaluation evaluation.statistics evaluation.reporting",
    #
    "lab.errors": "",
    "lab.charts": "",
    "lab.scans": "lab.errors lab.charts",
    "lab": "lab.errors lab.charts lab.scans",
    "lab.work": "lab lab.errors lab.scans",
    #
    "hauberk": "",
    "hauberk.commands": "hauberk",
    "hauberk.main": "hauberk hauberk.commands",
    #
    "benchmarks.harness": "",
    "benchmarks.serving": "benchmarks.harness benchmarks.serving.contenders",
    "benchmarks.serving.contenders": "benchmarks.harness",
    "benchmarks.methods": "benchmarks.harness",
    "benchmarks.backdoors": "benchmarks.harness",
    "benchmarks.networks": "benchmarks.harness",
    "benchmarks.fuzzing": "benchmarks.harness",
    "benchmarks": "benchmarks.harness benchmarks.serving benchmarks.methods benchmarks.backdoors benchmarks.networks benchmarks.fuzzing",
    #
    "loadtest": "",
    "deploy": "",
    "deploy.grafana": "deploy",
    "deploy.kubernetes": "deploy",
}
"""Which rooms of its own package each room imports, one entry a room. A new folder needs an entry."""

MODULES_AT_MOST = 20
PURE = {"bentoml", "http", "starlette", "uvicorn", "httpx", "aiohttp", "prometheus_client", "tensorflow", "keras"}
FRAMEWORKS = {"tensorflow", "keras"}


def imports(file: Path, *, lazily: bool) -> Iterator[tuple[str, str]]:
    """What a file imports, (module, name in it or ""); imports in functions and under `if TYPE_CHECKING` only when `lazily`."""
    todo: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif lazily or not (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        ):
            todo.extend(ast.iter_child_nodes(node))


def imported(file: Path, *, lazily: bool) -> set[str]:
    """The top-level packages that a file imports."""
    return {module.split(".")[0] for module, _ in imports(file, lazily=lazily)}


@cache
def modules() -> Mapping[str, Path]:
    """Every module of ours by its dotted name; a package is named like its folder."""
    files = [file for package in sorted(OURS) for file in sorted((ROOT / package).rglob("*.py"))]
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


@cache
def graph() -> Mapping[str, Collection[str]]:
    """The modules of ours that each imports, lazily and for types too; of a package only what is defined in its `__init__.py`."""
    known = modules()
    return {
        name: {
            found
            for module, member in imports(file, lazily=True)
            for found in [f"{module}.{member}" if f"{module}.{member}" in known else module]
            if found in known and found != name
        }
        for name, file in known.items()
    }


def circle(edges: Mapping[str, Collection[str]]) -> list[str]:
    """One circle, as a walk that ends where it began; empty when there is none."""
    left = {name: set(others) & set(edges) for name, others in edges.items()}
    while ends := [name for name, others in left.items() if not others]:
        left = {name: others.difference(ends) for name, others in left.items() if name not in ends}
    if not left:
        return []
    walk = [min(left)]
    while walk[-1] not in walk[:-1]:  # every name that is left imports another that is left
        walk.append(min(left[walk[-1]]))
    return walk[walk.index(walk[-1]) :]


def room(module: str) -> str:
    """The longest entry of `MAY_IMPORT` that a module lies in."""
    while module and module not in MAY_IMPORT:
        module = module.rpartition(".")[0]
    return module


@pytest.mark.parametrize("layer", ALLOWED)
def test_a_layer_imports_only_the_layers_below_it(layer: str) -> None:
    files = list((ROOT / layer).rglob("*.py"))
    assert files
    for file in files:
        assert OURS & imported(file, lazily=True) <= ALLOWED[layer], file


def test_no_module_imports_itself_in_a_circle_not_even_lazily_or_for_types() -> None:
    assert circle(graph()) == []


def test_a_circle_is_found_and_named() -> None:
    edges = {"a": ["b"], "b": ["c", "d"], "c": ["b"], "d": []}
    assert circle(edges) == ["b", "c", "b"]
    assert circle({**edges, "c": []}) == []


def test_the_imports_of_types_and_within_functions_are_seen() -> None:
    assert "service.settings" in graph()["service.lifecycle.startup"]
    assert "models.engines.keras" in graph()["models.engines.bundle_classifier"]  # within a function
    assert "defences.defended_classifier" in graph()["service.edge.exchange"]  # for a type


@pytest.mark.parametrize("package", sorted(OURS - {"tests"}))
def test_a_room_imports_only_the_rooms_it_may(package: str) -> None:
    for module, others in graph().items():
        if module.split(".")[0] == package:
            here = room(module)
            assert here, f"{module}: expected an entry in MAY_IMPORT for its folder"
            used = {room(other) for other in others if other.split(".")[0] == package}
            assert used <= {here, *MAY_IMPORT[here].split()}, module


def test_the_rooms_exist_have_no_circle_and_every_folder_with_modules_is_one() -> None:
    folders = {name.rpartition(".")[0] for name in modules() if "." in name}
    assert set(MAY_IMPORT) <= set(modules()) | folders
    assert circle({name: others.split() for name, others in MAY_IMPORT.items()}) == []
    assert {folder for folder in folders if folder.split(".")[0] != "tests"} <= set(MAY_IMPORT)


def test_no_folder_is_one_flat_room() -> None:
    sizes = Counter(file.parent for file in modules().values() if file.name != "__init__.py" and "tests" not in file.parts)
    assert {str(folder.relative_to(ROOT)): size for folder, size in sizes.items() if size > MODULES_AT_MOST} == {}


def test_the_lab_s_server_loads_nothing_that_runs_a_model() -> None:
    heavy = {"attacks", "defences", "evaluation", "numpy", "onnxruntime"}
    for file in (*(ROOT / "lab").glob("*.py"), *(ROOT / "lab" / "scans").glob("*.py")):
        assert not heavy & imported(file, lazily=True), file


def test_the_defences_and_the_classifier_protocol_know_no_server_no_metrics_and_no_framework() -> None:
    for file in (*(ROOT / "defences").rglob("*.py"), ROOT / "models" / "classifier.py"):
        assert not PURE & imported(file, lazily=True), file


@pytest.mark.parametrize("layer", ["models", "defences", "service", "hauberk", "attacks", "evaluation", "lab"])
def test_tensorflow_is_never_imported_by_importing_a_module_of_ours(layer: str) -> None:
    for file in (ROOT / layer).rglob("*.py"):
        assert not FRAMEWORKS & imported(file, lazily=False), file
