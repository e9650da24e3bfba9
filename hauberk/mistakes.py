"""Mistakes on a command line, each as one sentence: the value expected, the value given, and where to read more."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

import typer
from pydantic import ValidationError


def sentence(mistake: typer.TyperException) -> str:
    """The sentence for a mistake that the parser of the command line found."""
    parameter, cause = getattr(mistake, "param", None), mistake.__cause__
    if parameter is not None and isinstance(cause, ValidationError):
        return f"expected {parameter.opts[-1]} {_expected(parameter)}, got {cause.errors()[0]['input']!r}"
    context = getattr(mistake, "ctx", None)
    command = f"hauberk {context.info_name}" if context is not None and context.parent is not None else "hauberk"
    return f"{mistake.format_message().rstrip('.')}; see {command} --help"


# By the module that is imported; what is not here is a dependency that everybody has.
_EXTRAS = {
    **dict.fromkeys(("tensorflow", "keras", "tf2onnx", "h5py"), "tensorflow"),
    **dict.fromkeys(("skl2onnx", "skops"), "sklearn-models"),
    "onnx": "onnx",
    **dict.fromkeys(("torch", "onnxscript"), "torch"),
}


def missing_extra(failure: ModuleNotFoundError) -> str | None:
    """What to install for a module that is not there, in a sentence; None where no extra has it, which is nobody's mistake but ours."""
    module = (failure.name or "").split(".")[0]
    if module not in _EXTRAS:
        return None
    return f'expected {module} to be installed, which this needs: pip install "hauberk[{_EXTRAS[module]}]"'


def _expected(parameter: Any) -> str:
    """The values that the parameter takes: one of some words, or a number within bounds."""
    kind = getattr(getattr(parameter, "type_descriptor", None), "annotation", None)
    if get_origin(kind) is Literal:
        *others, last = map(str, get_args(kind))
        return f"{', '.join(others)} or {last}"
    number = "a whole number" if kind is int else "a number" if kind is float else "something else"
    low, high = getattr(parameter, "min", None), getattr(parameter, "max", None)
    if low is None and high is None:
        return number
    return f"{number} from {low} to {high}" if high is not None else f"{number} of at least {low}"
