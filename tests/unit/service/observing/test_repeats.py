"""A failure that repeats is logged once in full, and then counted."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

import pytest

from service.observing.logs import JsonFormatter
from service.observing.repeats import INTERVAL_S, SHORT_AT_MOST, Repeats

NAME = "tests.repeats"


class Log:
    """A logger whose lines are kept, and whose time passes when it is told to."""

    def __init__(self) -> None:
        self.now, self._stream = 0.0, io.StringIO()
        self.repeats = Repeats(lambda: self.now)
        handler = logging.StreamHandler(self._stream)
        handler.setFormatter(JsonFormatter())
        handler.addFilter(self.repeats)
        self.logger = logging.Logger(NAME)
        self.logger.addHandler(handler)
        self.bytes = 0

    def lines(self) -> list[dict[str, Any]]:
        text = self._stream.getvalue()
        self.bytes += len(text)
        self._stream.seek(0)
        self._stream.truncate()
        return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    made = Log()
    monkeypatch.setitem(logging.root.manager.loggerDict, NAME, made.logger)
    return made


def fail(log: Log, number: int, depth: int = 30) -> None:
    """As a model deep in a framework does."""

    def deeper(left: int) -> None:
        if left:
            deeper(left - 1)
        raise RuntimeError(f"bad image {number}")

    try:
        try:
            deeper(depth)
        except RuntimeError as failure:
            raise ValueError("a stage failed") from failure
    except ValueError:
        log.logger.exception("a request failed", extra={"fields": {"request_id": str(number)}})


def test_of_many_requests_that_fail_alike_the_first_is_told_in_full_and_the_others_are_counted(log: Log) -> None:
    for number in range(1000):
        fail(log, number)
    first, *short = log.lines()
    assert (first["event"], first["request_id"]) == ("a request failed", "0")
    assert "RuntimeError: bad image 0" in first["exception"]
    assert [line["request_id"] for line in short] == [str(number) for number in range(1, SHORT_AT_MOST + 1)]
    assert all("exception" not in line and line["raised"].startswith("ValueError of RuntimeError at ") for line in short)
    for _ in range(3):
        log.now += INTERVAL_S / 3
        log.repeats.tell()
    (counted,) = log.lines()
    assert counted["level"] == "error"
    assert {name: counted[name] for name in ("event", "repeated", "within_s", "request_id")} == {
        "event": "a request failed",
        "repeated": 999,
        "within_s": 60,
        "request_id": "999",
    }
    assert counted["raised"] == short[0]["raised"]
    assert "exception" not in counted
    assert log.bytes < 20_000  # 6.5 KB a request before


def test_after_a_quiet_interval_it_is_news_again(log: Log) -> None:
    fail(log, 1)
    log.now += INTERVAL_S
    log.repeats.tell()
    fail(log, 2)
    assert ["exception" in line for line in log.lines()] == [True, True]


def test_other_failures_other_texts_and_what_is_no_warning_are_told(log: Log) -> None:
    fail(log, 1)
    try:
        int("x")
    except ValueError:
        log.logger.exception("a request failed")
    for kind in ("queue", "disk"):
        log.logger.warning("lost at %s", kind)
    for _ in range(3):
        log.logger.info("ready")
    assert [line["event"] for line in log.lines()] == [
        "a request failed",
        "a request failed",
        "lost at queue",
        "lost at disk",
        *["ready"] * 3,
    ]


def test_texts_that_differ_by_numbers_only_are_one(log: Log) -> None:
    for number in range(100):
        log.logger.warning("a step of %d requests failed", number)
    assert len(log.lines()) == 1 + SHORT_AT_MOST
    log.repeats.tell(at_once=True)
    (counted,) = log.lines()
    assert (counted["event"], counted["repeated"]) == ("a step of 99 requests failed", 99)


def test_a_few_that_were_told_one_by_one_are_not_counted_again(log: Log) -> None:
    for number in range(3):
        fail(log, number)
    log.repeats.tell(at_once=True)
    assert [line["request_id"] for line in log.lines()] == ["0", "1", "2"]


def test_kinds_are_bounded(log: Log) -> None:
    for letters in range(2000):
        log.logger.warning("x" * (letters % 400) + "y" * (letters // 400))
    assert len(log.repeats._seen) <= 256


def test_a_text_and_a_traceback_are_bounded(log: Log) -> None:
    try:
        int("x" * 1_000_000)
    except ValueError:
        log.logger.exception("y" * 1_000_000)
    (line,) = log.lines()
    assert log.bytes < 20_000
    assert line["exception"].startswith("Traceback")
