"""Directories that have to be there and writable before BentoML is imported: it ends with a traceback where they are not."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from models.errors import InvalidInput

HOME = "BENTOML_HOME"


def make_writable(name: str, path: Path) -> Path:
    """Make the directory that the variable `name` names, and try to write in it. Raises: InvalidInput, one sentence."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as failure:
        raise InvalidInput(
            f"expected {name} to be a directory that can be written, got {path} ({(failure.strerror or str(failure)).lower()}); "
            f"set {name} to another"
        ) from failure
    return path


def make_home(environment: Mapping[str, str] = os.environ) -> Path:
    """The directory in which BentoML keeps what it needs while it serves. Raises: InvalidInput."""
    given = environment.get(HOME)
    return make_writable(HOME, Path(given) if given else Path.home() / "bentoml")
