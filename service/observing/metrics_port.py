"""The port for metrics, where the service listens on more than loopback: histograms are an oracle, and not for its clients."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import uvicorn

from models.errors import InvalidInput
from service.bentoml_hooks import UnsignalledServer
from service.edge.connection import MetricsConnection
from service.edge.middleware import Edge
from service.edge.site import Site, Slot


class MetricsPort:
    """A second server in the worker's event loop, with an edge of its own.

    Args:
        site: what it serves.
        host, port: where it listens; "" is every address.

    Raises: InvalidInput when it cannot listen there.
    """

    def __init__(self, site: Site, host: str, port: int) -> None:
        try:
            self._socket = _listener(host, port)
        except OSError as failure:
            reason = os.strerror(failure.errno).lower() if failure.errno else str(failure)
            raise InvalidInput(
                f"cannot listen on {host}:{port} for metrics ({reason}); set HAUBERK_METRICS_HOST or HAUBERK_METRICS_PORT"
            ) from failure
        slot = Slot()
        slot.install(site)
        config = uvicorn.Config(
            Edge(_nothing, slot=slot),
            http=MetricsConnection,
            lifespan="off",
            log_config=None,
            server_header=False,
            proxy_headers=False,
        )
        self._server = UnsignalledServer(config)
        self._serving = asyncio.create_task(self._server.serve([self._socket]))

    async def close(self) -> None:
        """Stop listening."""
        self._server.should_exit = True
        await self._serving


def _listener(host: str, port: int) -> socket.socket:
    if not host and socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    raise RuntimeError("nothing is passed on")
