"""A small binary classification network, evaluated without a framework and stored in bundles as two plain arrays.

Maths: valid convolutions with ReLU between them, down to one number per input, its logit:

    a_0 = x,   a_l[y, x, o] = b_l[o] + sum_{i, j, c} W_l[i, j, c, o] relu(a_{l-1})[y s_l + i, x s_l + j, c],   logit = a_L

(a_0 is not rectified.) A dense layer is a convolution whose kernel is as large as its input, and a vector [d] an image [1, 1, d], so
that one loop computes every layer. Inputs are computed one by one, in a fixed order of summation: logits do not depend on the batch.
Papers: networks of this size beside a classifier, Metzen et al. 2017, arXiv:1702.04267; Gong, Wang & Ku 2017, arXiv:1704.04960.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from models.errors import InvalidInput

KERNEL_HEIGHT, KERNEL_WIDTH, STRIDE, INPUTS, OUTPUTS = range(5)
"""The columns of a layout array."""

_FIRST_KERNEL, _KERNEL, _STRIDE = 5, 3, 2
_FIRST_FILTERS, _FILTERS = 16, 32
_SIDE_AT_MOST = 6  # convolutions halve the sides until the smaller one is no longer than this
_HIDDEN = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class BinaryNetwork:
    """A binary network of given weights and layout (maths: see the module).

    Args:
        weights: float32 [p], finite: for each layer in order, the kernel [height, width, inputs, outputs] and the bias [outputs].
        layout: int64 [layers, 5], a row per layer: kernel height and width, stride, inputs, outputs.
        input_shape: (h, w, c), or (1, 1, d) for vectors.

    Cost: about 200,000 multiplications per image of 28x28x1; no model call. Raises: InvalidInput on construction.
    """

    weights: NDArray[np.float32]
    layout: NDArray[np.int64]
    input_shape: tuple[int, int, int]
    _sizes: NDArray[np.int64] = field(init=False, repr=False)
    """(h, w, c) before, between and behind the layers."""

    def __post_init__(self) -> None:
        layout = self.layout
        if layout.ndim != 2 or layout.shape[1:] != (5,) or not len(layout) or layout.dtype.kind not in "iu" or (layout < 1).any():
            raise InvalidInput(
                f"expected a layout of positive whole numbers [layers, 5], got {layout.dtype} {list(layout.shape)}"
            )
        sizes = layer_sizes(self.input_shape, layout)
        if tuple(sizes[-1]) != (1, 1, 1):
            raise InvalidInput(f"expected a layout that ends in one number, got {tuple(sizes[-1].tolist())} per input")
        wanted = int(sum(layer_weights(layout)))
        if self.weights.shape != (wanted,) or self.weights.dtype != np.float32 or not np.isfinite(self.weights).all():
            raise InvalidInput(f"expected {wanted} finite float32 weights, got {self.weights.dtype} {list(self.weights.shape)}")
        object.__setattr__(self, "_sizes", sizes)

    def logits(self, inputs: NDArray[np.float32]) -> NDArray[np.float64]:
        """Logits float64 [n] of inputs float32 [n, *input_shape] or [n, h * w * c]. Raises: InvalidInput: another shape."""
        rows = self._rows(inputs)
        logits = np.empty(len(rows))
        _logits(rows, self.weights, self.layout, self._sizes, logits)
        return logits

    def gradients(self, inputs: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Logits [n], and the gradient of each by its input, in the shape of `inputs`. Raises: InvalidInput: another shape."""
        rows = self._rows(inputs)
        logits, gradients = np.empty(len(rows)), np.empty_like(rows)
        _gradients(rows, self.weights, self.layout, self._sizes, logits, gradients)
        return logits, gradients.reshape(inputs.shape)

    def _rows(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        numbers = int(np.prod(self.input_shape))
        if not (inputs.shape[1:] == self.input_shape or inputs.shape[1:] == (numbers,)):
            raise InvalidInput(f"expected inputs [n, {', '.join(map(str, self.input_shape))}], got {list(inputs.shape)}")
        return np.require(inputs, np.float32, ["C"]).reshape(len(inputs), numbers)


def default_layout(input_shape: tuple[int, int, int]) -> NDArray[np.int64]:
    """The default layout int64 [layers, 5]: convolutions of stride 2 until a side is at most 6, a hidden layer of 64, the logit.

    >>> default_layout((28, 28, 1)).tolist()
    [[5, 5, 2, 1, 16], [3, 3, 2, 16, 32], [5, 5, 1, 32, 64], [1, 1, 1, 64, 1]]
    >>> default_layout((1, 1, 128)).tolist()
    [[1, 1, 1, 128, 64], [1, 1, 1, 64, 1]]
    """
    h, w, c = input_shape
    layers: list[tuple[int, int, int, int, int]] = []
    while min(h, w) > _SIDE_AT_MOST:
        kernel, filters = (_KERNEL, _FILTERS) if layers else (_FIRST_KERNEL, _FIRST_FILTERS)
        layers.append((kernel, kernel, _STRIDE, c, filters))
        h, w, c = (h - kernel) // _STRIDE + 1, (w - kernel) // _STRIDE + 1, filters
    return np.array([*layers, (h, w, 1, c, _HIDDEN), (1, 1, 1, _HIDDEN, 1)], np.int64)


def layer_weights(layout: NDArray[np.int64]) -> NDArray[np.int64]:
    """The number of weights of each layer, its bias included: int64 [layers]."""
    counts: NDArray[np.int64] = layout[:, [KERNEL_HEIGHT, KERNEL_WIDTH, INPUTS, OUTPUTS]].prod(axis=1) + layout[:, OUTPUTS]
    return counts


def layer_sizes(input_shape: tuple[int, int, int], layout: NDArray[np.int64]) -> NDArray[np.int64]:
    """(h, w, c) of the input and of each layer's output: int64 [layers + 1, 3]. Raises: InvalidInput: layers that do not fit."""
    sizes = [tuple(map(int, input_shape))]
    for kernel_h, kernel_w, stride, inputs, outputs in layout.tolist():
        h, w, c = sizes[-1]
        if inputs != c or kernel_h > h or kernel_w > w:
            raise InvalidInput(f"expected a layer for {h} x {w} x {c} numbers, got one of {kernel_h} x {kernel_w} x {inputs}")
        sizes.append(((h - kernel_h) // stride + 1, (w - kernel_w) // stride + 1, outputs))
    return np.array(sizes, np.int64)


@njit(nogil=True, fastmath={"contract"}, cache=True)
def _convolve(given: Any, rectified: bool, width: int, layer: Any, weights: Any, out: Any, out_size: Any) -> None:
    """Compute one layer; `weights` starts at its kernel."""
    kernel_h, kernel_w, stride, inputs, outputs = layer[0], layer[1], layer[2], layer[3], layer[4]
    bias = kernel_h * kernel_w * inputs * outputs
    for y in range(out_size[0]):
        for x in range(out_size[1]):
            sums = out[(y * out_size[1] + x) * outputs :][:outputs]
            sums[:] = weights[bias : bias + outputs]
            for i in range(kernel_h):
                start = ((y * stride + i) * width + x * stride) * inputs
                for j in range(kernel_w * inputs):
                    value = given[start + j]
                    if value == 0 or (rectified and value < 0):
                        continue
                    row = weights[(i * kernel_w * inputs + j) * outputs :][:outputs]
                    for o in range(outputs):
                        sums[o] += value * row[o]


@njit(nogil=True, cache=True)
def _forward(row: Any, weights: Any, layout: Any, sizes: Any, held: Any) -> float:
    """All layers of one input: their outputs go to `held`, one after the other; returns the logit."""
    given, first, at = row, 0, 0
    for number in range(len(layout)):
        size, layer = sizes[number + 1], layout[number]
        out = held[at : at + size[0] * size[1] * size[2]]
        _convolve(given, number > 0, sizes[number][1], layer, weights[first:], out, size)
        first += (layer[0] * layer[1] * layer[3] + 1) * layer[4]
        at += len(out)
        given = out
    return float(given[0])


@njit(nogil=True, cache=True)
def _numbers(sizes: Any) -> int:
    """The number of outputs of all layers together."""
    total = 0
    for number in range(1, len(sizes)):
        total += sizes[number][0] * sizes[number][1] * sizes[number][2]
    return total


@njit(nogil=True, cache=True)
def _logits(rows: Any, weights: Any, layout: Any, sizes: Any, logits: Any) -> None:
    held = np.empty(_numbers(sizes), np.float32)
    for n in range(len(rows)):
        logits[n] = _forward(rows[n], weights, layout, sizes, held)


@njit(nogil=True, fastmath={"contract", "reassoc"}, cache=True)
def _transpose(by_out: Any, out_size: Any, layer: Any, weights: Any, by_given: Any, width: int) -> None:
    """The gradient by a layer's input from that by its output."""
    kernel_h, kernel_w, stride, inputs, outputs = layer[0], layer[1], layer[2], layer[3], layer[4]
    by_given[:] = 0
    for y in range(out_size[0]):
        for x in range(out_size[1]):
            sums = by_out[(y * out_size[1] + x) * outputs :][:outputs]
            for i in range(kernel_h):
                start = ((y * stride + i) * width + x * stride) * inputs
                for j in range(kernel_w * inputs):
                    row = weights[(i * kernel_w * inputs + j) * outputs :][:outputs]
                    total = np.float32(0)
                    for o in range(outputs):
                        total += sums[o] * row[o]
                    by_given[start + j] += total


@njit(nogil=True, cache=True)
def _gradients(rows: Any, weights: Any, layout: Any, sizes: Any, logits: Any, gradients: Any) -> None:
    held = np.empty(_numbers(sizes), np.float32)
    slopes = np.empty(_numbers(sizes), np.float32)
    for n in range(len(rows)):
        logits[n] = _forward(rows[n], weights, layout, sizes, held)
        end, first = len(held), len(weights)
        slopes[end - 1] = 1
        for number in range(len(layout) - 1, -1, -1):
            layer, size, before = layout[number], sizes[number + 1], sizes[number]
            first -= (layer[0] * layer[1] * layer[3] + 1) * layer[4]
            at = end - size[0] * size[1] * size[2]
            start = at - before[0] * before[1] * before[2]
            by_given = gradients[n] if number == 0 else slopes[start:at]
            _transpose(slopes[at:end], size, layer, weights[first:], by_given, before[1])
            if number > 0:
                for k in range(start, at):
                    if held[k] <= 0:
                        slopes[k] = 0
            end = at
