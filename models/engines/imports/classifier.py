"""An imported model as a classifier of images: its graph with a preparation and a head around it, beside its source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.classifier import Images, Probabilities
from models.engines.conversion import Agreement, Conversion, compare
from models.engines.imports.foreign import Imported, reason_of
from models.engines.keras_input import layout_of
from models.engines.onnx import OnnxClassifier
from models.engines.onnx_checks import image_input, model_output, shape_of
from models.engines.onnx_graph import composed
from models.errors import InvalidInput
from models.image_rows import ImageRows
from models.preparation import InputType, Layout, Outputs, Preparation

if TYPE_CHECKING:
    from onnx import ModelProto

_ROWS = 64
_EXPORT_TO_ONNX = "export it to ONNX where it was made, and give that file"


class ForeignClassifier(OnnxClassifier):
    """An imported model with a graph, as it will be served.

    Args:
        source: what was imported.
        name: of its file, for messages.
        input_shape: (h, w, c) of the images.
        preparation: how the model wants them.
        outputs: the kind of what it returns.
        output: which of several outputs tells the classes apart.
        labels: the names of the classes; those of the file, or numbers, when not given.
        threads: of a forward pass.

    Raises: InvalidInput on construction: a model that does not map one image to one row of classes.
    """

    def __init__(
        self,
        source: Imported,
        *,
        name: str,
        input_shape: tuple[int, int, int],
        preparation: Preparation,
        outputs: Outputs = "probabilities",
        output: str | None = None,
        labels: Sequence[str] | None = None,
        threads: int | None = None,
    ) -> None:
        model = _graph(source)
        graph = composed(model, preparation=preparation, outputs=outputs, input_shape=input_shape, output_name=output, name=name)
        classes = graph.graph.output[0].type.tensor_type.shape.dim[1].dim_value
        if labels is not None and len(labels) != classes:
            raise InvalidInput(f"expected {classes} labels, one per class of the model, got {len(labels)}")
        own = source.labels if source.labels is not None and len(source.labels) == classes else None
        self.graph: bytes = graph.SerializeToString()
        super().__init__(
            self.graph, labels=labels or own or tuple(map(str, range(classes))), input_shape=input_shape, threads=threads
        )
        self.source, self.name, self.preparation, self.outputs = source, name, preparation, outputs
        given = [value.name for value in model.graph.output]
        self._place = given.index(model_output(model, name, output).name)
        self._own_shape = shape_of(image_input(model, name))

    @property
    def flat_input(self) -> bool:
        """Whether the model takes an image as one row of numbers, whose order its shape does not say."""
        return len(self._own_shape) == 1

    @property
    def parameters(self) -> int:
        """How many numbers the model has learnt."""
        return self.source.parameters

    def source_probabilities(self, images: Images) -> Probabilities:
        """What the source's own framework answers. Raises: InvalidInput: it fails."""
        parts = [self._source_part(images[start : start + _ROWS]) for start in range(0, len(images), _ROWS)]
        return np.concatenate(parts) if parts else np.empty((0, len(self.labels)), np.float32)

    def conversion(self, images: ImageRows) -> Conversion:
        """The graph beside its source on every image. Raises: InvalidInput: they are not the same model."""
        agreement: Agreement = compare(self, _Source(self), images)
        if agreement.reason_against is not None:
            raise InvalidInput(
                f"the ONNX graph made of {self.name} is not the same model as {self.source.what}: {agreement.reason_against}; "
                f"{_EXPORT_TO_ONNX}"
            )
        return Conversion("onnx", f"the model is {self.source.what}", self.graph, agreement)

    def _source_part(self, images: Images) -> Probabilities:
        shape = _input_sizes(self._own_shape, self.preparation.shape(self.input_shape))
        try:
            raw = self.source.predict_source(self.preparation.apply(images, shape=shape))[self._place]
        except InvalidInput:
            raise
        except Exception as failure:  # another framework's, of any kind
            raise InvalidInput(f"{self.source.what} in {self.name} fails on these images: {reason_of(failure)}") from failure
        return _head(np.asarray(raw, np.float64), self.outputs)


class _Source:
    """The source's own framework as a classifier, to compare with."""

    def __init__(self, of: ForeignClassifier) -> None:
        self.labels, self.input_shape, self.predict = of.labels, of.input_shape, of.source_probabilities


def proposed_input(source: Imported, name: str) -> tuple[Layout, InputType]:
    """The layout and the type that the shape and the type of the model's input say."""
    from onnx import TensorProto

    taken = image_input(_graph(source), name)
    dtype: InputType = "uint8" if taken.type.tensor_type.elem_type == TensorProto.UINT8 else "float32"
    return layout_of(shape_of(taken)), dtype


def input_shape_of(source: Imported, name: str) -> tuple[int | None, ...]:
    """The shape of one image at the model's input; None where it is open."""
    return shape_of(image_input(_graph(source), name))


def _graph(source: Imported) -> ModelProto:
    if source.model is None:
        raise InvalidInput(f"expected a model with a graph, got {source.what}, which Keras opens")
    return source.model


def _input_sizes(own: tuple[int | None, ...], prepared: tuple[int, int, int]) -> tuple[int, ...]:
    if len(own) == 1:
        return (int(np.prod(prepared)),)
    return prepared if len(own) == len(prepared) else tuple(size for size in prepared if size != 1)


def _head(raw: NDArray[np.float64], outputs: Outputs) -> Probabilities:
    """From a model's own outputs to probabilities, in double precision."""
    raw = raw.reshape(len(raw), -1)
    if raw.shape[1] == 1:
        raw = np.concatenate([-raw / 2, raw / 2] if outputs == "logits" else [1 - raw, raw], axis=1)
    if outputs == "logits":
        raw = np.exp(raw - raw.max(axis=1, keepdims=True))
        raw /= raw.sum(axis=1, keepdims=True)
    return raw.astype(np.float32)
