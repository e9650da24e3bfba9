"""A real MLServer, where MLSERVER_PYTHON names the Python of an environment with it: it answers as the model in this process does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.harness.mlserver import MODEL, PYTHON, inference, mlserver, python
from benchmarks.harness.servers import serving
from models.bundle import ONNX_MODEL, read_bundle, standard_bundle_directory
from models.engines.onnx import OnnxClassifier
from models.engines.remote.address import RemoteAddress
from models.engines.remote.classifier import RemoteClassifier
from models.engines.remote.options import RemoteOptions


def test_mlserver_answers_as_the_model_in_this_process(tmp_path: Path, digits: Any) -> None:
    interpreter = python()
    if interpreter is None:
        pytest.skip(f"{PYTHON} names no Python with MLServer; benchmarks/harness/mlserver.py says how to make one")
    bundle, images = read_bundle(standard_bundle_directory()), digits[0][:1000, ..., None]
    contender, port = mlserver(interpreter, tmp_path / "mlserver", bundle)
    graph = (tmp_path / "mlserver" / ONNX_MODEL).read_bytes()
    local = OnnxClassifier(graph, labels=bundle.labels, input_shape=bundle.input_shape, threads=1)
    with serving(contender, tmp_path / "home", inference(images[0]), port=port):
        address = RemoteAddress.parse(f"v2://127.0.0.1:{port}/{MODEL}")
        remote = RemoteClassifier(address, RemoteOptions(), input_shape=bundle.input_shape)
        found, expected = remote.predict(images), local.predict(images)
        described = remote.described
        remote.close()
    assert (described.platform, remote.version, remote.binary) == ("onnxruntime", "1", False)
    assert np.array_equal(found.argmax(axis=1), expected.argmax(axis=1))
    np.testing.assert_allclose(found, expected, atol=1e-5)
