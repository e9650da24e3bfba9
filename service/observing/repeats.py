"""A failure that comes again and again is logged once in full, then some times in short, then counted: a line a minute says how often.

A model that raises would otherwise write kilobytes for each request, as fast as requests come. Each request that failed still has its
line in the access log.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

INTERVAL_S, SHORT_AT_MOST = 60.0, 20
"""Of each kind of failure, so many lines without a traceback in so many seconds."""
_KINDS_AT_MOST = 256
_TEXT_AT_MOST = 300
_NUMBERS = re.compile(r"\d+")

_Kind = tuple[str, str]


@dataclass
class _Seen:
    """A kind of failure: when its last line was written, how often it came since, and the last time it did."""

    told: float
    count: int
    last: logging.LogRecord


class Repeats(logging.Filter):
    """Drops what `tell` counts; warnings and worse only.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock, self._lock = clock, threading.Lock()
        self._seen: dict[_Kind, _Seen] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is the first of its kind for a while."""
        if record.levelno < logging.WARNING or hasattr(record, "counted"):
            return True
        kind = _kind(record)
        with self._lock:
            seen = self._seen.get(kind)
            if seen is not None:
                seen.count, seen.last = seen.count + 1, record
                return seen.count <= SHORT_AT_MOST and _shorten(record)
            if len(self._seen) >= _KINDS_AT_MOST:
                del self._seen[next(iter(self._seen))]
            self._seen[kind] = _Seen(self._clock(), 0, record)
            return True

    def tell(self, *, at_once: bool = False) -> None:
        """Log a line for each kind that came again within the last interval, and forget those that did not; to be called often."""
        now = self._clock()
        due: list[tuple[int, float, logging.LogRecord]] = []
        with self._lock:
            for kind, seen in list(self._seen.items()):
                if now - seen.told < INTERVAL_S and not at_once:
                    continue
                if not seen.count:
                    del self._seen[kind]
                elif seen.count > SHORT_AT_MOST:
                    due.append((seen.count, now - seen.told, seen.last))
                seen.told, seen.count = now, 0
        for count, seconds, last in due:
            logging.getLogger(last.name).handle(_counted(last, count, seconds))


def _kind(record: logging.LogRecord) -> _Kind:
    """The logger, and what was raised where; or the text, whatever its numbers."""
    failure = record.exc_info[1] if record.exc_info else None
    if failure is None:
        return record.name, _NUMBERS.sub("#", record.getMessage()[:_TEXT_AT_MOST])
    return record.name, f"{record.msg} {_raised(failure)}"


def _shorten(record: logging.LogRecord) -> bool:
    """Leave out the traceback, and say in a word what was raised."""
    if record.exc_info and record.exc_info[1] is not None:
        record.fields = {**getattr(record, "fields", {}), "raised": _raised(record.exc_info[1])}
    record.exc_info = record.exc_text = None
    return True


def _raised(failure: BaseException) -> str:
    """The types from the last failure to its first cause, and the line that raised that one."""
    names = [type(failure).__qualname__]
    while (cause := failure.__cause__ or (None if failure.__suppress_context__ else failure.__context__)) is not None:
        failure = cause
        names.append(type(failure).__qualname__)
    place: TracebackType | None = failure.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = "" if place is None else f" at {place.tb_frame.f_code.co_filename}:{place.tb_lineno}"
    return f"{' of '.join(names)}{where}"


def _counted(last: logging.LogRecord, count: int, seconds: float) -> logging.LogRecord:
    _shorten(last)
    record = logging.LogRecord(last.name, last.levelno, last.pathname, last.lineno, last.msg, last.args, None)
    record.fields = {**getattr(last, "fields", {}), "repeated": count, "within_s": round(seconds)}
    record.counted = True
    return record
