"""python -m benchmarks.fuzzing.fuzz: random and mutated requests against a real server, each answer checked.

Requirements: no 5xx except 503 queue_full and what a framing is refused with (501, 505), an answer within a bounded time, X-Request-ID on
it, a short problem document for every refusal, the known answer to valid requests sent in between, and memory that stays flat. Exit code
1 on a violation.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import orjson

from benchmarks.fuzzing.hostile_requests import FOREIGN_PAGE, Attempt, attempt
from benchmarks.fuzzing.valid_requests import WireRequest, valid_requests
from benchmarks.harness.peers import machine, table
from benchmarks.harness.raw_http import Cut, RawAnswer, RawConnection
from benchmarks.harness.servers import GATEWAY, Contender, serving
from models.datasets import MNIST, load_dataset

_CONNECTIONS = 12
_DEADLINE_S = 2  # of the server that is fuzzed
_ANSWER_WITHIN_S = 15.0
# After a damaged framing the server may wait for more bytes: most clients then close the connection, one in _PATIENT waits.
_SILENCE_S, _PATIENT = 0.1, 40
_REFUSAL_BYTES_AT_MOST = 2048
_KNOWN_EVERY, _TOLD_EVERY, _SAMPLES = 50, 10_000, 100
_WARM_UP = 0.25
_GROWTH_AT_MOST = 32 << 20
_VIOLATIONS_AT_MOST = 10
_SERVER = Contender("Hauberk", GATEWAY, {"HAUBERK_DEADLINE_S": str(_DEADLINE_S), "HAUBERK_SECRET": "0123456789abcdef"})
_READY = b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
# What a server error may be: no room, a transfer coding or a version that is not spoken.
_ALLOWED = {503: b'"queue_full"', 501: b'"unsupported_transfer_coding"', 505: b'"unsupported_version"'}
_PROBLEM = {"type", "title", "status", "detail", "code", "request_id"}


@dataclass(frozen=True)
class Violation:
    """A violated requirement, and the attempt that revealed it."""

    attempt: Attempt
    what: str


@dataclass(frozen=True)
class FuzzedServer:
    """The server under test: its port, valid requests for it, and one of them with its known answer."""

    port: int
    requests: tuple[WireRequest, ...]
    known: WireRequest
    predictions: list[dict[str, object]]

    @classmethod
    def at(cls, port: int, images: int = 2) -> FuzzedServer:
        """The server on this port, which must serve a classifier of MNIST digits."""
        url = f"http://127.0.0.1:{port}"
        index = httpx.get(url).json()
        digits = load_dataset(MNIST, split="test").images[:images]
        requests = valid_requests(index["model"], index["model_version"], digits)
        known = requests[1]
        answer = httpx.post(url + known.target.decode(), content=known.body, headers={"content-type": "application/json"})
        return cls(port, requests, known, answer.raise_for_status().json()["predictions"])

    def metric(self, name: str) -> float:
        """The value of a metric without labels."""
        text = httpx.get(f"http://127.0.0.1:{self.port}/metrics", timeout=30).text
        return float(next(line for line in text.splitlines() if line.startswith(f"{name} ")).split()[1])


@dataclass
class FuzzReport:
    """Counts by kind of attempt and status, where None is no answer, which is allowed only after a damaged framing; and violations."""

    seed: int
    requests: int
    outcomes: dict[str, Counter[int | None]] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)
    memory: list[tuple[int, float]] = field(default_factory=list)
    files: list[float] = field(default_factory=list)
    known_right: int = 0
    slowest_s: float = 0.0
    seconds: float = 0.0

    @property
    def growth(self) -> float:
        """Growth of the worker's memory after warm-up, in bytes: the median of the last fifth of the samples less that of the first."""
        sizes = np.array([size for sent, size in self.memory if sent >= _WARM_UP * self.requests])
        if len(sizes) < 10:
            return 0.0
        part = len(sizes) // 5
        return float(np.median(sizes[-part:]) - np.median(sizes[:part]))

    @property
    def slope(self) -> float:
        """Slope of the worker's memory after warm-up, in bytes per 10,000 requests, by least squares."""
        sent, size = np.array([sample for sample in self.memory if sample[0] >= _WARM_UP * self.requests]).reshape(-1, 2).T
        return float(np.polyfit(sent, size, 1)[0]) * 10_000 if len(sent) >= 10 else 0.0

    @property
    def failed(self) -> bool:
        return bool(self.violations) or self.growth > _GROWTH_AT_MOST

    def note(self, kind: str, status: int | None) -> None:
        self.outcomes.setdefault(kind, Counter())[status] += 1


