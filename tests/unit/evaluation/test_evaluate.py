"""The digest of the sources that kept results depend on."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluation.evaluate import code_digest


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for file in ("attacks/attack.py", "attacks/evasion/square.py", "models/engines/keras.py", "evaluation/reporting/plots.py"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("before = True\n")
    return tmp_path


@pytest.mark.parametrize("file", ["attacks/attack.py", "attacks/evasion/square.py", "models/engines/keras.py"])
def test_a_change_of_a_source_at_any_depth_makes_kept_results_stale(root: Path, file: str) -> None:
    before = code_digest(root)
    (root / file).write_text("before = False\n")
    assert code_digest(root) != before


def test_a_change_of_the_drawing_alone_keeps_them(root: Path) -> None:
    before = code_digest(root)
    (root / "evaluation/reporting/plots.py").write_text("before = False\n")
    assert code_digest(root) == before
