"""python -m loadtest.run [locust's options]: start a gateway, load it, stop it; the exit code is the verdict's.

What `make loadtest` calls. The gateway is started by its command, `hauberk serve`, on a free port and with logs and reports under
out/loadtest; whatever is given is passed on to locust, see `python -m locust -f loadtest/locustfile.py --help`. The wait until it is
ready is written here once more, because loadtest/ imports nothing of this project.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
OUT = Path("out") / "loadtest"
_SERVE = [sys.executable, "-c", "from hauberk.main import main; main()", "serve"]
_READY_S = 300.0
_NOT_STARTED = 1


@contextlib.contextmanager
def gateway(out: Path) -> Iterator[str]:
    """Run a gateway and yield its address; its log is in `out`. Raises: RuntimeError: not ready in time."""
    port = _free_port()
    environment = os.environ | {"BENTOML_HOME": str(out / "bentoml"), "PYTHONPATH": str(ROOT), "HAUBERK_DRAIN_S": "0"}
    with (out / "gateway.log").open("wb") as log:
        process = subprocess.Popen([*_SERVE, "--port", str(port)], env=environment, stdout=log, stderr=log)  # noqa: S603
        try:
            _wait(process, port, out / "gateway.log")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    give_up = time.monotonic() + _READY_S
    while time.monotonic() < give_up and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/readyz")
            if connection.getresponse().status == http.client.OK:
                return
        time.sleep(0.2)
    raise RuntimeError(f"the gateway did not get ready, see {log}:\n{log.read_text(errors='replace')[-2000:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def locust(address: str, out: Path, options: Sequence[str]) -> int:
    """Run the load test against an address; its reports are written as `out`/report.html and `out`/report_*.csv."""
    report = ["--html", str(out / "report.html"), "--csv", str(out / "report"), "--only-summary"]
    command = [sys.executable, "-m", "locust", "-f", str(Path(__file__).with_name("locustfile.py")), "--headless"]
    return subprocess.run([*command, "--host", address, *report, *options], check=False).returncode  # noqa: S603


def main() -> int:
    """Start the gateway, run the load test, and return its exit code."""
    OUT.mkdir(parents=True, exist_ok=True)
    print("loadtest: starting a gateway, half a minute when its kernels have to be compiled", file=sys.stderr, flush=True)
    try:
        with gateway(OUT.absolute()) as address:
            print(f"loadtest: {address} is ready, the load begins", file=sys.stderr, flush=True)
            code = locust(address, OUT, sys.argv[1:])
    except RuntimeError as failure:
        print(f"loadtest: {failure}", file=sys.stderr)
        return _NOT_STARTED
    print(f"reports in {OUT}: report.html, report_*.csv, gateway.log")
    return code


if __name__ == "__main__":
    sys.exit(main())
