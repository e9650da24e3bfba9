"""The file of clients while the server runs: who is added, changed, switched off or removed is so within a second or two.

Each process looks for itself, so that all workers follow. A file that cannot be used is an error in the log, and changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

from models.errors import InvalidInput
from service.edge.accounts import Clients, read_clients

logger = logging.getLogger(__name__)

_Stamp = tuple[int, ...]


class ClientFile:
    """Reads the file again when it has changed.

    Args:
        path: the file. clients: who may ask; replaced by those in the file.
    """

    def __init__(self, path: Path, clients: Clients) -> None:
        self._path, self._clients = path, clients
        self._stamp: _Stamp | None = ()  # none was seen: it may have changed since the settings were read

    async def look(self) -> None:
        """Compare, and read beside the event loop. To be called once a second."""
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        first, self._stamp = self._stamp == (), stamp  # before it is read: what is written meanwhile is read the next time
        try:
            clients = await asyncio.get_running_loop().run_in_executor(None, read_clients, self._path)
        except InvalidInput as mistake:
            logger.error("the clients stay as they were: %s", mistake)  # noqa: TRY400  # a sentence, no traceback
            return
        self._clients.replace(clients)
        if not first:
            enabled = sum(client.enabled for client in clients)
            logger.info("clients read again", extra={"fields": {"clients": len(clients), "enabled": enabled}})


def _stamp(path: Path) -> _Stamp | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_dev
