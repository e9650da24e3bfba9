"""Results one by one: each is on disk as soon as it is found, so that an evaluation that was killed goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.progress import Progress, silent

FORMAT = 1


@dataclass(frozen=True)
class Cell:
    """One result: a name that is unique in the evaluation, what it is called in the progress bar, and how to find it.

    `find` returns what JSON can hold: numbers, texts, lists and dicts.
    """

    section: str
    name: str
    find: Callable[[], Any]


@dataclass(frozen=True)
class Cells:
    """A directory of results of one plan; results of another plan in the same place are neither read nor touched.

    Args:
        directory: where.
        plan: everything that decides what comes out: digests, seed, budget.
    """

    directory: Path
    plan: Mapping[str, Any]

    @property
    def place(self) -> Path:
        """Where the results of this plan lie."""
        text = json.dumps({"format": FORMAT, **self.plan}, sort_keys=True)
        return self.directory / "cells" / hashlib.sha256(text.encode()).hexdigest()[:12]

    def run(self, cells: Sequence[Cell], progress: Progress = silent) -> dict[str, dict[str, Any]]:
        """Find what is not there yet; returns results by section and name, in order."""
        self.place.mkdir(parents=True, exist_ok=True)
        results: dict[str, dict[str, Any]] = {}
        for number, cell in enumerate(cells):
            progress("evaluating", number, len(cells))
            results.setdefault(cell.section, {})[cell.name] = self._result(cell)
        progress("evaluating", len(cells), len(cells))
        return results

    def _result(self, cell: Cell) -> Any:
        path = self.place / f"{cell.section}.{hashlib.sha256(cell.name.encode()).hexdigest()[:12]}.json"
        try:
            return json.loads(path.read_text())["result"]
        except (OSError, ValueError, KeyError, TypeError):
            result = cell.find()
        unfinished = path.with_suffix(".part")
        unfinished.write_text(json.dumps({"name": cell.name, "result": result}, allow_nan=False))
        os.replace(unfinished, path)  # a kill in the middle leaves a .part, never half a result
        return result
