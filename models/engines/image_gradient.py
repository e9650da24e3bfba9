"""A faster gradient of the first convolution by the image, which training never computes and libraries do not optimise.

With stride 1 the gradient by the input is a convolution of the gradient by the output with the flipped kernel. Its result has as many
channels as the image, one or three; libraries vectorise over output channels, so that most vector lanes stay empty: on MNIST this one
operation is two fifths of a whole gradient. Here a block of b x b pixels is computed as b * b * c channels: a convolution of stride b
with a kernel of k + b - 1, which holds the flipped kernel b * b times, shifted to each pixel.

    dx[b I + u, b J + v] = sum_(p, q) dy[b I + p, b J + q] * flipped[p - u, q - v],      0 <= u, v < b

The sums are the same in another order, with more multiplications (four times for b = 4 and k = 3) in less than half the time. The
gradient is substituted through TensorFlow's gradient override map, for convolutions that `_fits` accepts.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NAME = "HauberkConv2D"
_FEW_CHANNELS = 4


@contextmanager
def fast_image_gradients(graph: Any) -> Iterator[None]:
    """Give convolutions that are added to this TensorFlow graph within the context the fast gradient in `tf.gradients`."""
    _register()
    with graph.gradient_override_map({"Conv2D": _NAME}):
        yield


_registering = threading.Lock()
_registered: list[bool] = []


def _register() -> None:
    with _registering:  # TensorFlow accepts a name once per process
        if not _registered:
            sys.modules["tensorflow"].RegisterGradient(_NAME)(_gradient)
            _registered.append(True)


def _gradient(op: Any, by_output: Any) -> list[Any]:
    """The gradients of a Conv2D by its input and by its kernel; the latter is None, as only gradients by images are computed."""
    tf = sys.modules["tensorflow"]
    images, kernel = op.inputs
    if _fits(op):
        return [_in_blocks(op, by_output), None]
    return [
        tf.raw_ops.Conv2DBackpropInput(
            input_sizes=tf.shape(images),
            filter=kernel,
            out_backprop=by_output,
            strides=op.get_attr("strides"),
            padding=op.get_attr("padding"),
            explicit_paddings=op.get_attr("explicit_paddings"),
            dilations=op.get_attr("dilations"),
            data_format=op.get_attr("data_format"),
        ),
        None,
    ]


def _fits(op: Any) -> bool:
    images, kernel = op.inputs
    plain = all(list(op.get_attr(name)) == [1, 1, 1, 1] for name in ("strides", "dilations"))
    known = all(shape.is_fully_defined() for shape in (images.shape[1:], kernel.shape, op.outputs[0].shape[1:]))
    if not (plain and known and op.get_attr("data_format") == b"NHWC" and op.get_attr("padding") in (b"SAME", b"VALID")):
        return False
    if kernel.shape[:2] == [1, 1]:  # nothing to gain
        return False
    return bool(images.shape[3] == kernel.shape[2] <= _FEW_CHANNELS)  # not a grouped convolution


def _padding(op: Any) -> tuple[int, int]:
    """Padding above and on the left, in pixels."""
    if op.get_attr("padding") == b"VALID":
        return 0, 0
    return (op.inputs[1].shape[0] - 1) // 2, (op.inputs[1].shape[1] - 1) // 2


def _in_blocks(op: Any, by_output: Any) -> Any:
    tf = sys.modules["tensorflow"]
    images, kernel = op.inputs
    height, width, channels = images.shape[1:]
    rows, columns, _, outputs = kernel.shape
    side = 4 if channels == 1 else 2
    spread = _spread(rows, columns, side) @ tf.reshape(kernel, [rows * columns, channels * outputs])
    spread = tf.reshape(spread, [rows + side - 1, columns + side - 1, side * side, channels, outputs])
    wide = tf.reshape(tf.transpose(spread, [0, 1, 4, 2, 3]), [*spread.shape[:2], outputs, side * side * channels])
    around = [
        _around(taps, side, length, before, given)
        for taps, length, before, given in zip(
            (rows, columns), (height, width), _padding(op), op.outputs[0].shape[1:3], strict=True
        )
    ]
    blocks = tf.nn.conv2d(by_output, wide, strides=side, padding=[[0, 0], *around, [0, 0]])
    return tf.nn.depth_to_space(blocks, side)[:, :height, :width]


def _spread(rows: int, columns: int, side: int) -> NDArray[np.float32]:
    """[(rows + side - 1) (columns + side - 1) side side, rows columns], 1 at the places of the kernel's taps."""
    ones = np.zeros((rows + side - 1, columns + side - 1, side, side, rows, columns), np.float32)
    for u, v, i, j in np.ndindex(side, side, rows, columns):
        ones[u + rows - 1 - i, v + columns - 1 - j, u, v, i, j] = 1
    return ones.reshape(-1, rows * columns)


def _around(taps: int, side: int, length: int, before: int, given: int) -> list[int]:
    """Padding before and after `given` values, so that whole blocks cover `length` pixels."""
    above = taps - 1 - before
    return [above, -(-length // side) * side + taps - 1 - above - given]
