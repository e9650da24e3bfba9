"""A twin lends its gradients after it was compared; one of other weights is refused with the figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attacks.evasion.losses import cross_entropy
from models.classifier import DifferentiableActivations, DifferentiableClassifier
from models.engines.conversion import Agreement
from models.engines.keras import KerasClassifier
from models.engines.onnx import OnnxClassifier
from models.engines.twins.capabilities import Capabilities, trainable
from models.engines.twins.twin import ReadableTwinned, Twinned, is_close, same_layer, twin_of, twinned
from models.engines.twins.twin_file import opened_twin, with_gradients
from models.errors import InvalidInput
from tests.fakes import FakeClassifier, linear, linear_with_gradients, noise
from tests.poisoned import small_network
from tests.unit.models.engines.twins.conftest import SHAPE, program, torch_network

IMAGES = noise(120, SHAPE, seed=0)
LABELS = np.arange(120) % 3


def test_answers_are_the_classifiers_and_gradients_the_twins(graph: OnnxClassifier, source: KerasClassifier) -> None:
    both = twinned(graph, source, IMAGES)
    assert isinstance(both, DifferentiableClassifier)
    assert isinstance(both, DifferentiableActivations)
    assert twin_of(both) is source
    np.testing.assert_array_equal(both.predict(IMAGES), graph.predict(IMAGES))
    found, wanted = (each.loss_gradient(IMAGES, LABELS, cross_entropy).gradient for each in (both, source))
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(both.logits(IMAGES), source.logits(IMAGES))
    np.testing.assert_array_equal(both.class_gradients(IMAGES[:5]), source.class_gradients(IMAGES[:5]))


@pytest.mark.parametrize("which", ["hidden", "earlier", "default", "position"])
def test_gradients_of_a_layer_are_those_of_the_twins_layer_with_the_same_values(
    graph: OnnxClassifier, source: KerasClassifier, which: str
) -> None:
    both, few = twinned(graph, source, IMAGES), IMAGES[:5]
    assert isinstance(both, ReadableTwinned)
    layer: Any = {"hidden": graph.hidden_layer(), "earlier": graph.earlier_layer(), "default": None, "position": 0}[which]
    own: Any = {"hidden": "hidden", "earlier": source.earlier_layer(), "default": None, "position": 0}[which]
    shape: tuple[int, ...] = both.activations(few, layer).shape
    by = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    np.testing.assert_array_equal(both.activations(few, layer), graph.activations(few, layer))
    np.testing.assert_array_equal(both.activation_gradients(few, layer, by), source.activation_gradients(few, own, by))


def test_a_layer_that_the_twin_lacks_is_refused(graph: OnnxClassifier, source: KerasClassifier) -> None:
    with pytest.raises(InvalidInput, match="expected a layer of the twin with the values of odd, but none has them"):
        same_layer(graph.activations(IMAGES) + 1, source, IMAGES, "odd")
    with pytest.raises(InvalidInput, match="none has them"):
        same_layer(np.zeros((len(IMAGES), 7), np.float32), source, IMAGES, "odd")


def test_a_network_of_other_weights_is_refused_with_the_figures(graph: OnnxClassifier) -> None:
    other = KerasClassifier(small_network(seed=5), outputs="logits")
    with pytest.raises(
        InvalidInput, match=r"but the twin gives the same label on \d+\.\d % of 120 images, probabilities that differ by"
    ):
        twinned(graph, other, IMAGES)


def test_a_network_of_other_classes_or_images_is_refused(graph: OnnxClassifier) -> None:
    for shape, classes in ((SHAPE, 4), ((16, 16, 1), 3)):
        with pytest.raises(
            InvalidInput, match=rf"tells {classes} classes of images \({shape[0]}, {shape[1]}, {shape[2]}\) apart"
        ):
            twinned(graph, linear_with_gradients(shape, classes), IMAGES)


@pytest.mark.parametrize(
    ("agreement", "close"),
    [
        (Agreement(500, 1e-4, 1.0), True),
        (Agreement(500, 0.1, 0.99), True),
        (Agreement(500, 0.11, 1.0), False),
        (Agreement(500, 1e-4, 0.98), False),
        (Agreement(500, float("nan"), 1.0), False),
    ],
)
def test_how_close_a_twin_has_to_be(agreement: Agreement, close: bool) -> None:
    assert is_close(agreement) is close


def test_answers_that_are_not_finite_are_no_agreement(source: KerasClassifier) -> None:
    nothing = FakeClassifier(lambda images: np.full((len(images), 3), np.nan, np.float32), SHAPE, 3)
    with pytest.raises(InvalidInput, match="differ by up to nan"):
        twinned(nothing, source, IMAGES)


def test_a_classifier_without_layers_gets_gradients_only(source: KerasClassifier) -> None:
    class OnlyPredicts:
        input_shape, labels = source.input_shape, source.labels
        predict = source.predict

    both = twinned(OnlyPredicts(), source, IMAGES)
    assert type(both) is Twinned
    assert not Capabilities.of(both).activations


def test_capabilities_are_those_of_the_protocols(graph: OnnxClassifier, source: KerasClassifier) -> None:
    both = twinned(graph, source, IMAGES)
    assert Capabilities.of(source) == Capabilities(engine="Keras", activations=True, gradients="own", training=True)
    assert Capabilities.of(graph) == Capabilities(engine="ONNX", activations=True, gradients=None, training=False)
    assert Capabilities.of(both) == Capabilities(engine="ONNX", activations=True, gradients="twin", training=True)
    plain = Capabilities.of(linear((4, 4, 1), 2))
    assert plain == Capabilities(engine="FakeClassifier", activations=False, gradients=None, training=False)
    assert plain.in_words() == "FakeClassifier: predictions; no activations, no gradients, no training"
    assert Capabilities.of(both).in_words() == "ONNX: predictions, activations, gradients of its twin, training"
    assert trainable(both) is trainable(source) is source
    assert trainable(graph) is None


def test_gradients_are_the_classifiers_own_the_given_twins_or_those_of_what_it_was_converted_from(
    graph: OnnxClassifier, source: KerasClassifier
) -> None:
    def own() -> KerasClassifier:
        return source

    assert with_gradients(source, IMAGES, given=None, own=own, threads=1) is source
    assert with_gradients(graph, IMAGES, given=None, threads=1) is graph
    assert twin_of(with_gradients(graph, IMAGES, given=source, threads=1)) is source
    assert twin_of(with_gradients(graph, IMAGES, given=None, own=own, threads=1)) is source
    with pytest.raises(InvalidInput, match="but this one is Keras, which has its own; leave it out"):
        with_gradients(source, IMAGES, given=source, threads=1)


def test_a_keras_file_is_read_in_the_way_that_answers_as_the_classifier_does(source: KerasClassifier, tmp_path: Path) -> None:
    """The same network behind pixels of 0 to 255, whose first layer divides."""
    import keras

    inputs = keras.Input(SHAPE)
    keras.Model(inputs, source.model(keras.layers.Rescaling(1 / 255)(inputs))).save(tmp_path / "bytes.keras")
    from tests.converted import converted

    both = opened_twin(tmp_path / "bytes.keras", converted(source), IMAGES, threads=2)
    twin = twin_of(both)
    assert isinstance(twin, KerasClassifier)
    assert (twin.preparation.input_range, twin.outputs) == ((0.0, 255.0), "logits")
    assert isinstance(both, ReadableTwinned)


def test_a_program_is_read_in_the_way_that_answers_as_the_classifier_does(
    graph: OnnxClassifier, source: KerasClassifier, torch_file: Path
) -> None:
    both = opened_twin(torch_file, graph, IMAGES, threads=2)
    assert Capabilities.of(both) == Capabilities(engine="ONNX", activations=True, gradients="twin", training=False)
    found, wanted = (each.loss_gradient(IMAGES, LABELS, cross_entropy).gradient for each in (both, source))
    np.testing.assert_allclose(found, wanted, atol=1e-3 * np.abs(wanted).max())
    few, by = IMAGES[:4], np.random.default_rng(0).normal(size=(4, 32)).astype(np.float32)
    slopes = source.activation_gradients(few, None, by)
    assert isinstance(both, ReadableTwinned)
    np.testing.assert_allclose(both.activation_gradients(few, None, by), slopes, atol=1e-3 * np.abs(slopes).max())


def test_a_file_of_another_network_is_refused_with_the_figures_of_the_best_reading(graph: OnnxClassifier, tmp_path: Path) -> None:
    small_network(seed=6).save(tmp_path / "other.keras")
    with pytest.raises(InvalidInput, match=r"but other\.keras gives the same label on"):
        opened_twin(tmp_path / "other.keras", graph, IMAGES, threads=2)


def test_files_that_are_no_twin_are_refused_in_a_sentence(graph: OnnxClassifier, source: KerasClassifier, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    (tmp_path / "no.keras").write_bytes(b"nothing")
    (tmp_path / "no.pt2").write_bytes(b"PK\x03\x04")
    torch.save(torch_network(source), tmp_path / "pickled.pt2")
    small = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 5)).eval()
    torch.export.save(program(small), tmp_path / "five.pt2")
    for name, said in (
        ("no.keras", "no.keras"),
        ("no.pt2", "no.pt2"),
        ("pickled.pt2", "never loaded"),
        ("nowhere.keras", "does not exist"),
        ("five.pt2", "it tells 5 classes apart, the model 3"),
    ):
        with pytest.raises(InvalidInput, match=said) as refused:
            opened_twin(tmp_path / name, graph, IMAGES, threads=2)
        assert "\n" not in str(refused.value)


def test_a_keras_file_that_fits_in_no_way_is_refused_without_advice_that_no_command_takes_for_a_twin(
    graph: OnnxClassifier, tmp_path: Path
) -> None:
    import keras

    taken = keras.Input(SHAPE)
    flat = keras.layers.Flatten()(taken)
    keras.Model(taken, [keras.layers.Dense(3, name=name)(flat) for name in ("one", "two")]).save(tmp_path / "two.keras")
    with pytest.raises(InvalidInput, match=r"expected a twin with one output \(--gradients\), got two\.keras with 2: one, two"):
        opened_twin(tmp_path / "two.keras", graph, IMAGES, threads=2)
    other = keras.Sequential([keras.Input((3, 9, 9)), keras.layers.Flatten(), keras.layers.Dense(3)])
    other.save(tmp_path / "first.keras")
    with pytest.raises(
        InvalidInput, match=r"\(--gradients\), got first\.keras: expected images of the model's shape \(9, 9, 3\)"
    ):
        opened_twin(tmp_path / "first.keras", graph, IMAGES, threads=2)


def test_a_conversion_that_rounds_its_weights_is_still_a_twin(graph: OnnxClassifier, source: KerasClassifier) -> None:
    """Weights of half precision, as a served model may have."""
    rounded = small_network(seed=4)
    rounded.set_weights([weight.astype(np.float16).astype(np.float32) for weight in source.model.get_weights()])
    assert twinned(graph, KerasClassifier(rounded, outputs="logits"), IMAGES).twin is not source


def test_a_frozen_value_is_replaced_and_not_changed(graph: OnnxClassifier, source: KerasClassifier) -> None:
    both = twinned(graph, source, IMAGES)
    assert isinstance(both, ReadableTwinned)
    assert replace(both, twin=source).classifier is graph
