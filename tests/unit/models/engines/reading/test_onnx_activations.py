"""Activations of ONNX graphs: those of the Keras model that they were converted from, read beside the session that answers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from models.bundle import default_bundle_directory, standard_bundle_directory
from models.classifier import ActivationClassifier
from models.datasets import Dataset
from models.engines.keras import KerasClassifier, import_tensorflow
from models.engines.onnx import OnnxClassifier
from models.engines.reading.onnx_edits import with_output
from models.errors import InvalidInput
from tests.converted import converted
from tests.fakes import noise

ROOT = Path(__file__).parents[5]


@pytest.fixture(scope="module")
def source(keras_model: Any) -> KerasClassifier:
    return KerasClassifier(keras_model)


@pytest.fixture(scope="module")
def graph(source: KerasClassifier) -> OnnxClassifier:
    return converted(source)


@pytest.mark.parametrize("bundle", [default_bundle_directory(), standard_bundle_directory()], ids=lambda path: path.name)
def test_a_bundled_model_and_its_conversion_have_the_same_activations(bundle: Path, digits: Dataset) -> None:
    source = KerasClassifier.load(bundle / "model.keras", threads=2)
    graph, images = converted(source), digits.images[:300]
    assert isinstance(graph, ActivationClassifier)
    pairs = [(None, None), (source.hidden_layer(), graph.hidden_layer()), (source.earlier_layer(), graph.earlier_layer())]
    flat = "sequential_1/flatten_1/Reshape:0"  # its numbers are in another order in the graph
    for own, other in [*pairs, ("flatten", flat)]:
        wanted, found = source.activations(images, own), graph.activations(images, other)
        np.testing.assert_allclose(found, wanted, atol=2e-5 * np.abs(wanted).max(), err_msg=str(other))


def test_large_maps_are_averaged_over_the_same_squares() -> None:
    import_tensorflow(2)
    import keras

    keras.utils.set_random_seed(3)
    layers = [
        keras.layers.Conv2D(16, 3, activation="relu", name="wide"),
        keras.layers.GlobalMaxPooling2D(),
        keras.layers.Dense(3),
    ]
    source = KerasClassifier(keras.Sequential([keras.Input((37, 26, 3)), *layers]), outputs="logits")
    graph, images = converted(source), noise(5, (37, 26, 3), seed=1)
    wanted, found = source.activations(images, "wide"), graph.activations(images, graph.earlier_layer())
    assert 35 * 24 * 16 > 4096 >= wanted.shape[1]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_layers_are_read_by_name_by_position_and_tensors_that_are_no_layers_by_name(graph: OnnxClassifier) -> None:
    images = noise(4, (16, 16, 3), seed=1)
    last = graph.layers()[-1]
    np.testing.assert_array_equal(graph.activations(images, last), graph.activations(images, -1))
    np.testing.assert_allclose(graph.activations(images, "hauberk.probabilities"), graph.predict(images), atol=1e-6)
    assert "hauberk.probabilities" not in graph.layers()


@pytest.mark.parametrize("layer", ["nowhere", 99, -99])
def test_a_layer_that_does_not_exist_is_refused_with_those_that_do(graph: OnnxClassifier, layer: str | int) -> None:
    with pytest.raises(InvalidInput) as refused:
        graph.activations(noise(2, (16, 16, 3), seed=0), layer)
    assert all(name in str(refused.value) for name in graph.layers())


def test_no_images_have_no_activations_and_batches_change_nothing(source: KerasClassifier, graph: OnnxClassifier) -> None:
    images = noise(9, (16, 16, 3), seed=2)
    for layer in (None, graph.earlier_layer()):
        whole = graph.activations(images, layer)
        assert graph.activations(images[:0], layer).shape == (0, whole.shape[1])
        np.testing.assert_allclose(converted(source, batch_size=2).activations(images, layer), whole, atol=1e-6)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The outputs of every session that is opened."""
    found: list[list[str]] = []
    plain = onnxruntime.InferenceSession

    def noted(*args: Any, **options: Any) -> Any:
        session = plain(*args, **options)
        found.append([output.name for output in session.get_outputs()])
        return session

    monkeypatch.setattr(onnxruntime, "InferenceSession", noted)
    return found


def test_the_session_that_answers_has_one_output_and_others_are_opened_when_they_are_used(
    source: KerasClassifier, opened: list[list[str]]
) -> None:
    from models.engines.keras_export import exported

    model = exported(source).SerializeToString()
    opened.clear()
    graph = OnnxClassifier(model, labels=source.labels, input_shape=source.input_shape, threads=1)
    graph.predict(noise(2, (16, 16, 3), seed=0))
    assert opened == [["hauberk.probabilities"]]
    assert graph.hidden_layer() in graph.layers()  # from the metadata
    assert len(opened) == 1
    for _ in range(3):
        graph.activations(noise(2, (16, 16, 3), seed=0))
    assert opened[1:] == [["hauberk.probabilities", graph.hidden_layer()]]


def test_only_the_last_two_layers_stay_open(source: KerasClassifier, opened: list[list[str]]) -> None:
    graph, images = converted(source), noise(2, (16, 16, 3), seed=0)
    first, second, third = graph.layers()[:3]
    opened.clear()
    for layer in (first, second, first, second, third, second, first):
        graph.activations(images, layer)
    assert [outputs[1] for outputs in opened] == [first, second, third, first]


def test_where_onnx_is_not_installed_the_metadata_say_the_layers(source: KerasClassifier, tmp_path: Path) -> None:
    from models.engines.keras_export import exported

    model = exported(source)
    (tmp_path / "told.onnx").write_bytes(model.SerializeToString())
    del model.metadata_props[:]
    (tmp_path / "untold.onnx").write_bytes(model.SerializeToString())
    np.save(tmp_path / "images.npy", noise(3, (16, 16, 3), seed=4))
    script = """
import sys
sys.modules["onnx"] = None
from pathlib import Path
import numpy as np
from models.engines.onnx import OnnxClassifier
from models.errors import InvalidInput
here = Path(sys.argv[1])
told, untold = (
    OnnxClassifier((here / f"{name}.onnx").read_bytes(), labels="abc", input_shape=(16, 16, 3), threads=1) for name in ("told", "untold")
)
np.save(here / "found.npy", told.activations(np.load(here / "images.npy")))
try:
    untold.layers()
except InvalidInput as refused:
    print(refused)
assert not {"tensorflow", "keras", "torch"} & set(sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "or the package onnx to find them" in ran.stdout
    wanted = source.activations(np.load(tmp_path / "images.npy"))
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), wanted, atol=1e-5)


@pytest.mark.parametrize("name", ["a", "b" * 127, "c" * 128, "d" * 20_000])
def test_the_edit_is_a_further_output_of_the_same_model(name: str) -> None:
    import onnx
    from onnx import helper

    model = helper.make_model(helper.make_graph([], "g", [], []))
    edited = onnx.ModelProto.FromString(with_output(model.SerializeToString(), name))
    assert [output.name for output in edited.graph.output] == [name]
    del edited.graph.output[:]
    assert edited == model
