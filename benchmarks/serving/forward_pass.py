"""python -m benchmarks.serving.forward_pass: several ways to run `mnist-standard`'s forward pass, alternating, on one thread.

The figures of docs/decisions/0006. With TF_ENABLE_ONEDNN_OPTS=0 TensorFlow uses Eigen's kernels instead of oneDNN's.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.harness.peers import alternate, table
from models.bundle import read_bundle, standard_bundle_directory
from models.classifier import Images
from models.datasets import MNIST, load_dataset
from models.engines.keras import KerasClassifier, import_tensorflow

_ROWS = (1, 16, 32, 128)
_ROUNDS = 60

Forward = Callable[[Images], Any]


def main() -> None:
    """Print microseconds per row, the median over the rounds."""
    classifier = KerasClassifier.from_bundle(read_bundle(standard_bundle_directory()), threads=1)
    images = load_dataset(MNIST, split="test").images[: max(_ROWS)]
    rows = []
    for count in _ROWS:
        part = images[:count]
        ways = {"as served": classifier.predict, "weights frozen": _frozen(classifier), "XLA": _xla(classifier)}
        ways["TensorFlow Lite, XNNPACK"] = _lite(classifier, count)
        for name, forward in ways.items():
            assert np.allclose(forward(part), classifier.predict(part), atol=1e-5), name
        seconds = alternate([partial(forward, part) for forward in ways.values()], _ROUNDS)
        rows.append([count, *(f"{1e6 * each / count:.1f}" for each in seconds)])
    print(table(("rows", *(f"{name}, us a row" for name in ways)), rows))


def _xla(classifier: KerasClassifier) -> Forward:
    tf = import_tensorflow()
    compiled = tf.function(lambda images: classifier.model(images, training=False), jit_compile=True, autograph=False)
    return lambda images: compiled(tf.constant(images)).numpy()


def _constants(classifier: KerasClassifier) -> Any:
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    return convert_variables_to_constants_v2(classifier.forward.get_concrete_function())


def _frozen(classifier: KerasClassifier) -> Forward:
    tf = import_tensorflow()
    constants = _constants(classifier)
    signature = [tf.TensorSpec([None, *classifier.input_shape], tf.float32)]
    wrapped = tf.function(lambda images: constants(images)[0], input_signature=signature, autograph=False)
    run = wrapped.get_concrete_function()
    return lambda images: run(tf.constant(images)).numpy()


def _lite(classifier: KerasClassifier, count: int) -> Forward:
    tf = import_tensorflow()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = tf.lite.TFLiteConverter.from_concrete_functions([_constants(classifier)]).convert()
        interpreter = tf.lite.Interpreter(model_content=model, num_threads=1)
    given = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(given, [count, *classifier.input_shape])
    interpreter.allocate_tensors()
    answered = interpreter.get_output_details()[0]["index"]

    def forward(images: Images) -> Any:
        interpreter.set_tensor(given, images)
        interpreter.invoke()
        return interpreter.get_tensor(answered)

    return forward


if __name__ == "__main__":
    main()
