"""Logs are lines of JSON."""

from __future__ import annotations

import asyncio
import json
import logging
import sys

from service.observing.logs import AccessLog, JsonFormatter


def test_a_record_becomes_one_line_of_json_with_its_fields() -> None:
    record = logging.LogRecord("service.gateway", logging.INFO, "x.py", 1, "ready in %d s", (3,), None)
    record.fields = {"model": "mnist"}
    line = JsonFormatter().format(record)
    assert "\n" not in line
    document = json.loads(line)
    assert {**document, "time": None} == {
        "time": None,
        "level": "info",
        "event": "ready in 3 s",
        "logger": "service.gateway",
        "model": "mnist",
    }
    assert document["time"].endswith("+00:00")


def test_an_exception_stays_on_its_line() -> None:
    try:
        int("first\nsecond")
    except ValueError:
        record = logging.LogRecord("service", logging.ERROR, "x.py", 1, "failed", (), sys.exc_info())
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert "ValueError: invalid literal" in json.loads(line)["exception"]


def test_access_lines_are_written_together_a_moment_later() -> None:
    written: list[bytes] = []

    async def scenario() -> None:
        log = AccessLog(written.append)
        for i in range(3):
            log.add(request_id=str(i), status=200)
        assert written == []
        await asyncio.sleep(0.2)
        log.add(request_id="3", status=200)
        await asyncio.sleep(0.2)

    asyncio.run(scenario())
    assert [len(lines.splitlines()) for lines in written] == [3, 1]
    first = json.loads(written[0].splitlines()[0])
    assert {**first, "time": None} == {"time": None, "level": "info", "event": "request", "request_id": "0", "status": 200}


def test_many_access_lines_do_not_wait() -> None:
    written: list[bytes] = []

    async def scenario() -> None:
        log = AccessLog(written.append)
        for i in range(256):
            log.add(request_id=str(i))
        assert len(written) == 1

    asyncio.run(scenario())
    assert len(written[0].splitlines()) == 256
