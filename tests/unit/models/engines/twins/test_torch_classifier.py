"""Programs of PyTorch: their answers, gradients and layers are those of the Keras model with the same weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from attacks.attack import Goal
from attacks.evasion.gradient import ProjectedGradientDescent
from attacks.evasion.losses import cross_entropy
from models.classifier import DifferentiableActivations, DifferentiableClassifier
from models.engines.keras import KerasClassifier
from models.engines.twins.torch_classifier import TorchClassifier
from models.errors import InvalidInput
from models.preparation import Preparation
from tests.fakes import noise
from tests.unit.models.engines.twins.conftest import MEAN, SHAPE, STD, program, torch_network

IMAGES = noise(7, SHAPE, seed=0)
LABELS = np.arange(7) % 3
STANDARDISED = Preparation.of_statistics(MEAN, STD, layout="nchw")
NCHW = Preparation(layout="nchw")


@pytest.fixture(scope="module", params=["plain", "standardised", "softmax", "two images", "swapped"])
def twin(request: pytest.FixtureRequest, source: KerasClassifier) -> TorchClassifier:
    """The network as various programs have it."""
    kind = request.param
    network = torch_network(source, normalised=kind == "standardised", softmax=kind == "softmax")
    if kind == "swapped":
        import torch

        network = torch.nn.Sequential(reversed_channels(), network)
    outputs: Any = "probabilities" if kind == "softmax" else "logits"
    how = STANDARDISED if kind == "standardised" else Preparation(layout="nchw", channels="bgr") if kind == "swapped" else NCHW
    made = program(network, open_rows=kind != "two images")
    return TorchClassifier(made, input_shape=SHAPE, preparation=how, outputs=outputs)


def reversed_channels() -> Any:
    import torch

    class Reversed(torch.nn.Module):  # type: ignore[misc]
        def forward(self, images: Any) -> Any:
            return images.flip(1)

    return Reversed()


def test_answers_and_gradients_are_those_of_the_same_network_in_keras(twin: TorchClassifier, source: KerasClassifier) -> None:
    assert isinstance(twin, DifferentiableClassifier)
    assert isinstance(twin, DifferentiableActivations)
    np.testing.assert_allclose(twin.predict(IMAGES), source.predict(IMAGES), atol=1e-5)
    np.testing.assert_allclose(twin.logits(IMAGES), source.logits(IMAGES), atol=1e-4)
    found, wanted = (each.loss_gradient(IMAGES, LABELS, cross_entropy) for each in (twin, source))
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4 * np.abs(other).max())
    by_class = source.class_gradients(IMAGES)
    np.testing.assert_allclose(twin.class_gradients(IMAGES), by_class, atol=1e-4 * np.abs(by_class).max())


def test_layers_and_their_gradients_are_those_of_the_same_layers_in_keras(twin: TorchClassifier, source: KerasClassifier) -> None:
    pairs = [(twin.hidden_layer(), source.hidden_layer()), (twin.earlier_layer(), source.earlier_layer())]
    flat = next(layer for layer in source.layers() if layer.startswith("flatten"))  # numbered by how many Keras has named before
    pairs.append(("flatten", flat))
    for own, other in pairs:
        wanted = source.activations(IMAGES, other)
        np.testing.assert_allclose(twin.activations(IMAGES, own), wanted, atol=1e-4)
        by = np.random.default_rng(1).normal(size=wanted.shape).astype(np.float32)
        slopes = source.activation_gradients(IMAGES, other, by)
        np.testing.assert_allclose(twin.activation_gradients(IMAGES, own, by), slopes, atol=1e-4 * np.abs(slopes).max())
    assert twin.activations(IMAGES[:0]).shape == (0, 32)


def test_large_maps_are_averaged_and_differentiated_as_in_keras() -> None:
    torch = pytest.importorskip("torch")
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 40, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(40, 3)
    )
    twin = TorchClassifier(program(network.eval()), input_shape=SHAPE)
    assert 14 * 14 * 40 > 4096
    rng, h = np.random.default_rng(0), np.float32(1e-2)
    activations = twin.activations(IMAGES, "conv2d")
    by, direction = (rng.normal(size=of.shape).astype(np.float32) for of in (activations, IMAGES))
    assert activations.shape == (7, 7 * 7 * 40)
    ends = [(twin.activations(IMAGES + sign * h * direction, "conv2d").astype(np.float64) * by).sum(axis=1) for sign in (1, -1)]
    gradient = twin.activation_gradients(IMAGES, "conv2d", by)
    np.testing.assert_allclose((gradient * direction).sum(axis=(1, 2, 3)), (ends[0] - ends[1]) / (2 * h), rtol=0.01)


def test_no_images_and_batches_change_nothing(source: KerasClassifier) -> None:
    made = program(torch_network(source))
    whole, parts = (TorchClassifier(made, input_shape=SHAPE, batch_size=size) for size in (None, 3))
    np.testing.assert_allclose(parts.logits(IMAGES), whole.logits(IMAGES), atol=1e-5)
    np.testing.assert_allclose(
        parts.loss_gradient(IMAGES, LABELS, cross_entropy).gradient,
        whole.loss_gradient(IMAGES, LABELS, cross_entropy).gradient,
        atol=1e-6,
    )
    nothing = IMAGES[:0]
    assert whole.predict(nothing).shape == whole.logits(nothing).shape == (0, 3)
    assert whole.loss_gradient(nothing, LABELS[:0], cross_entropy).gradient.shape == nothing.shape
    assert whole.class_gradients(nothing).shape == (0, 3, *SHAPE)


def test_a_sure_answer_keeps_its_gradient(source: KerasClassifier) -> None:
    """The softmax is left out: its own derivative would be an exact zero."""
    network = torch_network(source, softmax=True)
    import torch

    with torch.no_grad():
        network[6].weight *= 1e4
    twin = TorchClassifier(program(network), input_shape=SHAPE, outputs="probabilities")
    sure = twin.predict(IMAGES).argmax(axis=1)
    assert (twin.predict(IMAGES).max(axis=1) == 1).all()
    margin = twin.class_gradients(IMAGES)[np.arange(7), sure]
    assert (np.abs(margin).max(axis=(1, 2, 3)) > 0).all()


def test_a_single_sigmoid_is_two_classes() -> None:
    torch = pytest.importorskip("torch")
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 1), torch.nn.Sigmoid()).eval()
    twin = TorchClassifier(program(network), input_shape=SHAPE, outputs="probabilities")
    with torch.no_grad():
        wanted = network(torch.tensor(IMAGES.transpose(0, 3, 1, 2).copy())).numpy()[:, 0]
    np.testing.assert_allclose(twin.predict(IMAGES)[:, 1], wanted, atol=1e-6)
    assert twin.labels == ("0", "1")


def test_an_attack_finds_the_same_images_through_it(twin: TorchClassifier, source: KerasClassifier) -> None:
    attack, goal = ProjectedGradientDescent(eps=0.02, iterations=3), Goal(source.predict(IMAGES).argmax(axis=1))
    found, wanted = (attack(each, IMAGES, goal, seed=0).images for each in (twin, source))
    assert np.abs(found - wanted).mean() < 1e-4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"preparation": Preparation()}, r"for images \(16, 16, 3\), layout nhwc, got one for \(3, 16, 16\)"),
        ({"labels": "ab"}, "expected 3 labels, one per class of the program, got 2"),
        ({"preparation": Preparation.of_range(0, 255, layout="nchw", dtype="uint8")}, "takes uint8"),
        ({"input_shape": (9, 9, 3)}, r"for images \(3, 9, 9\), layout nchw, got one for"),
    ],
)
def test_a_program_that_does_not_fit_is_refused(source: KerasClassifier, options: dict[str, Any], said: str) -> None:
    made = program(torch_network(source))
    with pytest.raises(InvalidInput, match=said):
        TorchClassifier(made, **{"input_shape": SHAPE} | options)


def test_a_program_of_two_outputs_or_of_maps_is_refused() -> None:
    torch = pytest.importorskip("torch")

    class Two(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, images: Any) -> Any:
            return images.mean(dim=(2, 3)), images

    with pytest.raises(InvalidInput, match="expected a program with one output"):
        TorchClassifier(program(Two()), input_shape=SHAPE)
    with pytest.raises(InvalidInput, match=r"whose output is \[n, classes\]"):
        TorchClassifier(program(torch.nn.ReLU()), input_shape=SHAPE)
