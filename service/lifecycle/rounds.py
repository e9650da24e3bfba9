"""What is looked at once a second, for as long as the server runs."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable

logger = logging.getLogger(__name__)

_EVERY_S = 1.0


async def make_rounds(*looks: Callable[[], object]) -> None:
    """Call each once a second, and await what it returns if it can be; one that raises is logged and has no other effect."""
    while True:
        await asyncio.sleep(_EVERY_S)
        for look in looks:
            try:
                found = look()
                if inspect.isawaitable(found):
                    await found
            except Exception:
                logger.exception("a check that is made every second failed")
