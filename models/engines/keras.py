"""Keras models as classifiers. TensorFlow is imported when the first model is loaded."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import textwrap
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.archives import FOR_BUNDLES, OutOfBounds, check_file
from models.classifier import Activations, Images, Labels, LayeredPass, Logits, Loss, LossGradient, Probabilities
from models.engines.channels_first import as_channels_last
from models.engines.float32 import in_float32
from models.engines.keras_activations import KerasActivations
from models.engines.keras_gradients import KerasGradients
from models.engines.keras_input import check_dtype, image_shape, in_graph, of_numbers, own_shape
from models.errors import INSTALL_TENSORFLOW, InvalidInput
from models.file_kinds import KERAS_MODEL, kind_of, own_code
from models.files import open_file
from models.preparation import Outputs, Preparation

if TYPE_CHECKING:
    from models.bundle import Bundle

# Activations take many times the memory of the input, which bounds a call to 13 images of 224x224x3. Of 512 digits they are 30 MB,
# more than a cache holds: two calls of 256 take a fifth less time.
_NUMBERS_PER_FORWARD = 1 << 20
_ROWS_PER_FORWARD = 256
_GREETING = re.compile(rb"[IWEF]\d{4} |WARNING: All log messages before absl|To enable the following instructions")


def import_tensorflow(threads: int | None = None) -> Any:
    """Import TensorFlow without its start-up messages; the first caller's `threads` hold, as they cannot be changed later."""
    if sys.modules.get("tensorflow") is not None:
        return sys.modules["tensorflow"]
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _without_greetings():
        tf = _tensorflow()

        if threads is not None:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(1)
        tf.constant(0)  # starts the runtime, which looks for accelerators and says so
    return tf


def _tensorflow() -> Any:
    try:
        import tensorflow
    except ModuleNotFoundError as failure:
        if failure.name != "tensorflow":
            raise  # it is there, and lacks something
        raise InvalidInput(f"a Keras model needs TensorFlow, which is not installed: {INSTALL_TENSORFLOW}") from failure
    return tensorflow


