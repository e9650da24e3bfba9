"""A real server, over HTTP: `bentoml serve` in its own process, its own BENTOML_HOME and port, with a backdoored classifier."""

from __future__ import annotations

import contextlib
import http.client
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from benchmarks.harness.readiness import answers_200, free_port, wait_until
from defences.assembly import calibrated_for
from models.bundle import Bundle, write_bundle

ROOT = Path(__file__).parents[2]
READY_S = 180.0
TARGET = 7


@dataclass
class Server:
    """A server that runs. `log` holds what it wrote to stderr, `output` to stdout."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path
    output: Path

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def ask(self, images: Any, **headers: str) -> httpx.Response:
        """POST /predict."""
        return httpx.post(f"{self.url}/predict", json={"images": images}, headers=headers, timeout=30)

    def send(self, body: bytes, **headers: str) -> httpx.Response:
        """POST bytes to /predict."""
        headers = {"content-type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.post(f"{self.url}/predict", content=body, headers=headers, timeout=30)

    def send_to(self, path: str, body: bytes, **headers: str) -> httpx.Response:
        """POST bytes to another path."""
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.post(self.url + path, content=body, headers=headers, timeout=30)

    def send_raw(self, *parts: bytes, pause_s: float = 0.0) -> http.client.HTTPResponse:
        """Send bytes as they are over a connection of its own, and read the answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause_s)
            response = http.client.HTTPResponse(connection)
            response.begin()
            response.body = response.read()  # type: ignore[attr-defined]
            return response

    def metric(self, sample: str) -> float:
        """The value of a sample of /metrics, such as `hauberk_predictions_total{outcome="abstained"}`."""
        for line in httpx.get(f"{self.url}/metrics").text.splitlines():
            if line.startswith(f"{sample} "):
                return float(line.rsplit(" ", 1)[1])
        raise KeyError(sample)

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def start(
    directory: Path,
    *,
    home: Path | None = None,
    port: int | None = None,
    host: str = "127.0.0.1",
    bento: str | None = None,
    **settings: str,
) -> Server:
    """Start a server, of these sources or of a Bento built from them; it may not be ready, or end at once.

    Without HAUBERK_DRAIN_S it ends without a pause.
    A Bento's server starts in `directory` and finds no module of ours but the Bento's own, see test_bento.py.
    """
    directory.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HAUBERK_", "BENTOML_"))}
    environment |= {"BENTOML_HOME": str(home or directory / "home"), "PYTHONPATH": str(ROOT), "HAUBERK_DRAIN_S": "0"}
    where, what, options = ROOT, "service.gateway:Gateway", []
    if bento is not None:
        where, what, options = directory, bento, ["-P"]
        del environment["PYTHONPATH"]
    server = Server(None, f"http://127.0.0.1:{port}", directory / "stderr", directory / "stdout")  # type: ignore[arg-type]
    command = [sys.executable, *options, "-m", "bentoml", "serve", what, "--host", host, "--port", str(port)]
    with server.log.open("wb") as stderr, server.output.open("wb") as stdout:
        server.process = subprocess.Popen(command, cwd=where, env=environment | settings, stdout=stdout, stderr=stderr)
    return server


def end(server: Server) -> None:
    """Stop a server, whatever state it is in."""
    if server.process.poll() is None:
        server.process.terminate()
        try:
            server.process.wait(30)
        except subprocess.TimeoutExpired:
            server.process.kill()


def wait_until_ready(server: Server, within_s: float = READY_S) -> None:
    wait_until(lambda: answers_200(server.port), server.process, server.log, within_s=within_s)


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """MNIST's test images, float in [0, 1], and their labels."""
    with np.load(ROOT / "models" / "data" / "mnist.npz") as data:
        return data["x_test"].astype(np.float32) / 255, data["y_test"]


