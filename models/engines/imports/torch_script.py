"""What a TorchScript archive holds, and the part of it that is arithmetic.

TorchScript is a programming language: its archives hold source code (`code/`) that PyTorch compiles and runs, and pickles that
PyTorch's own reader, not Python's, builds from PyTorch's types and the classes in that code. Such a program can loop for ever, and
call any operation that is installed, those that read and write files included. So its source, whose grammar is a part of Python's, is
read here first: only assignments, branches, loops over a list, and calls of listed operations and of the archive's own functions are
taken. PyTorch then gets an archive of those sources and pickles only.
"""

from __future__ import annotations

import ast
import pickletools
import re
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

from models.archives import FOR_BUNDLES, OutOfBounds, check_archive
from models.engines.imports.foreign import listed, reason_of
from models.engines.imports.torch_operations import EXPORT_TO_ONNX, is_known
from models.errors import InvalidInput
from models.files import open_file

_KEPT = re.compile(r"(data|constants)\.pkl|(data|constants)/\d{1,9}|code/[\w/.-]+\.py|(\.data/)?version|byteorder")
_SOURCE_AT_MOST = 16 << 20
_STATEMENTS = (
    ast.Module, ast.ClassDef, ast.FunctionDef, ast.Assign, ast.AnnAssign, ast.Return, ast.If, ast.Expr, ast.Pass,
)  # fmt: skip
_AS_LONG = re.compile(r"range\((torch\.len\(\w+\)|torch\.sub\(torch\.len\(\w+\), \d+\))\)")
# Any value has these as methods, `x.save(name)`: no class of the archive may be an excuse for calling them.
_FILES = frozenset({"save", "load", "from_file"})
_PRIMITIVES = "NumToTensor RaiseException data dtype device min max unchecked_cast is_cuda layout"
_PRIMITIVE = frozenset(_PRIMITIVES.split())
# What the language has beside tensors: lengths, sizes, numbers and comparisons with None.
_SPOKEN = """
size dim len append Int Float Bool ScalarImplicit IntImplicit FloatImplicit format warn list tensor floordiv item is_floating_point
__is__ __isnot__ __not__ __and__ __or__ __contains__ __getitem__ __range_length __derive_index
"""
_LANGUAGE = frozenset(_SPOKEN.split())
_TYPES = re.compile(
    r"__torch__(\.\w+)+|collections OrderedDict|torch \w*Storage|torch\._utils _rebuild_(tensor_v2|parameter)"
    r"|torch\.jit\._pickle (build_(int|tensor|double|bool)list|restore_type_tag)|torch device"
)


def checked_script(path: Path) -> bytes:
    """A TorchScript archive of what in the file is taken. Raises: InvalidInput: loops, unknown operations, or no such archive."""
    try:
        with open_file(path) as file, zipfile.ZipFile(file) as archive:
            check_archive(archive, path.stat().st_size, FOR_BUNDLES)
            kept = _kept(archive)
    except OutOfBounds as failure:
        raise InvalidInput(f"{path.name} {failure}; save it again with torch.jit.save") from failure
    except (OSError, ValueError, KeyError, RecursionError, zipfile.BadZipFile) as failure:
        raise _unreadable(path.name, failure) from failure
    sources = {name: content for name, content in kept.items() if name.startswith("code/")}
    _check_sources(sources, path.name)
    for name in ("data.pkl", "constants.pkl"):
        _check_pickle(kept.get(name, b""), path.name)
    out = BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as copy:
        for name, content in kept.items():
            copy.writestr(f"model/{name}", content)
    return out.getvalue()


def _kept(archive: zipfile.ZipFile) -> dict[str, bytes]:
    names = {member.filename.partition("/")[2]: member for member in archive.infolist()}
    return {name: archive.read(member) for name, member in names.items() if _KEPT.fullmatch(name)}


