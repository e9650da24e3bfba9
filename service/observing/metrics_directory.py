"""Where the processes of one server keep their metrics. Imports no prometheus_client: that one decides while it is imported."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


def choose(workers: int) -> None:
    """Choose it for this process; to be called before prometheus_client is imported.

    BentoML gives every worker one directory per BENTOML_HOME, and empties it when a server starts: a second server would silence
    the first. A single worker needs no directory at all, its metrics are in its memory. Several share one of their own, named
    after their parent, beside BentoML's.
    """
    given = os.environ.pop(VARIABLE, None)
    if given is None or workers == 1:
        return
    own = Path(given).parent / f"hauberk_metrics_{os.getppid()}"
    own.mkdir(parents=True, exist_ok=True)
    os.environ[VARIABLE] = str(own)
