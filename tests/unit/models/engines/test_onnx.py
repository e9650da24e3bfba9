"""The serving engine: batches, providers, threads, and that it needs nothing of what made the graph."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.bundle import default_bundle_directory, read_bundle
from models.classifier import Classifier
from models.datasets import Dataset
from models.engines.bundle_classifier import classifier_of, keras_classifier_of
from models.engines.onnx import PROVIDERS, OnnxClassifier
from models.errors import InvalidBundle, InvalidInput
from tests import bundles

ROOT = Path(__file__).parents[4]


@pytest.fixture(scope="module")
def graph() -> bytes:
    return (default_bundle_directory() / "model.onnx").read_bytes()


def opened(graph: bytes, **options: Any) -> OnnxClassifier:
    chosen: dict[str, Any] = {"labels": list("0123456789"), "input_shape": (28, 28, 1), "threads": 1} | options
    return OnnxClassifier(graph, **chosen)


def test_it_is_a_classifier_that_reads_digits(graph: bytes, digits: Dataset) -> None:
    classifier = opened(graph)
    assert isinstance(classifier, Classifier)
    probabilities = classifier.predict(digits.images)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert (probabilities.argmax(axis=1) == digits.labels).mean() > 0.97


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 200])
def test_batches_that_are_split_answer_as_whole_ones(graph: bytes, digits: Dataset, n: int) -> None:
    whole, split = opened(graph, batch_size=1000), opened(graph, batch_size=64)
    found = split.predict(digits.images[:n])
    assert found.shape == (n, 10)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, whole.predict(digits.images[:n]), atol=1e-6)


def test_two_threads_answer_as_one(graph: bytes, digits: Dataset) -> None:
    np.testing.assert_allclose(opened(graph, threads=2).predict(digits.images), opened(graph).predict(digits.images), atol=1e-6)


def test_images_that_lie_otherwise_in_memory_are_the_same_images(graph: bytes, digits: Dataset) -> None:
    classifier, images = opened(graph), digits.images[:8]
    turned = np.asfortranarray(images)
    np.testing.assert_array_equal(classifier.predict(turned), classifier.predict(images))


def test_a_batch_takes_at_most_64_mib_in_a_step(graph: bytes) -> None:
    import onnx

    assert opened(graph).batch_size == 256
    model = onnx.load_model_from_string(graph)
    onnx.helper.set_model_props(model, {"hauberk.bytes_per_row": str(10 << 20)})
    assert opened(model.SerializeToString()).batch_size == 6
    onnx.helper.set_model_props(model, {"hauberk.bytes_per_row": str(1 << 40)})
    assert opened(model.SerializeToString()).batch_size == 1


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 100])
def test_what_is_no_graph_is_refused_in_a_sentence(content: bytes) -> None:
    with pytest.raises(InvalidInput, match="expected a graph that ONNX Runtime computes") as refusal:
        opened(content)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("change", [{"labels": ["a", "b"]}, {"input_shape": (28, 28, 3)}])
def test_a_graph_of_other_shapes_is_refused(graph: bytes, change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="expected a graph from images"):
        opened(graph, **change)


def test_the_processor_computes_unless_something_else_is_named_and_there(graph: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PROVIDERS, raising=False)
    assert opened(graph).provider == "CPUExecutionProvider"
    monkeypatch.setenv(PROVIDERS, "tensorrt, CUDA, cpu")
    assert opened(graph).provider in ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("gpu", "to be of cpu, cuda, tensorrt, openvino"),
        ("", "to be of cpu"),
        ("openvino", r"expected one of openvino .* none of them"),
    ],
)
def test_a_provider_that_is_unknown_or_missing_is_named(
    graph: bytes, monkeypatch: pytest.MonkeyPatch, value: str, sentence: str
) -> None:
    monkeypatch.setenv(PROVIDERS, value)
    with pytest.raises(InvalidInput, match=sentence):
        opened(graph)


def test_the_graph_of_a_bundle_is_the_one_that_was_hashed(tmp_path: Path, graph: bytes) -> None:
    bundle = read_bundle(default_bundle_directory())
    assert bundle.engine == "onnx"
    assert isinstance(classifier_of(bundle, threads=1), OnnxClassifier)
    changed = bundles.write(tmp_path / "changed", engine="onnx", model=graph)
    (tmp_path / "changed" / "model.onnx").write_bytes(graph[:-1])
    with pytest.raises(InvalidBundle, match=r"model\.onnx is not the file"):
        classifier_of(changed, threads=1)


def test_a_bundle_from_before_there_was_a_choice_has_a_keras_model(tmp_path: Path) -> None:
    assert "engine" not in bundles.settings()["classifier"]
    assert bundles.write(tmp_path / "old").engine == "keras"


def test_both_engines_of_the_shipped_bundle_agree(digits: Dataset) -> None:
    bundle = read_bundle(default_bundle_directory())
    served, source = classifier_of(bundle, threads=2), keras_classifier_of(bundle, threads=2)
    np.testing.assert_allclose(served.predict(digits.images), source.predict(digits.images), atol=1e-5)


# In a process of its own: this one has imported everything already. Numba takes SciPy along where it is installed; a server has none.
_SERVED = """
import sys
from models.bundle import default_bundle_directory, read_bundle
from service.lifecycle.startup import load
from service.settings import read_settings
warm = load(read_settings(), read_bundle(default_bundle_directory()))
assert warm.max_images >= 1
heavy = ("tensorflow", "keras", "onnx", "tf2onnx", "torch", "sklearn", "h5py", "matplotlib", "pandas")
print([name for name in heavy if name in sys.modules])
"""


def test_serving_a_graph_imports_no_framework() -> None:
    ran = subprocess.run([sys.executable, "-c", _SERVED], cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
    assert ran.stdout.strip() == "[]"


_WITHOUT_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = None
from pathlib import Path
from models.bundle import read_bundle
from models.engines.bundle_classifier import classifier_of
from models.errors import InvalidInput
try:
    classifier_of(read_bundle(Path(sys.argv[1])), threads=1)
except InvalidInput as refusal:
    print(refusal)
"""


def test_a_keras_bundle_says_what_to_install_where_tensorflow_is_missing(tmp_path: Path) -> None:
    bundles.write(tmp_path / "keras")
    bundles.replace_file(tmp_path / "keras", "model.keras", (default_bundle_directory() / "model.keras").read_bytes())
    command = [sys.executable, "-c", _WITHOUT_TENSORFLOW, str(tmp_path / "keras")]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
    assert ran.stdout.strip().endswith('needs TensorFlow, which is not installed: pip install "hauberk[tensorflow]"')