def _check_sources(sources: dict[str, bytes], name: str) -> None:
    if sum(map(len, sources.values())) > _SOURCE_AT_MOST:
        raise InvalidInput(f"expected a TorchScript classifier, but {name} holds more than 16 MiB of code; {EXPORT_TO_ONNX}")
    try:
        trees = [ast.parse(content.decode("utf-8")) for content in sources.values()]
    except (SyntaxError, ValueError, RecursionError, MemoryError) as failure:
        raise _unreadable(name, failure) from failure
    nodes = [node for tree in trees for node in ast.walk(tree)]
    if _bare(nodes):
        raise _refusal(name, "PyTorch itself as a value")
    own = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    if own & {"__setstate__", "__getstate__"}:
        raise _refusal(name, "functions that run when it is loaded, as quantised models have")
    strange = [
        node for node in nodes if isinstance(node, ast.stmt) and not isinstance(node, _STATEMENTS) and not _over_a_list(node)
    ]
    if strange:
        raise _refusal(
            name, f"a loop or another statement ({listed(ast.unparse(node).splitlines()[0][:80] for node in strange)})"
        )
    refused = {what for node in nodes for what in _refused(node, own)}
    if refused:
        raise _refusal(name, f"operations that are not on the list of known ones ({listed(refused)})")


def _over_a_list(node: ast.stmt) -> bool:
    """A loop as often as a list is long, as PyTorch's own layers have over the sizes of a tensor."""
    return isinstance(node, ast.For) and _AS_LONG.fullmatch(ast.unparse(node.iter)) is not None


def _refused(node: ast.AST, own: set[str]) -> Iterator[str]:
    """What is named or called, where it is neither a listed operation nor a function of the archive's own."""
    if isinstance(node, ast.Attribute):
        path = _dotted(node)
        if node.attr in _FILES or (path is not None and path[0] in _MODULES and not _MODULES[path[0]](path)):
            yield ast.unparse(node)[:80]
    elif isinstance(node, ast.Constant) and node.value in _FILES:  # getattr(images, "save")
        yield str(node.value)
    elif isinstance(node, ast.Call):
        path = _dotted(node.func)
        by_name = path is not None and (path[0] in _MODULES or len(path) == 1)
        if not by_name and not (isinstance(node.func, ast.Attribute) and node.func.attr in own):
            yield ast.unparse(node.func)[:80]


def _bare(nodes: list[ast.AST]) -> bool:
    """Whether `torch` or `ops` is used other than before a dot, such as in getattr(torch, name)."""
    before_a_dot = sum(
        isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in _MODULES for node in nodes
    )
    return before_a_dot != sum(isinstance(node, ast.Name) and node.id in _MODULES for node in nodes)


# A plain name that is called is a built-in of the language, or a variable that holds a function of the archive.
_MODULES: dict[str, Callable[[list[str]], bool]] = {
    "torch": lambda path: len(path) == 2 and (is_known(path[1]) or path[1] in _LANGUAGE),
    "ops": lambda path: path == ["ops", "prim"] or (path[:2] == ["ops", "prim"] and path[2:3] != [] and path[2] in _PRIMITIVE),
}


def _dotted(called: ast.expr) -> list[str] | None:
    """a.b.c as its names, None where it begins with something else than a name."""
    names: list[str] = []
    while isinstance(called, ast.Attribute):
        names.append(called.attr)
        called = called.value
    return [called.id, *reversed(names)] if isinstance(called, ast.Name) else None


def _check_pickle(content: bytes, name: str) -> None:
    """Look at the types that a pickle names, without building anything."""
    try:
        steps = [(step.name, argument) for step, argument, _ in pickletools.genops(content)]
    except (ValueError, IndexError, KeyError, OverflowError, UnicodeDecodeError) as failure:
        raise _unreadable(name, failure) from failure
    called = [str(argument) for step, argument in steps if step == "GLOBAL"]
    strange = [one for one in called if not _TYPES.fullmatch(one.removesuffix(" ")) and not _own_class(one)]
    if strange or {"STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4"} & {step for step, _ in steps}:
        raise _refusal(name, f"types that are not PyTorch's ({listed(strange) or 'looked up by name'})")


def _own_class(called: str) -> bool:
    """A class of the archive's code, which a pickle names as "__torch__.module Class"."""
    return re.fullmatch(r"__torch__(\.\w+)* \w+", called) is not None


def _unreadable(name: str, failure: BaseException) -> InvalidInput:
    return InvalidInput(
        f"expected a TorchScript program, but {name} cannot be read as one: {reason_of(failure)}; save it again with torch.jit.save"
    )


def _refusal(name: str, what: str) -> InvalidInput:
    return InvalidInput(f"expected a TorchScript program of known operations, but {name} needs {what}; {EXPORT_TO_ONNX}")
