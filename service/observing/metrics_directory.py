"""Where the processes of one server keep their metrics. Imports no prometheus_client: that one decides while it is imported."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from service.bentoml_hooks import METRICS_DIRECTORY

logger = logging.getLogger(__name__)


def choose(*, alone: bool) -> None:
    """Choose it for this process; to be called before prometheus_client is imported.

    BentoML gives every worker one directory per BENTOML_HOME, and empties it when a server starts: a second server would silence
    the first. A single worker needs no directory at all, its metrics are in its memory. Several share one of their own, named
    after their parent, beside BentoML's.
    """
    given = os.environ.pop(METRICS_DIRECTORY, None)
    if alone:
        return
    if given is None:
        logger.warning("BentoML gave this worker no %s: /metrics shows one worker's numbers, not all of them", METRICS_DIRECTORY)
        return
    own = Path(given).parent / f"hauberk_metrics_{os.getppid()}"
    own.mkdir(parents=True, exist_ok=True)
    os.environ[METRICS_DIRECTORY] = str(own)