@contextmanager
def _without_greetings() -> Iterator[None]:
    """Drop TensorFlow's start-up messages on stderr, which none of its settings silences; other lines are passed on."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            held.seek(0)
            for line in held:
                if not _GREETING.match(line):
                    os.write(2, line)


class KerasClassifier:
    """A Keras model as a `DifferentiableClassifier` with readable layers, compiled once for all batch sizes.

    The graph prepares images float32 [n, h, w, c] in [0, 1] for the model (also one without channels, or flat), and maps its
    output (probabilities, logits or a single sigmoid) to probabilities float32 [n, k], k >= 2.

    Args:
        model: a Keras model with one input; subclassed and unbuilt models are built for `input_shape`.
        labels: the class names; ("0", "1", ...) when not given.
        input_shape: (h, w, c); needed only when the model leaves a dimension open or takes flat input.
        input_range: (low, high), the values of 0 and 1 at the model's input; the short form of a `preparation` that is no more.
        preparation: how the model wants its images; [0, 1], channels last, when neither is given.
        output: the name of the output to take, of a model with several.
        outputs: the kind of the model's output, "probabilities" or "logits".
        batch_size: largest number of images per forward call; larger batches are split to bound the memory. 256 when not given, fewer
            for large images.

    Raises: InvalidInput on construction: a model that does not map one image to one class distribution.
    """

    engine = "Keras"

    def __init__(
        self,
        model: Any,
        *,
        labels: Sequence[str] | None = None,
        input_shape: tuple[int, int, int] | None = None,
        input_range: tuple[float, float] | None = None,
        preparation: Preparation | None = None,
        output: str | None = None,
        outputs: Outputs = "probabilities",
        batch_size: int | None = None,
    ) -> None:
        tf = import_tensorflow()
        model = _from_tensor_to_tensor(_with_inputs(model, input_shape), output)
        self.preparation, own = _preparation(preparation, input_range), own_shape(model)
        self.flat_input = len(own) == 1
        self.input_shape = image_shape(own, input_shape, self.preparation.layout)
        check_dtype(model, self.preparation)
        columns = _columns(model)
        self.labels = tuple(labels) if labels is not None else tuple(map(str, range(max(columns, 2))))
        if len(self.labels) != max(columns, 2):
            raise InvalidInput(f"expected {max(columns, 2)} labels, one per class of the model, got {len(self.labels)}")
        self.model, self.outputs = model, outputs
        self.batch_size = batch_size or max(1, min(_ROWS_PER_FORWARD, _NUMBERS_PER_FORWARD // int(np.prod(self.input_shape))))
        prepared, differentiable = in_graph(self.preparation, own, self.input_shape), of_numbers(model)

        def raw_outputs(images: Any, training: bool = False) -> Any:
            with as_channels_last(model):
                return tf.cast(differentiable(prepared(images), training=training), tf.float32)

        def head(raw: Any) -> Any:
            if columns == 1:
                # 1 - sigmoid(20) is 0 in float32, sigmoid(-20) is not.
                both = (tf.sigmoid(-raw), tf.sigmoid(raw)) if outputs == "logits" else (1 - raw, raw)
                return tf.concat(both, axis=1)
            return tf.nn.softmax(raw) if outputs == "logits" else raw

        def forward(images: Any) -> Any:
            return head(raw_outputs(images))

        def precise_outputs(images: Any, training: bool = False) -> Any:
            with in_float32(model):
                return raw_outputs(images, training)

        signature = [tf.TensorSpec([None, *self.input_shape], tf.float32)]
        self.forward = tf.function(forward, input_signature=signature, autograph=False)
        self._run = self.forward.get_concrete_function()
        self._constant = tf.constant
        self._gradients = KerasGradients(precise_outputs, self.input_shape, outputs=outputs, batch_size=self.batch_size)
        self._activations = KerasActivations(raw_outputs, model, self.input_shape, head=head, batch_size=self.batch_size)

    @classmethod
    def load(cls, path: Path, *, threads: int | None = None, **options: Any) -> KerasClassifier:
        """Read a `.keras` file in safe mode (its code is not run). Raises: InvalidInput: a file that cannot be read."""
        return cls(load_model(path, threads=threads), **options)

    @classmethod
    def from_bundle(cls, bundle: Bundle, *, file: str | None = None, threads: int | None = None) -> KerasClassifier:
        """The classifier of a bundle, or one in another `file` of it that reads and answers as that does."""
        settings = bundle.settings["classifier"]
        with bundle.copied(file or settings["file"]) as path:  # what is loaded is what was hashed
            return cls.load(
                path,
                threads=threads,
                labels=bundle.labels,
                input_shape=bundle.input_shape,
                preparation=Preparation.from_settings(settings),
                outputs=settings["outputs"],
            )

    @property
    def input_range(self) -> tuple[float, float] | None:
        """The values of black and white at the model's input, where they are the same in all channels."""
        return self.preparation.input_range

    def predict(self, images: Images) -> Probabilities:
        """Class probabilities [n, k] of images float32 [n, h, w, c] in [0, 1]."""
        if not len(images):  # some TensorFlow graphs fail on empty batches
            return np.empty((0, len(self.labels)), np.float32)
        if len(images) <= self.batch_size:
            return self._forward(images)
        parts = [self._forward(images[start : start + self.batch_size]) for start in range(0, len(images), self.batch_size)]
        return np.concatenate(parts)

    def logits(self, images: Images) -> Logits:
        """Logits [n, k]: for a model that ends in a softmax, its argument; for a single output z, (-z/2, z/2). In float32, whatever
        the model's own precision: `predict` is their softmax up to its rounding."""
        return self._gradients.logits(images)

    def loss_gradient(self, images: Images, labels: Labels, loss: Loss) -> LossGradient:
        """See `DifferentiableClassifier.loss_gradient`."""
        return self._gradients.loss_gradient(images, labels, loss)

    def class_gradients(self, images: Images) -> Images:
        """See `DifferentiableClassifier.class_gradients`."""
        return self._gradients.class_gradients(images)

    def layers(self) -> tuple[str, ...]:
        """See `ActivationClassifier.layers`."""
        return self._activations.layers

    def hidden_layer(self) -> str:
        """See `ActivationClassifier.hidden_layer`."""
        return self._activations.hidden_layer

    def earlier_layer(self) -> str | None:
        """See `ActivationClassifier.earlier_layer`."""
        return self._activations.earlier_layer

    def activations(self, images: Images, layer: str | int | None = None) -> Activations:
        """See `ActivationClassifier.activations`; large feature maps are averaged over squares, see
        `models.engines.keras_activations`."""
        return self._activations(images, layer)

    def blocks(self) -> Mapping[str, tuple[int, int, int]]:
        """See `LayeredClassifier.blocks`: layers of the model."""
        return self._activations.blocks

    def layered(self, layers: tuple[str, ...]) -> LayeredPass:
        """See `LayeredClassifier.layered`; compiled at first use."""
        return self._activations.layered(layers)

    def activation_gradients(self, images: Images, layer: str | int | None, by_activations: Activations) -> Images:
        """See `DifferentiableActivations.activation_gradients`."""
        return self._activations.gradients(images, layer, by_activations)

    def graph_logits(self, images: Any, training: bool = False) -> Any:
        """Logits [n, k] of a tensor of images, as TensorFlow operations for use in another tf.function."""
        return self._gradients.graph_logits(images, training)

    def _forward(self, images: Images) -> Probabilities:
        outputs: Probabilities = self._run(self._constant(images)).numpy()
        return outputs


