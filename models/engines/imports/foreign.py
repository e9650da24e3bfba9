"""A classifier read from a file of another framework: what every importer returns."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from models.errors import InvalidInput

if TYPE_CHECKING:
    from onnx import ModelProto

RawOutputs = Callable[[NDArray[Any]], tuple[NDArray[Any], ...]]
"""The framework's own forward pass: inputs [n, ...] as the model itself wants them (its range, layout and type) to each of its outputs,
in their order."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Imported:
    """A classifier as its framework has it: nothing is prepared, scaled or normalised yet.

    Exactly one of `model` and `keras` is there.

    Attributes:
        what: the format in words, "a TorchScript program".
        model: the graph in its own layout and range; its outputs are those of `predict_source`, in their order.
        keras: the Keras model, where Keras reads the file: it keeps its gradients and layers, and is converted by calibration.
        predict_source: the forward pass in the source's own framework, to compare the conversion with.
        parameters: how many numbers the model has learnt.
        labels: the names of the classes, where the file says them.
    """

    what: str
    parameters: int
    predict_source: RawOutputs
    model: ModelProto | None = None
    keras: Any = None
    labels: tuple[str, ...] | None = None


def missing(what: str, module: str, extra: str, failure: ImportError) -> InvalidInput:
    """The refusal of a format whose framework is not installed."""
    name = failure.name or module
    return InvalidInput(f'reading {what} needs {name}, which is not installed: pip install "hauberk[{extra}]"')


def reason_of(failure: BaseException) -> str:
    """The first line of what a framework raised, to the end of a word."""
    lines = (line.strip() for line in str(failure).splitlines())
    return textwrap.shorten(next((line for line in lines if line), ""), 300, placeholder=" ...") or type(failure).__name__


def listed(names: Iterable[str], *, at_most: int = 5) -> str:
    """Some of the names of what is refused, once each, in order."""
    found = sorted(set(names))
    more = f" and {len(found) - at_most} more" if len(found) > at_most else ""
    return ", ".join(found[:at_most]) + more