class Fuzzer:
    """Sends attempts over several connections at once.

    Args:
        target: the server. seed, requests: determine the attempts.
        patient: one in this many attempts with a damaged framing waits until the server gives up.
    """

    def __init__(self, target: FuzzedServer, *, seed: int, requests: int, patient: int = _PATIENT) -> None:
        self._target, self._patient = target, patient
        self.report = FuzzReport(seed, requests)
        self._next = iter(range(requests))
        self._lock = threading.Lock()

    def run(self, numbers: Sequence[int] | None = None) -> FuzzReport:
        """Send all attempts, or those of these numbers; ends early at the tenth violation."""
        if numbers is not None:
            self._next = iter(numbers)
        started = time.monotonic()
        self._sample(0)
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(_CONNECTIONS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._sample(self.report.requests)
        self._check_idle()
        self.report.seconds = time.monotonic() - started
        return self.report

    def _work(self) -> None:
        connection: RawConnection | None = None
        sample_every = max(1, self.report.requests // _SAMPLES)
        while (number := self._take()) is not None:
            tried = attempt(self._target.requests, self.report.seed, number)
            try:
                connection = self._send(tried, connection)
                if number % _KNOWN_EVERY == 0:
                    connection = self._send_known(tried, connection)
            except Exception as failure:  # noqa: BLE001  # any exception is a violation that this attempt revealed
                self._find(tried, f"{type(failure).__name__}: {failure}")
                connection = None
            if number and number % sample_every == 0:
                self._sample(number)
            if number and number % _TOLD_EVERY == 0:
                print(f"{number:,} of {self.report.requests:,} sent", file=sys.stderr, flush=True)
        if connection is not None:
            connection.close()

    def _take(self) -> int | None:
        with self._lock:
            return next(self._next, None) if len(self.report.violations) < _VIOLATIONS_AT_MOST else None

    def _sample(self, sent: int) -> None:
        memory, files = self._target.metric("process_resident_memory_bytes"), self._target.metric("process_open_fds")
        with self._lock:
            self.report.memory.append((sent, memory))
            self.report.files.append(files)

    def _find(self, tried: Attempt, what: str) -> None:
        with self._lock:
            self.report.violations.append(Violation(tried, what))

    def _connect(self) -> RawConnection:
        return RawConnection(self._target.port, timeout_s=_ANSWER_WITHIN_S)

    def _send(self, tried: Attempt, connection: RawConnection | None) -> RawConnection | None:
        """Send an attempt and check its answers; returns the connection if it can be used again."""
        used = connection is not None
        connection = connection or self._connect()
        whole = connection.send(tried.wire)
        if tried.ends:
            connection.end()
        if tried.leaves:
            connection.close()
            self.report.note(tried.kind, None)
            return None
        if not tried.framed:
            self._listen(tried, connection)
            connection.close()
            return None
        for i, method in enumerate(tried.methods):
            answer = self._answer(connection, method, _ANSWER_WITHIN_S)
            if answer is None:
                connection.close()
                if used and i == 0:  # an idle connection that the server closed just then
                    return self._send(tried, None)
                raise Cut("closed without an answer" if whole else "closed while it was sent, without an answer")
            self._check(tried, answer)
            if answer.headers.get("connection") == "close" or tried.ends:
                connection.close()
                return None
        return connection

    def _listen(self, tried: Attempt, connection: RawConnection) -> None:
        """Check all answers to a damaged framing."""
        patient = tried.number % self._patient == 0
        due = [*tried.methods, *[b"GET"] * 20]  # what is left over may look like further requests
        for i, method in enumerate(due):
            try:
                answer = self._answer(connection, method, _ANSWER_WITHIN_S if patient and i == 0 else _SILENCE_S)
            except (TimeoutError, Cut):
                # A damaged method may read as HEAD, which has no body to wait for. Patient attempts check that the server does not hang.
                if patient and i == 0:
                    raise
                answer = None
            if answer is None:
                if i == 0:
                    self.report.note(tried.kind, None)
                return
            self._check(tried, answer)
            if answer.headers.get("connection") == "close":
                return

    def _answer(self, connection: RawConnection, method: bytes, within_s: float) -> RawAnswer | None:
        started = time.monotonic()
        answer = connection.answer(method, within_s=within_s)
        if answer is not None:
            self.report.slowest_s = max(self.report.slowest_s, time.monotonic() - started)
        return answer

    def _check(self, tried: Attempt, answer: RawAnswer) -> None:
        self.report.note(tried.kind, answer.status)
        what = complaint(answer)
        if tried.kind == FOREIGN_PAGE and answer.status == 200:
            what = "a page of another site, or a proxy, was answered"
        if what is not None:
            self._find(tried, what)

    def _send_known(self, tried: Attempt, connection: RawConnection | None) -> RawConnection | None:
        """Send the valid request with the known answer, and check that it gets that answer."""
        good = Attempt(tried.number, "known", self._target.known.wire(), (b"POST",))
        connection = connection or self._connect()
        connection.send(good.wire)
        answer = self._answer(connection, b"POST", _ANSWER_WITHIN_S)
        if answer is None:
            connection.close()
            return self._send_known(tried, None)
        if answer.status == 503 and b'"queue_full"' in answer.body:
            return connection
        if answer.status != 200 or not alike(orjson.loads(answer.body)["predictions"], self._target.predictions):
            raise Cut(f"the valid request after it got {answer.status} {answer.body[:300]!r}")
        with self._lock:
            self.report.known_right += 1
        return connection

    def _check_idle(self) -> None:
        """Check that no request is in flight and no image in the queue once all clients have disconnected."""
        give_up = time.monotonic() + 2 * _DEADLINE_S + 10
        while time.monotonic() < give_up:
            if self._target.metric("hauberk_requests_in_flight") <= 1 and not self._target.metric("hauberk_queue_depth"):
                return  # 1 is the scrape itself
            time.sleep(0.2)
        self._find(Attempt(-1, "end", b"", ()), "requests are still in flight after their clients have left")


def complaint(answer: RawAnswer) -> str | None:
    """The violated requirement of an answer; None if it meets all."""
    media_type = answer.headers.get("content-type", "")
    refusal = f"{answer.status} {answer.body[:300]!r}"
    if answer.status >= 500 and _ALLOWED.get(answer.status, b"none") not in answer.body:
        return f"a server error: {refusal}"
    if not answer.headers.get("x-request-id"):
        return f"no X-Request-ID: {refusal}"
    if answer.status < 400 or not answer.body:
        return None
    if len(answer.body) > _REFUSAL_BYTES_AT_MOST:
        return f"a refusal of {len(answer.body)} bytes: {refusal}"
    document = orjson.loads(answer.body)
    if media_type == "application/problem+json":
        fine = set(document) >= _PROBLEM and document["request_id"] == answer.headers["x-request-id"]
        return None if fine and len(document.get("errors", ())) <= 5 else f"not a problem document: {refusal}"
    return None if media_type == "application/json" and list(document) == ["error"] else f"an error of another shape: {refusal}"


def alike(predictions: list[dict[str, object]], known: list[dict[str, object]]) -> bool:
    """Whether two answers agree, up to the rounding differences between batches."""
    if len(predictions) != len(known):
        return False
    for one, other in zip(predictions, known, strict=True):
        if (one["label"], one["abstained"]) != (other["label"], other["abstained"]):
            return False
        mine, theirs = (np.array(prediction["probabilities"] or [0.0], float) for prediction in (one, other))
        if not np.allclose(mine, theirs, atol=1e-3):
            return False
    return True


def fuzz(requests: int, seed: int, numbers: Sequence[int] | None = None) -> FuzzReport:
    """Start a server with the bundled classifier and fuzz it."""
    with tempfile.TemporaryDirectory() as directory, serving(_SERVER, Path(directory), _READY) as server:
        return Fuzzer(FuzzedServer.at(server.port), seed=seed, requests=requests).run(numbers)


def section(requests: int = 100_000, seed: int = 0) -> str:
    """The page's section."""
    return described(fuzz(requests, seed))


def described(report: FuzzReport) -> str:
    """The section of the page for a report."""
    rows = []
    for kind, outcomes in sorted(report.outcomes.items()):
        classes: Counter[str] = Counter()
        for status, count in outcomes.items():
            classes["none" if status is None else f"{status // 100}xx"] += count
        statuses = ", ".join(str(status) for status in sorted(status for status in outcomes if status is not None))
        rows.append([kind, *(f"{classes[name]:,}" for name in ("2xx", "4xx", "5xx", "none")), statuses])
    first, *_, last = [size / 2**20 for _, size in sorted(report.memory)]
    return (
        f"## Fuzzing\n\n`python -m benchmarks.fuzzing.fuzz --seed {report.seed}`: {report.requests:,} random and mutated requests over "
        f'{_CONNECTIONS} connections, deadline {_DEADLINE_S} s. "None": attempts without an answer, whose client '
        "left early or damaged the framing so that the server waited for more bytes.\n\n"
        f"{table(('kind', '2xx', '4xx', '5xx', 'none', 'statuses'), rows)}\n"
        f"{len(report.violations)} violations in {report.seconds:,.0f} s. {report.known_right:,} valid requests in between got their "
        f"known answer. Slowest answer {report.slowest_s:.2f} s. Memory of the worker: {first:.0f} MiB at first, {last:.0f} MiB at "
        f"the end; after a warm-up of {100 * _WARM_UP:.0f} % it grew {report.growth / 2**20:+.1f} MiB, "
        f"{report.slope / 2**20:+.2f} MiB per 10,000 requests. Open files: {report.files[0]:.0f} at first, {report.files[-1]:.0f} at "
        "the end.\n"
    )


def _told(found: Violation, seed: int) -> str:
    tried = found.attempt
    again = f"python -m benchmarks.fuzzing.fuzz --seed {seed} --only {tried.number}"
    return f"VIOLATION {tried.number} ({tried.kind}): {found.what}\n  again: {again}\n  {len(tried.wire)} bytes: {tried.wire[:2000]!r}"


def main() -> None:
    """Print the section and every violation."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzzing.fuzz", description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="*", help="send only the attempts of these numbers")
    options = parser.parse_args()
    report = fuzz(options.requests, options.seed, options.only)
    print(described(report))
    print(machine())
    for violation in report.violations:
        print(_told(violation, report.seed), file=sys.stderr)
    if report.growth > _GROWTH_AT_MOST:
        print(f"VIOLATION: memory grew by {report.growth / 2**20:.0f} MiB after warm-up", file=sys.stderr)
    sys.exit(1 if report.failed else 0)


if __name__ == "__main__":
    main()
