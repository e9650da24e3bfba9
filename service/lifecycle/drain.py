"""The end of a worker on SIGTERM: it turns unready, then stops listening, then finishes the requests it accepted.

    SIGTERM -> /readyz is 503, answers say Connection: close -> a pause, requests are still taken -> the listener closes ->
    uvicorn's own way to end: idle connections close, requests under way are answered -> `Gateway.end` empties the batcher

A load balancer takes a while to notice that a server is not ready; without the pause it would send requests to a closed port.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from service.bentoml_hooks import listeners

logger = logging.getLogger(__name__)


def drain_on_sigterm(server: uvicorn.Server, begin: Callable[[], None], pause_s: float, *, alone: bool) -> None:
    """On SIGTERM call `begin`, and after the pause stop listening and hand the signal on; a second one ends the pause.

    Must be called in the event loop, in the main thread, after uvicorn has set its handlers.

    Args:
        alone: whether no other process serves from the same socket.
    """
    loop = asyncio.get_running_loop()
    draining = False

    def end() -> None:
        if alone and not server.should_exit:
            _stop_listening(server)
        server.handle_exit(signal.SIGTERM, None)

    def pause() -> None:
        logger.info("draining", extra={"fields": {"pause_s": pause_s}})
        begin()
        loop.call_later(pause_s, end)

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal draining
        loop.call_soon_threadsafe(end if draining else pause)
        draining = True

    signal.signal(signal.SIGTERM, handle)


def _stop_listening(server: uvicorn.Server) -> None:
    """Close the listener for every process that holds it.

    BentoML's parent process keeps it open until its workers have ended: clients could still connect, would wait for as long as
    that takes, and then be cut off. Refused at once, they try another server. A worker that starts again listens on it anew.
    """
    for listener in listeners(server):
        held = [socket.socket(fileno=os.dup(each.fileno())) for each in listener.sockets]
        listener.close()
        for each in held:
            with contextlib.suppress(OSError):  # not every system lets go of a listener this way
                each.shutdown(socket.SHUT_RD)
            each.close()
