"""scikit-learn classifiers from skops files: only types that skops knows, and trees whose nodes have been checked.

A `.skops` file is an archive of arrays and a schema that names types. skops builds those it trusts, the estimators of scikit-learn
and NumPy's arrays among them, and lists all others, which are refused. Decision trees are not among the trusted, because their nodes
are read by compiled code that follows any number: here they are built, and their numbers are checked before anything follows them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.archives import FOR_BUNDLES, OutOfBounds, check_file
from models.engines.imports.foreign import Imported, listed, missing, reason_of
from models.engines.imports.onnx import parameters
from models.errors import InvalidInput
from models.files import open_file

if TYPE_CHECKING:
    from onnx import ModelProto

OPSETS = {"": 18, "ai.onnx.ml": 3}
# Beyond those that skops trusts: plain objects of scikit-learn, and trees, which are checked.
_KNOWN = (
    "sklearn.tree._tree.Tree",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
)
_PROBABILITIES = "probabilities"
_DEEPEST = 100  # estimators within estimators


def opened(path: Path, threads: int | None, image_shape: tuple[int, int, int] | None) -> Imported:
    """See `models.engines.imports.imported`."""
    estimator = _estimator(path)
    model = _converted(estimator, path.name)

    def predict(inputs: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        return (np.asarray(estimator.predict_proba(inputs.reshape(len(inputs), -1))),)

    return Imported(
        what="a scikit-learn model",
        model=model,
        predict_source=predict,
        parameters=parameters(model) or _attribute_numbers(model),
        labels=_labels(estimator),
    )


def _estimator(path: Path) -> Any:
    try:
        from skops.io import get_untrusted_types, load
    except ImportError as failure:
        raise missing("a scikit-learn model", "skops", "sklearn-models", failure) from failure
    try:
        with open_file(path) as file:
            check_file(file, FOR_BUNDLES)
            content = path.read_bytes()
        _check_types(get_untrusted_types(data=content), path.name)
        with warnings.catch_warnings(action="ignore"):  # of another version of scikit-learn: what it computes is compared
            estimator = load_checked(load, content)
    except (InvalidInput, OutOfBounds) as failure:
        raise InvalidInput(str(failure) if isinstance(failure, InvalidInput) else f"{path.name} {failure}") from failure
    except Exception as failure:  # damaged archives and schemas raise a dozen kinds of exceptions
        raise InvalidInput(
            f"expected a scikit-learn model, but {path.name} cannot be read as one: {reason_of(failure)}; save it again with "
            "skops.io.dump"
        ) from failure
    if not hasattr(estimator, "predict_proba") or not hasattr(estimator, "classes_"):
        raise InvalidInput(
            f"expected a fitted classifier with predict_proba, but {path.name} holds {type(estimator).__name__}; put it into "
            "sklearn.calibration.CalibratedClassifierCV, or fit it with probability=True"
        )
    return estimator


def _check_types(untrusted: list[str], name: str) -> None:
    unknown = [one for one in untrusted if one not in _KNOWN]
    if unknown:
        raise InvalidInput(
            f"expected a model of scikit-learn's own types, but {name} needs code ({listed(unknown)}), which is never run from a file; "
            "leave it out of the pipeline, or export the model to ONNX where it was made"
        )


def load_checked(load: Any, content: bytes) -> Any:
    """What skops builds, its trees checked. Raises: InvalidInput: a tree that leads out of itself."""
    from io import BytesIO

    estimator = load(BytesIO(content), trusted=list(_KNOWN))
    for tree in _trees(estimator):
        _check_tree(tree)
    return estimator


def _trees(held: Any, depth: int = 0) -> Iterator[Any]:
    """Every decision tree in an estimator, in those it is made of too."""
    if depth > _DEEPEST:
        raise InvalidInput(
            "expected estimators within estimators up to a depth of 100; export the model to ONNX where it was made"
        )
    if type(held).__name__ == "Tree" and type(held).__module__ == "sklearn.tree._tree":
        yield held
    elif isinstance(held, dict):
        for one in held.values():
            yield from _trees(one, depth + 1)
    elif isinstance(held, list | tuple) or (isinstance(held, np.ndarray) and held.dtype == object):
        for one in held if not isinstance(held, np.ndarray) else held.ravel():
            yield from _trees(one, depth + 1)
    elif type(held).__module__.startswith("sklearn.") and hasattr(held, "__dict__"):
        yield from _trees(vars(held), depth + 1)


def _check_tree(tree: Any) -> None:
    """Children come after their node, and features are those of the input: a walk ends, and stays inside."""
    nodes = tree.node_count
    here = np.arange(nodes)
    left, right, feature = tree.children_left, tree.children_right, tree.feature
    leaf = left == -1
    inner = ~leaf
    fine = (
        len(left) == nodes
        and (right[leaf] == -1).all()
        and all(((child > here) & (child < nodes))[inner].all() for child in (left, right))
        and ((feature >= 0) & (feature < tree.n_features))[inner].all()
    )
    if not fine:
        raise InvalidInput(
            "expected decision trees whose nodes lead downwards, got one that leads out of itself; save the model again"
        )


def _labels(estimator: Any) -> tuple[str, ...] | None:
    classes = np.asarray(estimator.classes_)
    if classes.ndim != 1:
        raise InvalidInput("expected a model of one class an image, got one of several; export each to ONNX")
    if classes.dtype.kind in "iu" and (classes == np.arange(len(classes))).all():
        return None
    return tuple(map(str, classes))


def _converted(estimator: Any, name: str) -> ModelProto:
    try:
        from skl2onnx import to_onnx
        from skl2onnx.common.data_types import FloatTensorType
    except ImportError as failure:
        raise missing("a scikit-learn model", "skl2onnx", "sklearn-models", failure) from failure
    given = [("images", FloatTensorType([None, int(estimator.n_features_in_)]))]
    try:
        model = to_onnx(estimator, initial_types=given, options={"zipmap": False}, target_opset=OPSETS)
    except Exception as failure:  # MissingConverter and its kin have no base of their own
        raise InvalidInput(
            f"expected a scikit-learn model that has an ONNX form, but {name} has none: {reason_of(failure)}"
        ) from failure
    return only_output(model, _PROBABILITIES)


def only_output(model: ModelProto, name: str) -> ModelProto:
    """The part of a graph that one of its outputs needs: labels as text are no classes' probabilities. In place."""
    needed, kept = {name}, []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
            kept.append(node)
    outputs = [value for value in model.graph.output if value.name == name]
    weights = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    for field, values in (("node", kept[::-1]), ("output", outputs), ("initializer", weights)):
        copies = [type(value).FromString(value.SerializeToString()) for value in values]
        model.graph.ClearField(field)
        getattr(model.graph, field).extend(copies)
    return model


def _attribute_numbers(model: ModelProto) -> int:
    """The numbers of a model that keeps them in its nodes: coefficients, thresholds and leaves."""
    return sum(len(attribute.floats) for node in model.graph.node for attribute in node.attribute)
