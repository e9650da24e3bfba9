"""A look at all connections once a second, for as long as the server runs: one task, and no timer per connection."""

from __future__ import annotations

import asyncio

from service.edge.connection import Connection, MetricsConnection

LOOK_EVERY_S, _LOOK_AT_ONCE = 1.0, 128


async def watch() -> None:
    """Look at bodies, crowds and connections."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        bounds = Connection.site.bounds
        bounds.bodies.look()
        for crowd in (Connection.crowd, MetricsConnection.crowd):
            crowd.look(loop.time(), bounds.body_timeout_s)
            Connection.site.note_untold(crowd.take_untold())
        for number, connection in enumerate(list(Connection.open)):
            connection.look(loop.time())
            if number % _LOOK_AT_ONCE == 0:
                await asyncio.sleep(0)  # others have their turn