def load_model(path: Path, *, threads: int | None = None) -> Any:
    """The Keras model in a `.keras` file, without its optimiser. Raises: InvalidInput: no file, another format, or code in it."""
    if not path.exists():
        raise InvalidInput(
            f"expected a Keras model file, got {path}, which does not exist; save one with model.save('name.keras')"
        )
    kind = kind_of(path)
    again = "" if ";" in kind else "; load it where it was made and save it again with model.save('name.keras')"
    if path.suffix != ".keras" or path.is_dir():
        raise InvalidInput(f"expected a model in the .keras format, got {path.name}{kind and f', which is {kind}'}{again}")
    if kind != KERAS_MODEL:
        what = kind or "no model file that is known"
        raise InvalidInput(f"expected a Keras model that loads in safe mode, but {path.name} does not: it is {what}{again}")
    _check_unpacked(path)
    import_tensorflow(threads)
    import keras

    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as failure:
        own = own_code(path)
        reason = _shortened(failure)
        if own:
            reason = f"it needs code ({', '.join(own)}), which is never run from a file; build it from Keras's own layers only"
        raise InvalidInput(f"expected a Keras model that loads in safe mode, but {path.name} does not: {reason}") from failure


def _check_unpacked(path: Path) -> None:
    """Refuse a small file that would unpack to a large model. Raises: InvalidInput."""
    try:
        with open_file(path) as file:
            check_file(file, FOR_BUNDLES)
    except OutOfBounds as failure:
        raise InvalidInput(f"{path.name} {failure}; save the model again with model.save('name.keras')") from failure
    except (OSError, ValueError, zipfile.BadZipFile):
        return  # it is no archive of Keras, which says so itself


def _with_inputs(model: Any, input_shape: tuple[int, int, int] | None) -> Any:
    """The model itself if it has inputs, else a functional model around it for images of this shape."""
    import keras

    if hasattr(model, "inputs") and model.inputs:
        return model
    if input_shape is None:
        raise InvalidInput(f"expected input_shape (h, w, c) for {type(model).__name__}, which has no input shape of its own")
    inputs = keras.Input(input_shape)
    try:
        return keras.Model(inputs, model(inputs))
    except Exception as failure:  # what a model of the user's own returns may be anything, and so may be what it raises
        raise InvalidInput(
            f"expected a model that maps one image tensor to one output tensor, but {type(model).__name__} does not: "
            f"{_shortened(failure)}"
        ) from failure


def _preparation(given: Preparation | None, input_range: tuple[float, float] | None) -> Preparation:
    if given is not None and input_range is not None:
        raise InvalidInput("expected a preparation or an input range, got both")
    return given or Preparation.of_range(*(input_range or (0.0, 1.0)))


def _from_tensor_to_tensor(model: Any, output: str | None) -> Any:
    """The model itself, or for one that takes or returns a dict, list or tuple, the same layers from one tensor to one tensor.

    Raises: InvalidInput: more or fewer inputs than one, several outputs and no name, no output of this name.
    """
    import keras

    if len(model.inputs) != 1 or not model.outputs:
        raise InvalidInput(f"expected a model with 1 input and 1 output, got {len(model.inputs)} and {len(model.outputs)}")
    chosen = _chosen_output(model, output)
    if len(model.outputs) > 1:
        return keras.Model(model.inputs[0], chosen, name=model.name)
    if isinstance(model, keras.Sequential):  # which has no `output` before its first call
        plain = not keras.tree.is_nested(model.compute_output_spec(model.inputs[0]))
    else:
        plain = not (keras.tree.is_nested(model.input) or keras.tree.is_nested(model.output))
    if plain:
        return model
    return keras.Model(model.inputs[0], chosen, name=model.name)


def _chosen_output(model: Any, name: str | None) -> Any:
    """The output of this name; the only one, when none is named."""
    names = output_names(model)
    if name is None and len(names) == 1:
        return model.outputs[0]
    if name not in names:
        shapes = ", ".join(f"{one} {tuple(made.shape)}" for one, made in zip(names, model.outputs, strict=True))
        got = "none" if name is None else repr(name)
        raise InvalidInput(f"expected the name of an output (--output), one of {shapes}, got {got}")
    return model.outputs[names.index(name)]


def output_names(model: Any) -> list[str]:
    """The names of the model's outputs: the keys of a dict, or the layers that make them."""
    made = getattr(model, "_outputs_struct", None)
    if isinstance(made, dict) and len(made) == len(model.outputs):
        by_tensor = {id(tensor): key for key, tensor in made.items()}
        return [str(by_tensor.get(id(tensor), tensor.name)) for tensor in model.outputs]
    return list(getattr(model, "output_names", ())) or [tensor.name for tensor in model.outputs]


def _shortened(failure: Exception) -> str:
    """The first line of what an exception says, to the end of a word."""
    return textwrap.shorten(str(failure).strip().split("\n")[0], 300, placeholder=" ...") or type(failure).__name__


def _columns(model: Any) -> int:
    shape = model.outputs[0].shape
    if len(shape) != 2 or shape[1] is None:
        raise InvalidInput(f"expected a model whose output is [n, classes], got {tuple(shape)}")
    return int(shape[1])
