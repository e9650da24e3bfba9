"""A free port, and the wait until a server is ready: yes, too late, and never."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from benchmarks.harness.readiness import answers_200, free_port, wait_until

SLEEPS = [sys.executable, "-c", "import time; time.sleep(60)"]


class Status(BaseHTTPRequestHandler):
    """Answers /readyz with 200 and every other path with 503."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/readyz" else 503)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def port() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), Status) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log"
    path.write_text("the bundle is damaged")
    return path


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(SLEEPS) as sleeping:
        yield sleeping
        sleeping.kill()


def test_a_free_port_can_be_listened_on() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", free_port()))


def test_only_status_200_is_ready(port: int) -> None:
    assert answers_200(port)
    assert not answers_200(port, "/livez")
    assert not answers_200(free_port())


def test_it_waits_until_the_answer_is_yes(process: subprocess.Popen[bytes], log: Path) -> None:
    answers = iter([False, False, True])
    wait_until(lambda: next(answers), process, log, within_s=10, every_s=0.001)
    assert list(answers) == []


def test_after_the_time_it_tells_what_the_process_wrote(process: subprocess.Popen[bytes], log: Path) -> None:
    with pytest.raises(RuntimeError, match=r"ready within 0\.01 s, it is not:\nthe bundle is damaged"):
        wait_until(lambda: False, process, log, within_s=0.01, every_s=0.001)


def test_a_process_that_has_ended_is_not_waited_for(log: Path) -> None:
    started = time.monotonic()
    with subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]) as ended:
        ended.wait()
        with pytest.raises(RuntimeError, match="ended with 3:\nthe bundle is damaged"):
            wait_until(lambda: False, ended, log, within_s=60)
    assert time.monotonic() - started < 30
