"""The cells of an evaluation's tables: each result is written to disk at once, so that a killed evaluation resumes where it stopped."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.kept_places import place_of, use_place
from models.progress import CountedSteps, Progress, silent

FORMAT = 1
_OTHER_PLANS = 15


@dataclass(frozen=True)
class Cell:
    """One experiment: its section, its name, unique within the section, and the function that runs it.

    `find` returns a JSON value: numbers, texts, lists and dicts. `steps` is what it costs beside an attack on the images, as measured:
    progress counts these, so that the time that is left follows from it.
    """

    section: str
    name: str
    find: Callable[[], Any]
    steps: int = 1


@dataclass(frozen=True)
class Cells:
    """The stored results of one plan. Results of other plans in the same directory are not read; those of the last few are kept.

    Args:
        directory: parent of the results of all plans.
        plan: everything that determines the results: digests, seed, budget.
    """

    directory: Path
    plan: Mapping[str, Any]

    @property
    def place(self) -> Path:
        """The directory of this plan's results."""
        return place_of(self.directory / "cells", {"format": FORMAT, **self.plan})

    def run(self, cells: Sequence[Cell], progress: Progress = silent) -> dict[str, dict[str, Any]]:
        """Results by section and name, in order; those not stored yet are computed and stored."""
        use_place(self.place, keep=_OTHER_PLANS)
        results: dict[str, dict[str, Any]] = {}
        steps = CountedSteps(progress, "evaluating", sum(cell.steps for cell in cells))
        steps.add(0)
        for cell in cells:
            results.setdefault(cell.section, {})[cell.name] = self._result(cell)
            steps.add(cell.steps)
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
