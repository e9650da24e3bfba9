"""The serving engine: a bundle's model.onnx through ONNX Runtime, from images to probabilities. Needs no TensorFlow and no `onnx`."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from models.classifier import Activations, Images, LayeredAnswers, LayeredPass, Probabilities
from models.engines.reading.onnx_activations import OnnxActivations
from models.engines.reading.onnx_edits import FEATURES
from models.engines.reading.onnx_layers import METADATA
from models.errors import InvalidInput
from models.machine import processors

if TYPE_CHECKING:
    from models.bundle import Bundle

PROVIDERS = "HAUBERK_ONNX_PROVIDERS"
"""The environment variable that names what computes, the first that is there: cpu (always there, and what is used when none is named),
cuda, tensorrt or openvino."""
_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
_ROWS_PER_FORWARD = 256
# What the largest step of a forward pass may take: the buffers of one pass are a few of these.
_BYTES_PER_FORWARD = 64 << 20
# Where a model does not say what its steps take: activations are many times the input.
_TIMES_THE_INPUT = 16
_BYTES_PER_ROW = "hauberk.bytes_per_row"
_ERRORS_ONLY = 3


class OnnxClassifier:
    """An `ActivationClassifier`: a graph from images float32 [n, h, w, c] in [0, 1] to probabilities float32 [n, k].

    `models.engines.onnx_graph.composed` makes one of any model.

    Args:
        model: the graph, serialised.
        labels: the k class names.
        input_shape: (h, w, c) of one image.
        threads: of a forward pass; all processors when none. They sleep between passes: a spinning thread takes the time of the defences.
        batch_size: largest number of images per forward pass; larger batches are split to bound the memory. As many as take 64 MiB in the
            largest step, 256 at most, when not given.
        providers: names of `PROVIDERS`, the first that is installed is used; those of the environment when none.
        source: the graph once more, for sessions that read its layers; kept in memory for them when none.

    Raises: InvalidInput on construction: no such graph, or no such provider.
    """

    engine = "ONNX"

    def __init__(
        self,
        model: bytes,
        *,
        labels: Sequence[str],
        input_shape: tuple[int, int, int],
        threads: int | None = None,
        batch_size: int | None = None,
        providers: str | None = None,
        source: Callable[[], bytes] | None = None,
    ) -> None:
        self.labels, self.input_shape = tuple(labels), input_shape
        self._session = _session(model, threads or processors(), providers)
        [taken], [given] = self._session.get_inputs(), self._session.get_outputs()
        if list(taken.shape[1:]) != list(input_shape) or list(given.shape[1:]) != [len(self.labels)]:
            raise InvalidInput(
                f"expected a graph from images {input_shape} to {len(self.labels)} classes, got one from {taken.shape} to {given.shape}"
            )
        self._input, self._outputs = taken.name, [given.name]
        self.batch_size = batch_size or _rows(self._session, input_shape)
        self.provider: str = self._session.get_providers()[0]
        self._activations = OnnxActivations(
            source or (lambda: model),
            partial(_session, threads=threads or processors(), providers=providers),
            described=self._session.get_modelmeta().custom_metadata_map.get(METADATA),
            batch_size=self.batch_size,
        )
        self._passes: dict[tuple[str, ...], LayeredPass] = {}

    @classmethod
    def from_bundle(cls, bundle: Bundle, *, threads: int | None = None) -> OnnxClassifier:
        """The classifier of a bundle: the bytes that are loaded are those that were hashed."""
        from models.bundle import ONNX_MODEL

        read = partial(bundle.read, ONNX_MODEL)
        return cls(read(), labels=bundle.labels, input_shape=bundle.input_shape, threads=threads, source=read)

    def predict(self, images: Images) -> Probabilities:
        """Class probabilities [n, k] of images float32 [n, h, w, c] in [0, 1]; one forward pass per image."""
        if len(images) <= self.batch_size:
            return self._forward(images) if len(images) else np.empty((0, len(self.labels)), np.float32)
        parts = [self._forward(images[start : start + self.batch_size]) for start in range(0, len(images), self.batch_size)]
        return np.concatenate(parts)

    def layers(self) -> tuple[str, ...]:
        """See `ActivationClassifier.layers`: tensors of the graph, see `models.engines.reading.onnx_layers`."""
        return self._activations.layers

    def hidden_layer(self) -> str:
        """See `ActivationClassifier.hidden_layer`."""
        return self._activations.hidden_layer

    def earlier_layer(self) -> str | None:
        """See `ActivationClassifier.earlier_layer`."""
        return self._activations.earlier_layer

    def activations(self, images: Images, layer: str | int | None = None) -> Activations:
        """See `ActivationClassifier.activations`; of any tensor of the graph, in a session of its own."""
        return self._activations(images, layer)

    def blocks(self) -> Mapping[str, tuple[int, int, int]]:
        """See `LayeredClassifier.blocks`: tensors of the graph."""
        return self._activations.blocks

    def layered(self, layers: tuple[str, ...]) -> LayeredPass:
        """See `LayeredClassifier.layered`; in a session of its own, which holds the weights once more."""
        if layers not in self._passes:
            self._passes[layers] = self._layered(self._activations.layered(layers))
        return self._passes[layers]

    def _layered(self, session: Any) -> LayeredPass:
        outputs = [*self._outputs, FEATURES]

        def forward(images: Images) -> LayeredAnswers:
            probabilities, features = session.run(outputs, {self._input: images})
            return LayeredAnswers(probabilities, features.astype(np.float32, copy=False))

        def answer(images: Images) -> LayeredAnswers:
            if 0 < len(images) <= self.batch_size:
                return forward(images)
            starts = range(0, max(1, len(images)), self.batch_size)
            parts = [forward(images[start : start + self.batch_size]) for start in starts]
            return LayeredAnswers(*(np.concatenate(column) for column in zip(*parts, strict=True)))

        return answer

    def _forward(self, images: Images) -> Probabilities:
        outputs: Probabilities = self._session.run(self._outputs, {self._input: images})[0]
        return outputs


def _session(model: bytes, threads: int, providers: str | None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = _ERRORS_ONLY
    for pool in ("intra_op", "inter_op"):
        options.add_session_config_entry(f"session.{pool}.allow_spinning", "0")
    wanted = _provider(providers if providers is not None else os.environ.get(PROVIDERS, "cpu"))
    chain = list(dict.fromkeys((wanted, _PROVIDERS["cpu"])))
    try:
        return onnxruntime.InferenceSession(model, options, providers=chain)
    except Exception as failure:  # a dozen kinds, none of them public
        raise InvalidInput(f"expected a graph that ONNX Runtime computes, but it does not: {reason_of(failure)}") from failure


def named_providers(wanted: str) -> list[str]:
    """ONNX Runtime's names of what HAUBERK_ONNX_PROVIDERS names, in its order. Raises: InvalidInput: a name that is unknown, or none."""
    names = [name.strip().lower() for name in wanted.split(",") if name.strip()]
    if not names or any(name not in _PROVIDERS for name in names):
        raise InvalidInput(f"expected {PROVIDERS} to be of {', '.join(_PROVIDERS)}, with commas between, got {wanted!r}")
    return [_PROVIDERS[name] for name in names]


def _provider(wanted: str) -> str:
    import onnxruntime

    there = onnxruntime.get_available_providers()
    for provider in named_providers(wanted):
        if provider in there:
            return provider
    raise InvalidInput(
        f"expected one of {wanted} ({PROVIDERS}), but this ONNX Runtime has none of them; install onnxruntime-gpu, or add cpu"
    )


def _rows(session: Any, input_shape: tuple[int, int, int]) -> int:
    said = session.get_modelmeta().custom_metadata_map.get(_BYTES_PER_ROW, "")
    a_row = int(said) if said.isdecimal() and int(said) else 4 * int(np.prod(input_shape)) * _TIMES_THE_INPUT
    return max(1, min(_ROWS_PER_FORWARD, _BYTES_PER_FORWARD // a_row))


def reason_of(failure: Exception) -> str:
    """The first line of what ONNX Runtime says, to the end of a word."""
    return textwrap.shorten(str(failure).strip().split("\n")[0], 300, placeholder=" ...") or type(failure).__name__
