"""Exported programs of PyTorch (torch.export, .pt2) as differentiable classifiers with readable layers.

They are not served: their graph is converted to ONNX for that. They are there for what needs gradients. The program is a graph of tensor
operations, and autograd differentiates it; a softmax or a sigmoid at its end is replaced by its argument, as differences of sure
probabilities are too small to follow. Programs that were exported for a fixed number of images are given that many, the missing ones
zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.classifier import Activations, Images, Labels, Logits, Loss, LossGradient, Probabilities
from models.engines.keras_gradients import powers_of_two
from models.engines.twins.torch_layers import TorchLayers, read_in, read_out
from models.errors import InvalidInput
from models.preparation import Outputs, Preparation

_ROWS_AT_MOST = 256
_NUMBERS_PER_PASS = 1 << 23
_TINY = 1e-30


class TorchClassifier:
    """A program from one batch of images to logits or probabilities as a `DifferentiableClassifier` with readable layers.

    Args:
        program: a `torch.export.ExportedProgram` of one input and one output.
        input_shape: (h, w, c) of the images.
        preparation: how the program wants them.
        outputs: the kind of its output; one column is a sigmoid.
        labels: the class names; ("0", "1", ...) when not given.
        batch_size: largest number of images per pass.

    Raises: InvalidInput on construction: a program that does not map one image to one row of classes, or that takes whole numbers.
    """

    engine = "PyTorch"

    def __init__(
        self,
        program: Any,
        *,
        input_shape: tuple[int, int, int],
        preparation: Preparation | None = None,
        outputs: Outputs = "logits",
        labels: Sequence[str] | None = None,
        batch_size: int | None = None,
    ) -> None:
        import torch

        self._torch, self.input_shape, self.outputs = torch, input_shape, outputs
        self.preparation = preparation or Preparation(layout="nchw")
        if self.preparation.dtype != "float32":
            raise InvalidInput("expected a program that takes float32, whose gradients there are, got one that takes uint8")
        self._module = program.module(check_guards=False).float()
        for weight in self._module.parameters():
            weight.requires_grad_(False)
        [self._given, *others] = [node for node in self._module.graph.nodes if node.op == "placeholder"]
        if others:
            raise InvalidInput(f"expected a program with one input, the images, got {1 + len(others)}")
        self._fixed, most = _rows(program, self._given)
        self._size = self._input_size()
        affordable = max(1, _NUMBERS_PER_PASS // int(np.prod(input_shape)))
        self.batch_size = self._fixed or min(batch_size or _ROWS_AT_MOST, most, affordable)
        self._layers = TorchLayers(self._module)
        self._logits = self._layers.logits(probabilities=outputs == "probabilities")
        classes = max(2, self._columns())
        self.labels = tuple(labels) if labels is not None else tuple(map(str, range(classes)))
        if len(self.labels) != classes:
            raise InvalidInput(f"expected {classes} labels, one per class of the program, got {len(self.labels)}")

    def predict(self, images: Images) -> Probabilities:
        """Class probabilities [n, k]: the softmax of `logits`."""
        logits = self.logits(images).astype(np.float64)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities: Probabilities = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
        return probabilities

    def logits(self, images: Images) -> Logits:
        """See `DifferentiableClassifier.logits`; for a single output z, (-z/2, z/2)."""
        with self._torch.no_grad():
            parts = [self._of_batch(batch)[1].numpy() for _, batch in self._batches(images)]
        return np.concatenate(parts) if parts else np.empty((0, len(self.labels)), np.float32)

    def loss_gradient(self, images: Images, labels: Labels, loss: Loss) -> LossGradient:
        """See `DifferentiableClassifier.loss_gradient`."""
        parts = [self._pass(batch, labels[rows], loss) for rows, batch in self._batches(images)]
        if not parts:
            return LossGradient(np.empty(0, np.float32), np.empty((0, len(self.labels)), np.float32), images.copy())
        return LossGradient(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def class_gradients(self, images: Images) -> NDArray[np.float32]:
        """See `DifferentiableClassifier.class_gradients`."""
        parts = [self._by_class(batch) for _, batch in self._batches(images)]
        return np.concatenate(parts) if parts else np.empty((0, len(self.labels), *self.input_shape), np.float32)

    def layers(self) -> tuple[str, ...]:
        """See `ActivationClassifier.layers`: the nodes of the graph that have a row an image."""
        return self._layers.names

    def hidden_layer(self) -> str:
        """See `ActivationClassifier.hidden_layer`."""
        return self._layers.hidden

    def earlier_layer(self) -> str | None:
        """See `ActivationClassifier.earlier_layer`."""
        return self._layers.earlier

    def activations(self, images: Images, layer: str | int | None = None) -> Activations:
        """See `ActivationClassifier.activations`; as of the same layer of another format, the channels last."""
        read, shape = self._layers.reader(layer)
        with self._torch.no_grad():
            parts = [read_out(self._through(read, batch)[1]) for _, batch in self._batches(images)]
        return np.concatenate(parts) if parts else read_out(self._torch.zeros(0, *shape))

    def activation_gradients(self, images: Images, layer: str | int | None, by_activations: Activations) -> Images:
        """See `DifferentiableActivations.activation_gradients`."""
        read, shape = self._layers.reader(layer)
        found = np.empty_like(images)
        for rows, batch in self._batches(images):
            leaf, made = self._through(read, batch)
            [gradient] = self._torch.autograd.grad(made, leaf, self._torch.tensor(read_in(by_activations[rows], shape)))
            found[rows] = gradient.numpy()
        return found

    def _batches(self, images: Images) -> Iterator[tuple[slice, Images]]:
        for start in range(0, len(images), self.batch_size):
            rows = slice(start, min(start + self.batch_size, len(images)))
            yield rows, images[rows]

    def _through(self, read: Callable[[Any], Any], batch: Images) -> tuple[Any, Any]:
        """The images as a leaf of autograd, and what the graph makes of them, a row an image."""
        torch, how = self._torch, self.preparation
        leaf = torch.tensor(batch, requires_grad=True)
        values = leaf * torch.tensor(how.scale, dtype=torch.float32) + torch.tensor(how.offset, dtype=torch.float32)
        if how.channels == "bgr":
            values = values.flip(3)
        if how.layout == "nchw":
            values = values.permute(0, 3, 1, 2)
        values = values.reshape(len(batch), *self._size)
        if self._fixed and len(batch) < self._fixed:
            values = torch.cat([values, values.new_zeros(self._fixed - len(batch), *values.shape[1:])])
        return leaf, read(values.contiguous())[: len(batch)]

    def _input_size(self) -> tuple[int, ...]:
        """The shape of one row of the program's input, sizes it leaves open from the preparation; without channels, or flat.

        Raises: InvalidInput: images of another shape.
        """
        own = tuple(size if isinstance(size, int) else None for size in self._given.meta["val"].shape[1:])
        shape = self.preparation.shape(self.input_shape)
        if len(own) == len(shape) and all(size in (None, wanted) for size, wanted in zip(own, shape, strict=True)):
            return shape
        sizes = tuple(size for size in own if size is not None)
        if len(sizes) == len(own) < len(shape) and int(np.prod(sizes)) == int(np.prod(shape)):
            return sizes
        raise InvalidInput(f"expected a program for images {shape}, layout {self.preparation.layout}, got one for {own}")

    def _columns(self) -> int:
        """The width of the output. Raises: InvalidInput: the program does not take such images, or does not return a row an image."""
        try:
            with self._torch.no_grad():
                shape = self._through(self._logits.read, np.zeros((1, *self.input_shape), np.float32))[1].shape
        except (RuntimeError, IndexError, ValueError) as failure:
            reason = str(failure).strip().split("\n")[0][:200]
            raise InvalidInput(
                f"expected a program for images {self.input_shape}, layout {self.preparation.layout}, but it fails on one: {reason}"
            ) from failure
        if len(shape) != 2:
            raise InvalidInput(f"expected a program whose output is [n, classes], got {list(shape)}")
        return int(shape[1])

    def _of_batch(self, batch: Images) -> tuple[Any, Any]:
        """The leaf and the logits [n, k] of a batch."""
        torch = self._torch
        leaf, raw = self._through(self._logits.read, batch)
        if self.outputs == "probabilities" and not self._logits.sure:
            logs = torch.log(raw.clamp_min(_TINY))
            raw = logs - torch.log((1 - raw).clamp_min(_TINY)) if raw.shape[1] == 1 else logs
        return leaf, torch.cat([-raw / 2, raw / 2], dim=1) if raw.shape[1] == 1 else raw

    def _pass(self, batch: Images, labels: Labels, loss: Loss) -> LossGradient:
        leaf, logits = self._of_batch(batch)
        found = logits.detach().numpy()
        values, by_logits = loss(found, labels)
        scale = powers_of_two(by_logits)
        [gradient] = self._torch.autograd.grad(logits, leaf, self._torch.tensor(by_logits / scale), allow_unused=True)
        pulled = np.zeros_like(batch) if gradient is None else gradient.numpy()
        return LossGradient(values, found, pulled * scale[:, :, None, None])

    def _by_class(self, batch: Images) -> NDArray[np.float32]:
        leaf, logits = self._of_batch(batch)
        columns = [
            self._torch.autograd.grad(logits[:, column].sum(), leaf, retain_graph=True)[0].numpy()
            for column in range(logits.shape[1])
        ]
        return np.stack(columns, axis=1)


def _rows(program: Any, given: Any) -> tuple[int | None, int]:
    """The number of images that a program was exported for, None where it is open, and the largest it allows."""
    size = given.meta["val"].shape[0]
    if isinstance(size, int):
        return size, size
    limits: Mapping[Any, Any] = program.range_constraints
    bound = limits.get(size.node.expr)
    return None, min(int(bound.upper), _ROWS_AT_MOST) if bound is not None and bound.upper < _ROWS_AT_MOST else _ROWS_AT_MOST
