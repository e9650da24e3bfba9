"""The two engines of the shipped bundles, ONNX Runtime and TensorFlow: a forward pass in turns on one thread, and a server with each."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.peers import alternate, table
from benchmarks.harness.requests import http_request
from benchmarks.harness.servers import HAUBERK, Contender, serving
from models.bundle import EXAMPLE, Bundle, Engine, default_bundle_directory, read_bundle, replaced, standard_bundle_directory
from models.datasets import MNIST, load_dataset
from models.engines.bundle_classifier import classifier_of, keras_classifier_of
from models.engines.keras_export import graph_of
from models.engines.onnx import OnnxClassifier

_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_FORWARDS = 3000  # of rows in all rounds together, 20 rounds at least
_ROUNDS_AT_LEAST = 20
_STARTS = 3


def section() -> str:
    """The section of docs/benchmarks.md."""
    starts = list(
        _starts()
    )  # first, while this process has not loaded TensorFlow, whose threads would take a processor from the servers
    return "\n".join(
        [
            "## ONNX Runtime and TensorFlow\n",
            "A forward pass of both bundles in each engine, the same images in turns, one thread, the median in microseconds a call. "
            "*As converted* is the graph as tf2onnx writes it; *served* is model.onnx, which `models/engines/onnx_passes.py` rewrote.\n",
            table(("bundle", "rows", "TensorFlow", "as converted", "served", "TensorFlow / served"), list(_forward_passes())),
            f"`hauberk serve` with each and every defence on, the median of {_STARTS} starts: resident memory of the worker, "
            "seconds from the start to the first answer, and seconds of a processor that all its processes took until then.\n",
            table(("bundle", "engine", "worker, MiB", "ready, s", "processor, s"), starts),
        ]
    )


def _bundles() -> list[Bundle]:
    return [read_bundle(directory) for directory in (default_bundle_directory(), standard_bundle_directory())]


def _forward_passes() -> Iterator[list[Any]]:
    images = load_dataset(MNIST, split="test").images[: max(_ROWS)]
    for bundle in _bundles():
        keras, served = keras_classifier_of(bundle, threads=1), classifier_of(bundle, threads=1)
        graph = graph_of(keras.forward).SerializeToString()
        converted = OnnxClassifier(graph, labels=bundle.labels, input_shape=bundle.input_shape, threads=1)
        for rows in _ROWS:
            part = images[:rows]
            engines = (keras, converted, served)
            for engine in engines:
                assert np.allclose(engine.predict(part), keras.predict(part), atol=1e-5)
            rounds = max(_ROUNDS_AT_LEAST, _FORWARDS // rows)
            seconds = alternate([partial(engine.predict, part) for engine in engines], rounds)
            yield [bundle.name, rows, *(f"{1e6 * each:,.0f}" for each in seconds), f"{seconds[0] / seconds[2]:.1f}"]


def _starts() -> Iterator[list[Any]]:
    with tempfile.TemporaryDirectory() as scratch:
        for bundle in _bundles():
            for engine, name in (("onnx", "ONNX Runtime"), ("keras", "TensorFlow")):
                directory = Path(scratch) / f"{bundle.name}-{engine}"
                _with_engine(bundle, engine, directory)  # type: ignore[arg-type]  # mypy widens the words of a tuple
                measured = [_start(directory, Path(scratch)) for _ in range(_STARTS)]
                memory, ready, processor = np.median(measured, axis=0)
                yield [bundle.name, name, f"{memory:.0f}", f"{ready:.1f}", f"{processor:.1f}"]


def _with_engine(bundle: Bundle, engine: Engine, directory: Path) -> None:
    """A copy of a bundle that this engine serves."""
    shutil.copytree(bundle.directory, directory)
    settings = bundle.settings | {"classifier": bundle.settings["classifier"] | {"engine": engine}}
    replaced(directory, settings=settings, card={key: value for key, value in bundle.card.items() if key != "files"})


def _start(bundle: Path, scratch: Path) -> tuple[float, float, float]:
    body = (bundle / EXAMPLE).read_bytes()
    with tempfile.TemporaryDirectory(dir=scratch) as directory:
        contender = Contender("gateway", HAUBERK, {"HAUBERK_BUNDLE": str(bundle), "HAUBERK_ACCESS_LOG": "off"})
        with serving(contender, Path(directory), http_request("/predict", "application/json", body)) as server:
            return server.memory().worker, server.ready_s, server.processor_s()
