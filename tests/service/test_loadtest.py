"""The load test against a real gateway, as it is called; and that it is an open model."""

from __future__ import annotations

import csv
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service.conftest import ROOT

LOCUST = [sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--headless", "--only-summary", "--host"]


def ran(command: list[str], where: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=150)


def test_it_starts_a_gateway_loads_it_prints_a_verdict_and_stops_it(tmp_path: Path) -> None:
    lenient = tmp_path / "slo.toml"
    lenient.write_text("[answers]\nerror_ratio = 0\n[bad_input]\nerror_ratio = 0\n[abstention]\nclean_ratio = 0.2\n")
    options = ["--rate", "20", "--seconds", "8", "--slo", str(lenient)]
    done = subprocess.run(
        [sys.executable, "-m", "loadtest.run", *options],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "verdict: met" in done.stdout
    assert "is ready, the load begins" in done.stderr
    assert re.search(r"loadtest: [2-9] s, \d+ requests, 0 not answered as due", done.stderr)
    out = tmp_path / "out" / "loadtest"
    assert "<html" in (out / "report.html").read_text()
    with (out / "report_stats.csv").open() as file:
        rows = {row["Name"]: row for row in csv.DictReader(file)}
    assert int(rows["clean /predict"]["Request Count"]) > 40
    assert int(rows["Aggregated"]["Failure Count"]) == 0
    address = next(line.split()[3] for line in done.stdout.splitlines() if " requests to http" in line).rstrip(",")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/livez")


def test_a_limit_that_is_missed_is_exit_code_3_and_says_which(server: Any, tmp_path: Path) -> None:
    strict = tmp_path / "slo.toml"
    strict.write_text("[answers]\nerror_ratio = 0\np50_ms = 0\n")
    done = ran([*LOCUST, server.url, "--rate", "10", "--seconds", "7", "--slo", str(strict), "--wire", "npy"])
    assert done.returncode == 3, done.stdout + done.stderr
    assert "verdict: missed answers.p50_ms" in done.stdout
    assert "answers.error_ratio                   0" in done.stdout


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--slo", "nowhere.toml"], "the limits in nowhere.toml cannot be read"),
        (["--payloads", "loadtest/slo.toml"], "loadtest: "),
        (["--seconds", "1"], "--seconds above 6"),
    ],
)
def test_a_mistake_is_exit_code_2_and_one_line(options: list[str], says: str) -> None:
    done = ran([*LOCUST, "http://127.0.0.1:9", *options])
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_requests_go_on_arriving_while_nothing_is_answered(tmp_path: Path) -> None:
    """Two users, and a server that answers nobody before six ask at once: a closed loop would wait for ever."""
    asked, enough = threading.Semaphore(0), threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection:
            connection.recv(1 << 20)
            asked.release()
            enough.wait(60)
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")

    def count() -> None:
        for _ in range(6):
            asked.acquire(timeout=60)
        enough.set()

    def listen(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    limits = tmp_path / "slo.toml"
    limits.write_text("[answers]\nerror_ratio = 0\n")
    threading.Thread(target=count, daemon=True).start()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=listen, args=(listener,), daemon=True).start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        done = ran([*LOCUST, address, "--rate", "2", "--seconds", "8", "--wire", "npy", "--slo", str(limits), "CleanDigits"])
    assert done.returncode == 0, done.stdout + done.stderr
