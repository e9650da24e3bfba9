"""The code of docs/library.md runs, in its order and in one process; red-teaming against the served bundle."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs" / "library.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.+?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_the_page_composes_the_three_defences_in_ten_lines() -> None:
    lines = [line for line in BLOCKS[0].splitlines() if line]
    assert len(lines) <= 10
    assert all(name in BLOCKS[0] for name in ("TotalVariation(", "strip.detector", "ReverseSigmoid(", "DefendedClassifier("))


def test_every_block_runs_and_says_what_it_found(bundled_server: str, tmp_path: Path) -> None:
    code = "\n".join(BLOCKS).replace("http://127.0.0.1:3000", bundled_server)
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False)
    assert ran.returncode == 0, ran.stderr
    for said in ("refused:", "right, of those answered:", "oblivious", "adaptive", "poison ['9']", "full stack", "finished"):
        assert said in ran.stdout
    assert (tmp_path / "mine" / "hauberk.toml").is_file()
