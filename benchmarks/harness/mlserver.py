"""MLServer with the ONNX model of a bundle, from an environment of its own, and the same bundle with that server in place of the model.

    python3 -m venv /tmp/mlserver && /tmp/mlserver/bin/pip install mlserver==1.7.1 onnxruntime
    MLSERVER_PYTHON=/tmp/mlserver/bin/python python -m benchmarks remote

`python -m benchmarks.harness.mlserver BUNDLE OUT` writes the graph of a bundle, in a process of its own, since TensorFlow may come with
it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

from benchmarks.harness import requests as wire
from benchmarks.harness.readiness import free_port
from benchmarks.harness.servers import ROOT, Contender
from models.bundle import ONNX_MODEL, Bundle, read_bundle, write_bundle
from models.classifier import Images
from models.engines.bundle_classifier import keras_classifier_of
from models.engines.keras_export import exported
from models.engines.remote.address import RemoteAddress
from models.engines.remote.classifier import RemoteClassifier
from models.engines.remote.fingerprint import PROBE_IMAGES, Fingerprint
from models.engines.remote.opening import IDENTITY, identity
from models.engines.remote.options import RemoteOptions

PYTHON = "MLSERVER_PYTHON"
"""The environment variable that names the Python of an environment with mlserver and onnxruntime."""
MODEL = "digits"
_RUNTIME = ROOT / "benchmarks" / "serving" / "contenders" / "mlserver_onnx.py"
_START = "from mlserver.cli import main; main()"


@dataclass(frozen=True)
class MlServer(Contender):
    """MLServer with the model in `directory`; its gRPC and metrics get ports of their own. `python` is that of its environment."""

    directory: Path = field(kw_only=True)
    python: str = field(kw_only=True)

    def command(self, port: int) -> list[str]:
        """How it is started; the port is in its settings."""
        return [self.python, "-c", _START, "start", str(self.directory)]


def python() -> str | None:
    """The Python of MLServer's environment, when one is named and has it."""
    named = os.environ.get(PYTHON)
    if not named:
        return None
    tried = subprocess.run([named, "-c", "import mlserver, onnxruntime"], capture_output=True, text=True, check=False)
    if tried.returncode:
        raise SystemExit(
            f"expected {PYTHON} to be a Python with mlserver and onnxruntime, got {named}: {tried.stderr.strip()[-200:]}"
        )
    return named


def mlserver(interpreter: str, directory: Path, bundle: Bundle) -> tuple[MlServer, int]:
    """MLServer, not started yet, with a bundle's model; and the port it will listen on."""
    directory.mkdir()
    shutil.copy(_RUNTIME, directory)
    subprocess.run(
        [sys.executable, "-m", "benchmarks.harness.mlserver", str(bundle.directory), str(directory / ONNX_MODEL)],
        cwd=ROOT,
        check=True,
    )
    (directory / "model-settings.json").write_text(json.dumps(_model_settings(bundle)))
    ports = {name: free_port() for name in ("HTTP", "GRPC", "METRICS")}
    settings = {f"MLSERVER_{name}_PORT": str(port) for name, port in ports.items()}
    settings |= {"MLSERVER_PARALLEL_WORKERS": "0", "MLSERVER_DEBUG": "false", "PYTHONPATH": ""}
    return MlServer("MLServer", "", settings, directory=directory, python=interpreter), ports["HTTP"]


def inference(image: NDArray[np.float32]) -> bytes:
    """What asks MLServer for the same."""
    tensor = {"name": "images", "datatype": "FP32", "shape": [1, *image.shape], "data": image.ravel()}
    body = orjson.dumps({"inputs": [tensor]}, option=orjson.OPT_SERIALIZE_NUMPY)
    return wire.http_request(f"/v2/models/{MODEL}/infer", "application/json", body)


def _model_settings(bundle: Bundle) -> Mapping[str, object]:
    return {
        "name": MODEL,
        "implementation": f"{_RUNTIME.stem}.OnnxModel",
        "platform": "onnxruntime",
        "versions": ["1"],
        "inputs": [{"name": "images", "datatype": "FP32", "shape": [-1, *bundle.input_shape]}],
        "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, len(bundle.labels)]}],
        "parameters": {"uri": ONNX_MODEL, "version": "1"},
    }


def remote_bundle(bundle: Bundle, port: int, directory: Path, clean: Images) -> Bundle:
    """The same defences, calibrated for the same model, around the one that a model server serves now; `clean` are for its probes."""
    directory.mkdir()
    address = RemoteAddress.parse(f"v2://127.0.0.1:{port}/{MODEL}")
    classifier = RemoteClassifier(address, RemoteOptions(), input_shape=bundle.input_shape, labels=bundle.labels)
    fingerprint = Fingerprint.of(classifier.predict, clean[: 2 * PROBE_IMAGES])
    settings = dict(bundle.settings)
    settings["classifier"] = {
        "engine": "remote",
        "remote": str(address),
        "outputs": "probabilities",
        "input_range": [0.0, 1.0],
        "input_shape": list(bundle.input_shape),
        "labels": list(bundle.labels),
    }
    card = {key: value for key, value in bundle.card.items() if key != "files"} | {IDENTITY: identity(classifier)}
    classifier.close()
    return write_bundle(directory, settings=settings, calibration={**bundle.calibration, **fingerprint.arrays()}, card=card)


def main() -> None:
    """Write a bundle's graph from images to probabilities."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    bundle = read_bundle(given.bundle)
    graph = bundle.read(ONNX_MODEL) if bundle.holds(ONNX_MODEL) else exported(keras_classifier_of(bundle)).SerializeToString()
    given.out.write_bytes(graph)


if __name__ == "__main__":
    main()
