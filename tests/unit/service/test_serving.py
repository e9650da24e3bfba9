"""Where a body is read, and which addresses are of this machine."""

from __future__ import annotations

import threading
from typing import Any

import orjson
import pytest

from models.bundle import Bundle
from service.serving import is_loopback
from tests.unit.service.served import IMAGE, Ask, run, serving


def test_a_large_body_is_read_beside_the_event_loop_and_answered_alike(bundle: Bundle, waves: Any) -> None:
    made = serving(bundle)

    async def scenario(ask: Ask) -> Any:
        small = await made.read(made.admission.images, orjson.dumps({"images": [IMAGE]}))
        large = await made.read(made.admission.images, orjson.dumps({"images": [IMAGE]}) + b" " * 300_000)
        return small, large

    small, large = run(made, scenario, waves)
    assert (small == large).all()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1"])
def test_loopback_addresses_are_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "localhost", "192.168.0.1", "::", "10.0.0.1", "example.org"])
def test_anything_else_is_not(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(("work", "beside"), [(0, False), (1 << 20, True)])
def test_what_takes_long_to_decode_is_read_beside_the_event_loop(bundle: Bundle, work: int, beside: bool) -> None:
    made = serving(bundle)
    threads: list[threading.Thread] = []

    def read(body: bytes) -> Any:
        threads.append(threading.current_thread())

    async def scenario(ask: Ask) -> Any:
        await made.read(read, b"", work)

    run(made, scenario)
    assert (threads[0] is not threading.main_thread()) == beside
