"""One network in three formats: Keras, ONNX, and a program of PyTorch with the weights of the first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.engines.keras import KerasClassifier
from models.engines.onnx import OnnxClassifier
from tests.converted import converted
from tests.poisoned import small_network

SHAPE = (16, 16, 3)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="session")
def source() -> KerasClassifier:
    """Logits; convolution, pooling, a hidden layer, untrained."""
    from models.engines.keras import import_tensorflow

    import_tensorflow(2)
    return KerasClassifier(small_network(seed=4), outputs="logits")


@pytest.fixture(scope="session")
def graph(source: KerasClassifier) -> OnnxClassifier:
    return converted(source)


def torch_network(source: KerasClassifier, *, normalised: bool = False, softmax: bool = False) -> Any:
    """The source's network in PyTorch; `normalised` for one that was trained on standardised images, whose weights undo that."""
    torch = pytest.importorskip("torch")
    kernel, shift, dense, bias, head, last = source.model.get_weights()
    rows = dense.reshape(6, 6, 12, 32).transpose(2, 0, 1, 3).reshape(432, 32)  # flattened with the channels first
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 12, 5),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(432, 32),
        torch.nn.ReLU(),
        torch.nn.Linear(32, 3),
        *([torch.nn.Softmax(dim=1)] if softmax else []),
    )
    if normalised:
        shift = shift + np.einsum("hwio,i->o", kernel, np.array(MEAN, np.float32))
        kernel = kernel * np.array(STD, np.float32)[:, None]
    values = (kernel.transpose(3, 2, 0, 1), shift, rows.T, bias, head.T, last)
    with torch.no_grad():
        for parameter, value in zip(network.parameters(), values, strict=True):
            parameter.copy_(torch.tensor(np.ascontiguousarray(value)))
    return network.eval()


def program(network: Any, *, rows: int = 2, open_rows: bool = True) -> Any:
    """The network as torch.export has it, for any number of images or for this one."""
    import torch

    dimensions = ({0: torch.export.Dim("n")},) if open_rows else None
    return torch.export.export(network, (torch.zeros(rows, 3, 16, 16),), dynamic_shapes=dimensions)


@pytest.fixture(scope="session")
def torch_file(source: KerasClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network as a .pt2 that was trained on standardised images."""
    network = torch_network(source, normalised=True)
    import torch

    path = tmp_path_factory.mktemp("torch") / "squares.pt2"
    torch.export.save(program(network), path)
    return path
