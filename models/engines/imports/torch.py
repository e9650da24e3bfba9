"""PyTorch: programs of torch.export and TorchScript, of which `torch_program` and `torch_script` pass on what is data."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.engines.imports.foreign import Imported, missing, reason_of
from models.engines.imports.torch_operations import EXPORT_TO_ONNX
from models.engines.imports.torch_program import checked_program
from models.engines.imports.torch_script import checked_script
from models.errors import InvalidInput
from models.file_kinds import TORCH_EXPORT, kind_of

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 18
_ROWS_TRIED = 2


def opened(path: Path, threads: int | None, image_shape: tuple[int, int, int] | None) -> Imported:
    """See `models.engines.imports.imported`."""
    if kind_of(path) == TORCH_EXPORT:
        return _exported(path, threads)
    return _scripted(path, checked_script(path), threads, image_shape)


def load_program(path: Path, threads: int | None) -> Any:
    """The `torch.export.ExportedProgram` in a file, loaded as data. Raises: InvalidInput: none, one that needs code, no PyTorch."""
    content, torch = checked_program(path), _torch("a program of torch.export", threads)
    with _quiet():
        try:
            program = torch.export.load(BytesIO(content))
            program.module()
        except Exception as failure:  # what its reader raises for a graph that contradicts itself is of any kind
            raise _unloaded(torch, "a program of torch.export", path.name, failure) from failure
    return program


def _exported(path: Path, threads: int | None) -> Imported:
    program = load_program(path, threads)
    torch = _torch("a program of torch.export", threads)
    with _quiet():
        module = program.module()
        model = _converted(torch, path.name, program)
    parameters = sum(int(weight.numel()) for weight in program.parameters())
    return Imported(what="a program of torch.export", model=model, predict_source=_pass(torch, module), parameters=parameters)


def _scripted(path: Path, content: bytes, threads: int | None, image_shape: tuple[int, int, int] | None) -> Imported:
    torch = _torch("a TorchScript program", threads)
    with _quiet():
        try:
            module = torch.jit.load(BytesIO(content), map_location="cpu").eval()
        except Exception as failure:
            raise _unloaded(torch, "a TorchScript program", path.name, failure) from failure
        model = _converted(torch, path.name, module, _example(torch, module, path.name, image_shape))
    parameters = sum(int(weight.numel()) for weight in module.parameters())
    return Imported(what="a TorchScript program", model=model, predict_source=_pass(torch, module), parameters=parameters)


def _unloaded(torch: Any, what: str, name: str, failure: Exception) -> InvalidInput:
    return InvalidInput(
        f"expected {what}, but PyTorch {torch.__version__} cannot load {name}: {reason_of(failure)}; save it again with this version"
    )


def _torch(what: str, threads: int | None) -> Any:
    try:
        import torch
        import torch.export  # which PyTorch does not import by itself
    except ImportError as failure:
        raise missing(what, "torch", "torch", failure) from failure
    if threads is not None:
        torch.set_num_threads(threads)
    return torch


def _pass(torch: Any, module: Any) -> Any:
    def predict(inputs: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        with torch.no_grad():
            outputs = module(torch.from_numpy(np.ascontiguousarray(inputs)))
        return tuple(output.detach().numpy() for output in _tensors(outputs))

    return predict


def _tensors(outputs: Any) -> list[Any]:
    """The tensors that a program returned, in the order in which its graph returns them."""
    from torch.utils import _pytree

    found: list[Any] = _pytree.tree_leaves(outputs)
    return found


def _example(torch: Any, module: Any, name: str, image_shape: tuple[int, int, int] | None) -> Any:
    """Images as the program takes them: it says nothing about their shape, so that each layout is tried."""
    if image_shape is None:
        raise InvalidInput(f"expected the shape of the images for {name}: TorchScript does not say what it takes")
    h, w, c = image_shape
    reasons = []
    for shape in ((c, h, w), (h, w, c), (h * w * c,), (h, w)):
        images = torch.zeros(_ROWS_TRIED, *shape)
        try:
            with torch.no_grad():
                outputs = module(images)
        except (RuntimeError, ValueError, IndexError, TypeError, AttributeError) as failure:
            reasons.append(reason_of(failure))
            continue
        first = _tensors(outputs)[0]
        if getattr(first, "ndim", 0) == 2 and len(first) == _ROWS_TRIED:
            return images
        reasons.append(f"it returns {list(getattr(first, 'shape', []))} for {_ROWS_TRIED} images")
    raise InvalidInput(
        f"expected a program that takes images {image_shape} in some layout and returns a row of classes for each, but {name} does not: "
        f"{reasons[0]}"
    )


def _converted(torch: Any, name: str, source: Any, example: Any = None) -> ModelProto:
    import onnx

    try:
        if example is None:
            return _modelled(torch.onnx.export(source, dynamo=True, verbose=False, opset_version=OPSET))
        written = BytesIO()
        names: dict[str, Any] = {"input_names": ["images"], "output_names": ["output"], "dynamic_axes": {"images": {0: "n"}}}
        torch.onnx.export(source, (example,), written, dynamo=False, opset_version=OPSET, **names)
        return onnx.load_model_from_string(written.getvalue())
    except ImportError as failure:
        raise missing("a program of PyTorch", "onnxscript", "torch", failure) from failure
    except Exception as failure:  # a dozen kinds, for operations that ONNX lacks among others
        raise InvalidInput(
            f"expected a program that has an ONNX form, but {name} has none: {reason_of(failure)}; {EXPORT_TO_ONNX}"
        ) from failure


def _modelled(program: Any) -> ModelProto:
    model: ModelProto = program.model_proto
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """PyTorch announces what it will change, and what other libraries it would look for."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)
