"""Whether the worker thread still works: a server whose worker hangs or has ended answers health checks, and nothing else.

    the worker takes no step although there is work   -> /readyz is 503, and requests are refused at once with 503
    for much longer, or its thread is no more         -> /livez is 503 as well, so that whoever watches it starts the process again

An idle worker does not count: it has nothing to do.
"""

from __future__ import annotations

import logging
import math
import sys
import threading
import traceback
from collections.abc import Callable

from service.errors import Stalled

logger = logging.getLogger(__name__)

UNREADY_AFTER_S, DEAD_AFTER_S = 5.0, 60.0
"""At least; the deadline and `_DEADLINES` of them where they are longer."""
_DEADLINES = 6
_WORKER = "hauberk-worker"


class Heartbeat:
    """Looks at the worker, once a second.

    Args:
        stalled_s: for how long the worker has taken no step although there is work.
        deadline_s: of a request.
    """

    def __init__(self, stalled_s: Callable[[], float], deadline_s: float) -> None:
        self._stalled_s = stalled_s
        self._unready_after_s = max(UNREADY_AFTER_S, deadline_s)
        self._dead_after_s = max(DEAD_AFTER_S, _DEADLINES * deadline_s)
        self.stalled = self.dead = False

    def look(self) -> None:
        """See how the worker is; a change is logged, with where the worker's thread is."""
        stalled_s = self._stalled_s()
        before, self.stalled = self.stalled, stalled_s > self._unready_after_s
        self.dead = stalled_s > self._dead_after_s
        if self.stalled and not before:
            fields = {"stack": _stack()} if math.isfinite(stalled_s) else {}
            logger.error("the worker %s", _found(stalled_s), extra={"fields": fields})
        elif before and not self.stalled:
            logger.warning("the worker goes on")

    def check_ready(self) -> None:
        """Raises: Stalled."""
        if self.stalled:
            raise Stalled

    def check_live(self) -> None:
        """Raises: Stalled."""
        if self.dead:
            raise Stalled


def _found(stalled_s: float) -> str:
    if math.isinf(stalled_s):
        return "has ended: nothing can be decided any more, the process has to be started again"
    return f"has taken no step for {stalled_s:.0f} s although there is work: not ready until it goes on"


def _stack() -> str:
    frames = sys._current_frames()  # the only way to see another thread's
    ident = next((thread.ident for thread in threading.enumerate() if thread.name == _WORKER), None)
    frame = frames.get(ident) if ident is not None else None
    return "".join(traceback.format_stack(frame)) if frame is not None else ""