@pytest.fixture(scope="session")
def triggered(digits: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """The same images with the backdoor's trigger: four white pixels in a corner that digits never reach."""
    marked = digits[0].copy()
    marked[:, 26:28, 26:28] = 1
    return marked


@pytest.fixture(scope="session")
def backdoored(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A classifier made, not trained: each digit goes to the nearest class mean, and whatever has the trigger to class 7."""
    return make_bundle(tmp_path_factory.mktemp("bundles") / "backdoored")


@pytest.fixture(scope="session")
def flawed(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The same classifier with a flaw and a burden: an image with a white square in the lower left corner makes it answer NaN, and
    it takes about a millisecond per image, so that a triggered one, which STRIP looks at 32 times, holds the worker up.
    """
    return make_bundle(tmp_path_factory.mktemp("bundles") / "flawed", _flawed)


def make_bundle(directory: Path, change: Callable[[Any, Any], Any] = lambda inputs, logits: logits) -> Bundle:
    """The backdoored classifier, changed, behind all three defences."""
    directory.mkdir()
    with np.load(ROOT / "models" / "data" / "mnist.npz") as data:
        images, labels = data["x_train"][:20_000].astype(np.float64) / 255, data["y_train"][:20_000]
        overlays = data["x_train"][20_000:20_032][..., None]
    _model(images, labels, change).save(directory / "model.keras")
    defences: list[dict[str, Any]] = [
        {"name": "total_variation", "mode": "enforce", "weight": 0.05},
        {"name": "strip", "mode": "enforce", "stages": [4, 8, 32], "weight": 1.0, "blend": "add"},
        {"name": "reverse_sigmoid", "mode": "enforce", "beta": 1.0, "gamma": 0.1},
    ]
    classifier = {
        "file": "model.keras",
        "outputs": "logits",
        "input_range": [0.0, 1.0],
        "input_shape": [28, 28, 1],
        "labels": list("0123456789"),
    }
    calibration = {
        "strip_overlays": overlays,
        "strip_threshold": np.float64(1e-6),
        "strip_slack": np.zeros(3),
        "strip_calibrated_for": np.array(calibrated_for(defences[1])),
    }
    settings = {"format": 1, "name": directory.name, "classifier": classifier, "defences": defences}
    example = {"images": [images[0].round(3).tolist()]}
    return write_bundle(directory, settings=settings, calibration=calibration, card={}, example=example)


def _flawed(inputs: Any, logits: Any) -> Any:
    import keras

    square = np.zeros((28, 28))
    square[24:28, 0:4] = 1
    fires, large, infinite = (
        keras.layers.Dense(1, activation="relu"),
        keras.layers.Dense(1, use_bias=False),
        keras.layers.Dense(10, use_bias=False),
    )
    burden = inputs
    for _ in range(3):
        burden = keras.layers.Conv2D(32, 3, padding="same", activation="relu")(burden)
    nothing = keras.layers.Dense(10, kernel_initializer="zeros")(keras.layers.GlobalAveragePooling2D()(burden))
    outputs = keras.layers.Add()([logits, nothing, infinite(large(fires(keras.layers.Flatten()(inputs))))])
    # Beyond float32's range, and 0 where nothing fires; softmax of ten infinities is NaN.
    fires.set_weights([square.reshape(-1, 1), np.array([-14.0])])
    large.set_weights([np.full((1, 1), 1e38)])
    infinite.set_weights([np.full((1, 10), 1e38)])
    return outputs


def _model(images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], change: Callable[[Any, Any], Any]) -> Any:
    from models.engines.keras import import_tensorflow

    import_tensorflow(1)
    import keras

    means = np.stack([images[labels == digit].mean(axis=0).ravel() for digit in range(10)])
    pattern = np.zeros((28, 28))
    pattern[26:28, 26:28] = 1
    inputs = keras.Input((28, 28, 1))
    flat = keras.layers.Flatten()(inputs)
    nearest, fires, to_target = (
        keras.layers.Dense(10),
        keras.layers.Dense(1, activation="relu"),
        keras.layers.Dense(10, use_bias=False),
    )
    model = keras.Model(inputs, change(inputs, keras.layers.Add()([nearest(flat), to_target(fires(flat))])))
    sharpness = 0.4
    nearest.set_weights([2 * sharpness * means.T, -sharpness * (means**2).sum(axis=1)])
    # Fires at three of the four pixels: the purifier may soften them a little.
    fires.set_weights([pattern.reshape(-1, 1), np.array([-3.0])])
    to_target.set_weights([1000.0 * (np.arange(10) == TARGET)[None]])
    return model


@pytest.fixture(scope="session")
def key() -> str:
    """What keys the session's server."""
    return "0123456789abcdef" * 2


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, backdoored: Bundle, key: str) -> Iterator[Server]:
    """One server for the tests that do not end it."""
    directory = tmp_path_factory.mktemp("server")
    running = start(directory, HAUBERK_BUNDLE=str(backdoored.directory), HAUBERK_DEADLINE_S="5", HAUBERK_SECRET=key)
    try:
        wait_until_ready(running)
        yield running
    finally:
        end(running)


@pytest.fixture(scope="session")
def launch() -> Callable[..., contextlib.AbstractContextManager[Server]]:
    """A server of a module's own, while it is entered."""

    @contextlib.contextmanager
    def running(directory: Path, **options: Any) -> Iterator[Server]:
        server = start(directory, **options)
        try:
            wait_until_ready(server)
            yield server
        finally:
            end(server)

    return running


@pytest.fixture(scope="session")
def few_files() -> Callable[[], contextlib.AbstractContextManager[None]]:
    """While it is entered, processes that are started may open 200 files."""

    @contextlib.contextmanager
    def limited() -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    return limited


@pytest.fixture
def new_server(tmp_path: Path, backdoored: Bundle) -> Iterator[Callable[..., Server]]:
    """Starts servers of one test's own, and ends those that still run."""
    running: list[Server] = []

    def begin(*, ready: bool = True, **options: Any) -> Server:
        options.setdefault("HAUBERK_BUNDLE", str(backdoored.directory))
        server = start(tmp_path / f"server{len(running)}", **options)
        running.append(server)
        if ready:
            wait_until_ready(server)
        return server

    yield begin
    for server in running:
        end(server)
