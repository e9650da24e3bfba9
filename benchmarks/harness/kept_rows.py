"""Rows of a section that takes an hour, each kept on disk as soon as it is measured: a section that was stopped goes on.

They lie below `out/benchmarks/` and are those of one state of the code: after any change all are measured again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness.servers import ROOT
from evaluation.cells import Cell, Cells
from evaluation.evaluate import code_digest

_BELOW = ROOT / "out" / "benchmarks"


def kept_rows(
    section: str, rows: Mapping[str, Callable[[], Any]], *, plan: Mapping[str, Any], directory: Path = _BELOW
) -> dict[str, Any]:
    """The results of `rows` by their names, JSON values, in order; those that are kept are not measured again.

    Args:
        plan: what decides the results beside the code, as JSON can hold it.
    """

    def told(name: str, find: Callable[[], Any]) -> Any:
        found = find()
        print(f"{section}: {name}: {found}", file=sys.stderr, flush=True)
        return found

    cells = [Cell("rows", name, lambda name=name, find=find: told(name, find)) for name, find in rows.items()]  # type: ignore[misc]
    whole = {**plan, "section": section, "code": code_digest(ROOT)}
    return Cells(directory / section, whole).run(cells).get("rows", {})
