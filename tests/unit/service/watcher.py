"""Stands in for metrics and log: keeps what it is told of requests."""

from __future__ import annotations

from typing import Any


class Watcher:
    """Keeps what the edge reports."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.ends: list[tuple[str, int]] = []
        self.codes: list[str] = []
        self.turned: list[tuple[int, int]] = []
        self.lines: list[dict[str, Any]] = []

    def began(self) -> None:
        self.in_flight += 1

    def ended(self, route: str, status: int, seconds: float) -> None:
        self.in_flight -= 1
        self.ends.append((route, status))

    def rejected(self, code: str) -> None:
        self.codes.append(code)

    def turned_away(self, status: int, times: int) -> None:
        self.turned.append((status, times))

    def log(self, **fields: Any) -> None:
        self.lines.append(fields)
