"""The layers point one way: models <- defences <- service <- hauberk, and attacks -> models, defences."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"models", "defences", "service", "hauberk", "attacks", "evaluation", "loadtest", "benchmarks", "tests"}
ALLOWED = {
    "models": {"models"},
    "defences": {"models", "defences"},
    "service": {"models", "defences", "service"},
    "hauberk": {"models", "defences", "service", "hauberk", "attacks", "evaluation"},
    "attacks": {"models", "defences", "attacks"},
    "evaluation": {"models", "defences", "attacks", "evaluation"},
    "loadtest": {"loadtest"},
}
PURE = {"bentoml", "http", "starlette", "uvicorn", "httpx", "aiohttp", "prometheus_client", "tensorflow", "keras"}
FRAMEWORKS = {"tensorflow", "keras"}


def imported(file: Path, *, lazily: bool) -> Iterator[str]:
    """The top-level packages a file imports; those inside functions and `if TYPE_CHECKING` only when `lazily`."""
    todo: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            yield (node.module or "").split(".")[0]
        elif lazily or not (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        ):
            todo.extend(ast.iter_child_nodes(node))


@pytest.mark.parametrize("layer", [layer for layer in ALLOWED if (ROOT / layer).is_dir()])
def test_a_layer_imports_only_the_layers_below_it(layer: str) -> None:
    files = list((ROOT / layer).rglob("*.py"))
    assert files
    for file in files:
        assert OURS & set(imported(file, lazily=True)) <= ALLOWED[layer], file


def test_the_defences_and_the_classifier_protocol_know_no_server_no_metrics_and_no_framework() -> None:
    for file in (*(ROOT / "defences").rglob("*.py"), ROOT / "models" / "classifier.py"):
        assert not PURE & set(imported(file, lazily=True)), file


@pytest.mark.parametrize("layer", ["models", "defences", "service", "hauberk", "attacks", "evaluation"])
def test_tensorflow_is_never_imported_by_importing_a_module_of_ours(layer: str) -> None:
    for file in (ROOT / layer).rglob("*.py"):
        assert not FRAMEWORKS & set(imported(file, lazily=False)), file
