"""The number of processors this process may use."""

from __future__ import annotations

from models.machine import processors


def test_there_is_at_least_one_processor() -> None:
    assert processors() >= 1
