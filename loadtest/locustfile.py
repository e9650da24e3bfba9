"""python -m locust -f loadtest/locustfile.py --headless --host http://127.0.0.1:3000 --shape steady --rate 100 --seconds 60

Its own options are under "load test" in --help; docs/loadtest.md describes the users, the shapes and the verdict.
"""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import gevent
from locust import LoadTestShape, events
from locust.env import Environment
from locust.runners import LocalRunner

sys.path.insert(0, str(Path(__file__).parents[1]))  # locust itself adds this file's own directory only

from loadtest import gate, payloads, shapes
from loadtest.users import AdversarialDigits, CleanDigits, LoadedGateway, Malformed, Oversize, Stream, ThiefUser, TriggeredDigits

_TELL_EVERY_S = 10.0

__all__ = ["AdversarialDigits", "ArrivalRate", "CleanDigits", "Malformed", "Oversize", "ThiefUser", "TriggeredDigits"]


@events.init_command_line_parser.add_listener
def add_options(parser: ArgumentParser) -> None:
    """Add our options to locust's."""
    group = parser.add_argument_group("load test", "an open model: one user is one arrival a second on average")
    group.add_argument("--shape", choices=shapes.NAMES, default="steady", help="the rate over time, default %(default)s")
    group.add_argument("--rate", type=float, default=50.0, help="arrivals per second, of a ramp the highest, default %(default)s")
    group.add_argument("--seconds", type=float, default=60.0, help="duration, default %(default)s")
    group.add_argument("--at-least", type=float, default=0.0, help="of a ramp: the lowest rate that passes")
    group.add_argument("--slo", type=Path, default=gate.SHIPPED, help="the limits, default %(default)s")
    group.add_argument("--payloads", type=Path, default=payloads.SHIPPED, help="the images, default %(default)s")
    group.add_argument(
        "--wire", choices=sorted(payloads.WRITERS), default="json", help="format of the images, default %(default)s"
    )
    group.add_argument("--key-file", type=Path, help="a file with the key for Authorization: Bearer")
    group.add_argument("--request-timeout", type=float, default=30.0, help="seconds for an answer, default %(default)s")


@events.init.add_listener
def prepare(environment: Environment, **_: Any) -> None:
    """Read limits and images before the first request; a mistake ends the test with exit code 2 and one line."""
    given = environment.parsed_options
    if given is None:
        return
    if not isinstance(environment.runner, LocalRunner):
        _give_up("expected one process, got --master, --worker or --processes; start several load tests instead")
    if given.rate < 1 or given.seconds <= 2 * shapes.WARM_UP_S:
        _give_up(f"expected --rate 1 or more and --seconds above {2 * shapes.WARM_UP_S:g}, got {given.rate:g}, {given.seconds:g}")
    try:
        gate.read_limits(given.slo)
        images = payloads.read_images(given.payloads)
        key = given.key_file.read_text().strip() if given.key_file else ""
    except (OSError, ValueError) as mistake:
        _give_up(str(mistake))
    Stream.target = LoadedGateway(
        environment.host or "http://127.0.0.1:3000", images, environment.events, given.wire, key, given.request_timeout
    )


def _give_up(reason: str) -> None:
    print(f"loadtest: {reason}", file=sys.stderr)
    sys.exit(gate.BAD_LIMITS)


@events.test_start.add_listener
def begin(environment: Environment, **_: Any) -> None:
    """Start the clock with the test, not with the process."""
    Stream.target.start()
    if environment.parsed_options is not None:
        gevent.spawn(_tell_progress, min(_TELL_EVERY_S, environment.parsed_options.seconds / 4))


def _tell_progress(every_s: float) -> None:
    """Say on stderr how far the test is, until the process ends."""
    target = Stream.target
    while True:
        gevent.sleep(every_s)
        otherwise = sum(not sample.due for sample in target.samples)
        so_far = f"{time.perf_counter() - target.began:.0f} s, {len(target.samples):,} requests"
        print(f"loadtest: {so_far}, {otherwise:,} not answered as due", file=sys.stderr, flush=True)


_VERDICTS: dict[int, str] = {}


def _verdict(environment: Environment) -> tuple[int, str]:
    given, target = environment.parsed_options, Stream.target
    assert given is not None  # noqa: S101  # for the type checker
    limits = gate.read_limits(given.slo)
    head = f"{len(target.samples)} requests to {target.url}, {given.shape}, {given.rate:g} arrivals/s, {given.seconds:g} s"
    if given.shape == "ramp":
        highest, table = gate.saturation(target.samples, limits, rate=given.rate, seconds=given.seconds)
        code = gate.FINE if highest >= given.at_least else gate.MISSED
        text = f"{table}\nverdict: {'met' if code == gate.FINE else 'missed'}, every limit is met up to {highest:g} arrivals/s"
    else:
        lines = gate.judge(target.samples, limits, shape=given.shape, rate=given.rate, seconds=given.seconds)
        code, text = gate.verdict(lines)
    return code, f"{head}\n{text}"


@events.quitting.add_listener
def decide(environment: Environment, **_: Any) -> None:
    """Set the exit code to the verdict's."""
    if environment.parsed_options is not None:
        code, text = _verdict(environment)
        _VERDICTS[code] = text
        environment.process_exit_code = code


@events.quit.add_listener
def tell(exit_code: int, **_: Any) -> None:
    """Print the verdict, after locust's own tables."""
    if exit_code in _VERDICTS:
        print(_VERDICTS[exit_code], flush=True)


@events.test_stop.add_listener
def finish(**_: Any) -> None:
    """Wait for requests that are still running."""
    Stream.target.finish()


class ArrivalRate(LoadTestShape):
    """The number of users over time, by --shape, --rate and --seconds."""

    def tick(self) -> tuple[int, float] | None:
        """The number of users now, and how many to start per second: all at once. None at the end."""
        assert self.runner is not None  # noqa: S101  # for the type checker
        given = self.runner.environment.parsed_options
        assert given is not None  # noqa: S101
        users = shapes.users_at(shapes.parts(given.shape, given.rate, given.seconds), self.get_run_time())  # type: ignore[no-untyped-call]
        return None if users is None else (users, float(users))
