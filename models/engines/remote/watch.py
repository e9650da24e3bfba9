"""Looks at the probes of a remote classifier while it serves: now and then, soon after a failure, and until it answers again.

A look asks for the model's metadata and for its answers to the probes, beside the clients' calls. So a model that is gone, or another
one, shows without traffic, and a model that is back serves without anybody's restart.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from models.engines.remote.circuit import Circuit
from models.errors import InvalidInput, RemoteBadAnswer, RemoteFailure

EVERY_S = 10.0
"""While all is well; sooner when a call failed."""
_SOON_S, _LATER_S = 0.25, 5.0


class Watch:
    """Runs `look` in a thread of its own.

    Args:
        look: returns when the model answers as ever. Raises: RemoteFailure, InvalidInput: its metadata are not those of then.
        circuit: is told of each.
        every_s: between two looks.
    """

    def __init__(self, look: Callable[[], None], circuit: Circuit, *, every_s: float = EVERY_S) -> None:
        self._look, self._circuit, self._every_s = look, circuit, every_s
        self._stopping = threading.Event()
        self._random = random.Random()  # noqa: S311  # it spreads the looks of several gateways, and keeps no secret
        self._thread = threading.Thread(target=self._work, name="hauberk-remote-watch", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more; a look in progress ends by itself."""
        self._stopping.set()
        self._circuit.wanted.set()

    def _work(self) -> None:
        pause = _SOON_S
        while not self._stopping.is_set():
            self._wait(pause)
            if self._stopping.is_set():
                return
            self._circuit.looked(self._found())
            pause = min(2 * pause, _LATER_S) if self._circuit.in_doubt else _SOON_S

    def _wait(self, pause: float) -> None:
        """Until the next look: `pause` at least, so that nobody who causes failures causes many looks."""
        pause *= self._random.uniform(0.5, 1.0)
        self._circuit.retry_after_s = max(1.0, pause)
        if self._circuit.in_doubt:
            self._stopping.wait(pause)
            return
        began = time.monotonic()
        self._circuit.wanted.wait(self._every_s)
        self._circuit.wanted.clear()
        self._stopping.wait(max(0.0, pause - (time.monotonic() - began)))

    def _found(self) -> RemoteFailure | None:
        try:
            self._look()
        except RemoteFailure as failure:
            return failure
        except InvalidInput as mistake:
            return RemoteBadAnswer(str(mistake))
        return None
