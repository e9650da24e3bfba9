"""Logs: one JSON object a line on stderr, whoever writes it.

    {"time": "...", "level": "info", "event": "request", "request_id": "...", "method": "POST", "route": "/predict", ...}

Never in a log: pixels, probabilities, secrets, or the path of a route that does not exist (it is the client's text, not ours).
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import orjson

from service.bentoml_hooks import LOGGERS
from service.observing.repeats import Repeats

_FLUSH_AFTER_S = 0.1
_FLUSH_AT_LINES = 256
_EVENT_AT_MOST, _EXCEPTION_AT_MOST = 2_000, 16_000


def line(level: str, event: str, **fields: Any) -> bytes:
    """One line of log."""
    return orjson.dumps({"time": datetime.now(UTC), "level": level, "event": event, **fields}, default=str) + b"\n"


class JsonFormatter(logging.Formatter):
    """Formats records of any logger; `extra={"fields": {...}}` adds members."""

    def format(self, record: logging.LogRecord) -> str:
        document: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname.lower(),
            "event": _shortened(record.getMessage(), _EVENT_AT_MOST),
            "logger": record.name,
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            document["exception"] = _shortened(self.formatException(record.exc_info), _EXCEPTION_AT_MOST)
        return orjson.dumps(document, default=str).decode()


def _shortened(text: str, most: int) -> str:
    """The text, or its beginning and its end, where a traceback says what was raised."""
    return text if len(text) <= most else f"{text[: most // 2]} [...] {text[-most // 2 :]}"


def configure() -> Repeats:
    """Send the log records of this process, BentoML's and uvicorn's included, to stderr as JSON; what repeats is counted."""
    handler, repeats = logging.StreamHandler(sys.stderr), Repeats()
    handler.addFilter(repeats)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    # "Service hauberk initialized" and the like come before the service has loaded anything: our own "ready" says it better.
    logging.getLogger("bentoml").setLevel(logging.WARNING)
    # Its warnings are about bytes that are no request: each has its line in the access log.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    logging.getLogger("service").setLevel(logging.INFO)
    logging.captureWarnings(True)
    return repeats


class AccessLog:
    """A line per request, written together a tenth of a second later: a system call per request would cost more than the line.

    Args:
        write: takes whole lines.
    """

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._lines: list[bytes] = []

    def add(self, **fields: Any) -> None:
        """Log one request. Must be called in the event loop."""
        self._lines.append(line("info", "request", **fields))
        if len(self._lines) == 1:
            asyncio.get_running_loop().call_later(_FLUSH_AFTER_S, self.flush)
        elif len(self._lines) >= _FLUSH_AT_LINES:
            self.flush()

    def flush(self) -> None:
        """Write the lines gathered so far."""
        if self._lines:
            lines, self._lines = self._lines, []
            self._write(b"".join(lines))


def write_to_stderr(lines: bytes) -> None:
    """Write lines to stderr in one call."""
    sys.stderr.buffer.write(lines)
    sys.stderr.buffer.flush()
