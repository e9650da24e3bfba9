"""The command line, in this process and in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hauberk.main import main
from tests.fakes import squares


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    output: str
    errors: str


Command = Callable[..., Ran]


def process(*arguments: Any, **environment: str) -> Ran:
    """Run `hauberk` in a process of its own, with no HAUBERK_ setting but those given."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("HAUBERK_")}
    command = [sys.executable, "-c", "from hauberk.main import main; main()", *map(str, arguments)]
    ended = subprocess.run(command, env=ours | environment, capture_output=True, text=True, timeout=120, check=False)
    return Ran(ended.returncode, ended.stdout, ended.stderr)


@pytest.fixture
def hauberk(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Run `hauberk` in this process: quicker where TensorFlow is loaded already."""

    def run(*arguments: Any) -> Ran:
        monkeypatch.setattr(sys, "argv", ["hauberk", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capfd.readouterr()
        assert isinstance(ended.value.code, int)
        return Ran(ended.value.code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def clean_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """420 colour images that the small network gets right, and 60 to test on."""
    path = tmp_path_factory.mktemp("data") / "squares.npz"
    train, test = squares(420, seed=10), squares(60, seed=11)
    images = np.rint(train.images * 255).astype(np.uint8)
    np.savez(path, x_train=images, y_train=train.labels[:, None], x_test=test.images, y_test=test.labels)
    return path
