"""A worker that hangs or has ended: not ready first, then not alive, and well again when it goes on."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from defences.defended_classifier import Wave
from models.bundle import Bundle
from models.classifier import Images
from service.errors import Stalled
from service.observing.heartbeat import Heartbeat
from tests.unit.service.served import IMAGE, Ask, run, serving

BODY = json.dumps({"images": [IMAGE]}).encode()
PATHS = ("/livez", "/v2/health/live", "/readyz", "/v2/health/ready")


def refused(check: Callable[[], None]) -> bool:
    try:
        check()
    except Stalled:
        return True
    return False


@pytest.mark.parametrize(
    ("deadline_s", "stalled_s", "stalled", "dead"),
    [
        (10.0, 0.0, False, False), (10.0, 10.0, False, False), (10.0, 10.1, True, False), (10.0, 60.1, True, True),
        (0.1, 4.9, False, False), (0.1, 5.1, True, False), (0.1, 60.1, True, True), (30.0, 100.0, True, False),
        (10.0, math.inf, True, True),
    ],
)  # fmt: skip
def test_first_it_is_not_ready_and_much_later_not_alive(deadline_s: float, stalled_s: float, stalled: bool, dead: bool) -> None:
    heart = Heartbeat(lambda: stalled_s, deadline_s)
    assert not refused(heart.check_ready)
    heart.look()
    assert (refused(heart.check_ready), refused(heart.check_live)) == (stalled, dead)


def test_a_change_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    stalled_s = [0.0]
    heart = Heartbeat(lambda: stalled_s[0], 10.0)
    with caplog.at_level(logging.WARNING):
        for stalled_s[0] in (0.0, 11.0, 12.0, 70.0, 0.0, 0.0):
            heart.look()
    assert caplog.messages == [
        "the worker has taken no step for 11 s although there is work: not ready until it goes on",
        "the worker goes on",
    ]


class Hanging:
    """A data path that hangs until it is let go, or ends its thread."""

    def __init__(self, *, ends: bool = False) -> None:
        self.began, self.go, self.ends = threading.Event(), threading.Event(), ends

    def __call__(self, images: Images) -> Iterator[Wave]:
        if self.ends:
            raise SystemExit
        self.began.set()
        self.go.wait(10)
        yield from ()  # no wave: the step fails


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.01)


def test_a_worker_that_hangs_fails_the_health_checks_and_its_requests_until_it_goes_on(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    made, waves, ahead = serving(bundle), Hanging(), [0.0]

    async def scenario(ask: Ask) -> Any:
        batcher: Any = made.batcher
        made.heartbeat = Heartbeat(lambda: batcher.stalled_s and batcher.stalled_s + ahead[0], 10.0)
        asked = asyncio.ensure_future(ask("/predict", BODY))
        await until(lambda: waves.began.is_set() and batcher.stalled_s > 0)
        ahead[0] = 20.0
        made.look()
        slow = [(await ask(path))[0] for path in PATHS]
        refusal = await ask("/predict", BODY)
        index = json.loads((await ask("/"))[2])
        ahead[0] = 100.0
        made.look()
        hung = [(await ask(path))[0] for path in PATHS]
        waves.go.set()
        answer = await asked
        await until(lambda: batcher.stalled_s == 0)
        made.look()
        return slow, refusal, index["state"], hung, answer[0], [(await ask(path))[0] for path in PATHS]

    slow, refusal, state, hung, answer, again = run(made, scenario, waves)
    assert slow == [200, 200, 503, 503]
    assert (refusal[0], json.loads(refusal[2])["code"], refusal[1][b"retry-after"]) == (503, "stalled", b"5")
    assert state == "stalled"
    assert hung == [503, 503, 503, 503]
    assert answer == 500
    assert again == [200, 200, 200, 200]
    stack = next(record.fields["stack"] for record in caplog.records if hasattr(record, "fields") and "stack" in record.fields)
    assert "self.go.wait(10)" in stack  # the log says where it hangs


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_whose_thread_has_ended_is_neither_ready_nor_alive(bundle: Bundle) -> None:
    made = serving(bundle)

    async def scenario(ask: Ask) -> Any:
        batcher: Any = made.batcher
        made.heartbeat = Heartbeat(lambda: batcher.stalled_s, 10.0)
        asked = asyncio.ensure_future(ask("/predict", BODY))
        await until(lambda: batcher.stalled_s == math.inf)
        asked.cancel()
        made.look()
        return [(await ask(path))[0] for path in PATHS]

    assert run(made, scenario, Hanging(ends=True)) == [503, 503, 503, 503]


def test_an_idle_worker_is_well_however_long(bundle: Bundle, waves: Any) -> None:
    made = serving(bundle)

    async def scenario(ask: Ask) -> Any:
        batcher: Any = made.batcher
        assert (await ask("/predict", BODY))[0] == 200
        await until(lambda: batcher.stalled_s == 0)
        batcher._stepped = batcher._waits_since = -1e6
        return batcher.stalled_s

    assert run(made, scenario, waves) == 0
