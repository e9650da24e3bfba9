"""Activations of any tensor of an ONNX model, each read by a session of its own that is made when it is first asked for.

The session that answers requests stays as it is: a graph with further outputs cannot be fused across them. The reading session's model
is the same bytes and an edit of a few more (`onnx_edits.py`), which makes the tensor an output. Which tensors there are is in the model's
metadata (`onnx_layers`); a model without it needs `onnx` to be read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from models.classifier import Activations, Images
from models.engines.reading.features import MapShape, chosen
from models.engines.reading.layers import one_of, position
from models.engines.reading.onnx_edits import with_features, with_output
from models.engines.reading.onnx_layers import OnnxLayers, Tensor, layers_of
from models.errors import InvalidInput

_SESSIONS_AT_MOST = 2  # kept open; a scan reads two layers in turn
_NUMBERS_AT_ONCE = 1 << 23  # of a layer, before it is averaged over squares: 32 MiB

OpenSession = Callable[[bytes], Any]
"""A serialized model -> an ONNX Runtime session."""


@dataclass(frozen=True)
class _Reader:
    """An open session that reads one tensor."""

    session: Any
    given: str
    options: Any


class OnnxActivations:
    """Activations of a model's layers, fulfilling `ActivationClassifier` for the classifier that owns it.

    Args:
        source: the serialized model; called at first use, and again when a further layer is read, so that no copy is kept.
        open_session: opens it as the classifier's own session is opened.
        described: the layers as the model's metadata have them; looked for when none.
        batch_size: largest number of images per pass; fewer where a layer has many numbers.

    Cost: a forward pass per image up to the layer. Sessions of the last two layers stay open.
    """

    def __init__(self, source: Callable[[], bytes], open_session: OpenSession, *, described: str | None, batch_size: int) -> None:
        self._source, self._open, self._described, self._batch_size = source, open_session, described, batch_size
        self._readers: dict[str, _Reader] = {}
        self._opening = threading.Lock()

    @property
    def layers(self) -> tuple[str, ...]:
        """The readable layers in order of computation, by the names of their tensors."""
        return self._found.names

    @property
    def hidden_layer(self) -> str:
        """The layer read by default. Raises: InvalidInput: no product with weights in the graph."""
        found = self._found
        if found.hidden is None:
            raise InvalidInput(
                f"expected a model with a classification head, but no node has a kernel; name {one_of(found.names)}"
            )
        return found.hidden

    @property
    def earlier_layer(self) -> str | None:
        """The last feature map [h, w, c] before the hidden layer; None in networks without feature maps."""
        return self._found.earlier

    @property
    def blocks(self) -> dict[str, MapShape]:
        """The convolution blocks, and (h, w, c) of their maps; of a model that does not say them itself, looked for."""
        found = self._found if self._found.blocks is not None else _looked_for(self._source())
        shapes = {name: found.tensors[name].shape for name in found.blocks or ()}
        return {name: (h, w, c) for name, (c, h, w) in shapes.items()}

    def layered(self, layers: tuple[str, ...]) -> Any:
        """A session of the model with one more output, `FEATURES`: those of these blocks. Raises: InvalidInput: no such block."""
        return self._open(with_features(self._source(), chosen(self.blocks, layers)))

    def __call__(self, images: Images, layer: str | int | None = None) -> Activations:
        """Activations float32 [n, d] of images float32 [n, h, w, c] in [0, 1], flattened with the channels last.

        Args:
            layer: a name, also of a tensor that is not among `layers`, or a position in `layers`; the hidden layer when not given.

        Raises: InvalidInput: no such layer; the message lists the existing ones.
        """
        name = self._name(layer)
        tensor, reader = self._found.tensors[name], self._reader(name)
        rows = max(1, min(self._batch_size, _NUMBERS_AT_ONCE // max(1, int(np.prod(tensor.shape)))))
        parts = [_read(reader, name, tensor, images[start : start + rows]) for start in range(0, len(images), rows)]
        return np.concatenate(parts) if parts else tensor.activations(np.empty((0, *tensor.shape), np.float32))

    def _name(self, layer: str | int | None) -> str:
        found = self._found
        if layer is None:
            return self.hidden_layer
        if isinstance(layer, str) and layer in found.tensors:
            return layer
        return found.names[position(found.names, layer)]

    def _reader(self, name: str) -> _Reader:
        with self._opening:  # scans read from several threads
            if name not in self._readers:
                if len(self._readers) >= _SESSIONS_AT_MOST:
                    del self._readers[next(iter(self._readers))]
                self._readers[name] = self._opened(name)
            return self._readers[name]

    def _opened(self, name: str) -> _Reader:
        import onnxruntime

        session = self._open(with_output(self._source(), name))
        options = onnxruntime.RunOptions()
        options.only_execute_path_to_fetches = True  # the head is not computed
        return _Reader(session, session.get_inputs()[0].name, options)

    @cached_property
    def _found(self) -> OnnxLayers:
        return _looked_for(self._source()) if self._described is None else OnnxLayers.from_text(self._described)


def _looked_for(serialized: bytes) -> OnnxLayers:
    """The layers of a model that does not say them itself."""
    try:
        import onnx
    except ImportError:
        raise InvalidInput(
            "expected a model that names its layers, as hauberk calibrate writes it, or the package onnx to find them; "
            "calibrate again, or install onnx"
        ) from None
    return layers_of(onnx.load_from_string(serialized))


def _read(reader: _Reader, name: str, tensor: Tensor, images: Images) -> Activations:
    [outputs] = reader.session.run([name], {reader.given: images}, reader.options)
    return tensor.activations(outputs)
