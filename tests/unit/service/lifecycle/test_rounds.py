"""What is looked at once a second, whatever happens."""

from __future__ import annotations

import asyncio
import logging

import pytest

from service.lifecycle import rounds


def test_a_look_that_fails_neither_ends_the_rounds_nor_keeps_the_others_from_their_turn(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rounds, "_EVERY_S", 0.0)
    seen: list[str] = []

    def fails() -> None:
        seen.append("fails")
        raise OSError("no")

    async def waits() -> None:
        await asyncio.sleep(0)
        seen.append("waits")

    async def main() -> None:
        task = asyncio.create_task(rounds.make_rounds(fails, waits))
        while len(seen) < 6:
            await asyncio.sleep(0)
        task.cancel()

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
    assert seen[:6] == ["fails", "waits"] * 3
    assert "a check that is made every second failed" in caplog.text
