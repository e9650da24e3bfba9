"""What a `.pt2` file of torch.export holds, and the part of it that is data.

`torch.export.load` unpickles weights and sample inputs that were saved as pickles, loads compiled libraries, evaluates the sizes of
tensors as Python (`sympify`), imports modules that the structure of inputs names, looks operations up by any path, and makes Python
source of the names in the graph, which it runs. So it never sees the file: it gets an archive written here, of plain weights and of a
graph in which every operation is on a list, every name is an identifier and every size an expression of a small grammar. What a graph
computes does not depend on the rest: stack traces, guards and samples are left out.
"""

from __future__ import annotations

import json
import re
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

from models.archives import FOR_BUNDLES, OutOfBounds, check_archive
from models.engines.imports.foreign import listed, reason_of
from models.engines.imports.torch_operations import EXPORT_TO_ONNX, WORDS, is_known
from models.errors import InvalidInput
from models.files import open_file

_MODEL, _WEIGHTS, _CONSTANTS = "models/model.json", "data/weights/", "data/constants/"
_CONFIG = "model_{}_config.json"
_JSON_AT_MOST = 256 << 20
_SAVE_AGAIN = "save it again with torch.export.save of a current PyTorch (tested with 2.13)"
_OPERATION = re.compile(r"torch\.ops\.aten\.([A-Za-z_][A-Za-z0-9_]*)\.[A-Za-z0-9_]+")
# Arithmetic on sizes.
_SIZE_ARITHMETIC = "add sub mul floordiv mod neg eq ne lt le gt ge getitem truediv"
_ON_SIZES = frozenset(f"_operator.{name}" for name in _SIZE_ARITHMETIC.split())
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")
_TEXT = re.compile(r"[A-Za-z0-9_.]{0,512}|-?Infinity|NaN")
_SIZE = re.compile(
    r"(?:Symbol|Integer|Add|Mul|FloorDiv|CeilDiv|Mod|PythonMod|Max|Min|positive|negative|nonnegative|integer|True|False"
    r"|'[a-z]{1,2}\d{1,9}'|-?\d{1,18}|[(),=\s])*"
)
_SIZE_AT_MOST = 2000
_ARGUMENT_KINDS = """
as_none as_tensor as_tensors as_optional_tensors as_optional_tensor as_int as_ints as_float as_floats as_bool as_bools as_string
as_expr as_name as_sym_int as_sym_ints as_sym_bool as_sym_bools as_sym_float as_sym_floats as_scalar_type as_memory_format as_layout
as_device as_nested_tensors
"""
_ARGUMENTS = frozenset(_ARGUMENT_KINDS.split())
_CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict")
_CPU = {"type": "cpu", "index": None}
_DEEPEST = 60


def checked_program(path: Path) -> bytes:
    """A `.pt2` archive of what in the file is data. Raises: InvalidInput: it needs code, or is none."""
    try:
        with open_file(path) as file, zipfile.ZipFile(file) as archive:
            check_archive(archive, path.stat().st_size, FOR_BUNDLES)
            return _copied(archive, path.name)
    except OutOfBounds as failure:
        raise InvalidInput(f"{path.name} {failure}; {_SAVE_AGAIN}") from failure
    except InvalidInput:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, zipfile.BadZipFile) as failure:
        raise InvalidInput(
            f"expected a program of torch.export, but {path.name} cannot be read as one: {reason_of(failure)}; {_SAVE_AGAIN}"
        ) from failure


def _copied(archive: zipfile.ZipFile, name: str) -> bytes:
    members = {member.filename.partition("/")[2]: member for member in archive.infolist()}
    if any(member.startswith("data/aotinductor/") for member in members):
        raise _refusal(name, "compiled code (AOTInductor)")
    if _MODEL not in members or [one for one in members if one.startswith("models/")] != [_MODEL]:
        raise InvalidInput(
            f"expected a program of torch.export, but {name} holds pickles of an older PyTorch or several programs; {_SAVE_AGAIN}"
        )
    out = BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as copy:

        def put(member: str, content: bytes | str) -> None:
            copy.writestr(f"model/{member}", content)

        put("archive_format", "pt2")
        put("archive_version", "0")
        put("byteorder", "little")
        put(".data/version", archive.read(members[".data/version"])[:8])
        put(_MODEL, json.dumps(_program(_json(archive, members[_MODEL]), name)))
        put("data/sample_inputs/model.pt", b"")
        for directory, kind, prefix in ((_WEIGHTS, "weights", "weight_"), (_CONSTANTS, "constants", "tensor_")):
            config = _json(archive, members[directory + _CONFIG.format(kind)])["config"]
            for payload in _payloads(config, prefix, name):
                put(directory + payload, archive.read(members[directory + payload]))
            put(directory + _CONFIG.format(kind), json.dumps({"config": _cleaned(config, name)}))
    return out.getvalue()


def _json(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Any:
    if member.file_size > _JSON_AT_MOST:
        raise OutOfBounds(f"holds {member.filename} of {member.file_size:,} bytes, more than a graph has")
    return json.loads(archive.read(member))


def _payloads(config: dict[str, Any], prefix: str, name: str) -> list[str]:
    """The members that hold tensors, once each. Raises: InvalidInput: pickles, objects."""
    found: dict[str, None] = {}
    for fqn, payload in config.items():
        member = payload["path_name"]
        if payload["use_pickle"] is not False or not re.fullmatch(prefix + r"\d{1,9}", member):
            raise _refusal(
                name, f"a pickle ({fqn[:80]!r})", f"save plain tensors only, with torch.export.save, or {EXPORT_TO_ONNX}"
            )
        found[member] = None
    return list(found)


def _program(program: dict[str, Any], name: str) -> dict[str, Any]:
    module = program["graph_module"]
    graph, signature = module["graph"], module["signature"]
    _check_operations(graph["nodes"], name)
    if graph.get("custom_obj_values") or any("custom_obj" in spec or "token" in spec for spec in signature["input_specs"]):
        raise _refusal(name, "objects of its own")
    for tensor in (*graph["tensor_values"], *module["module_call_graph"][0]["signature"]["forward_arg_names"]):
        _check(_IDENTIFIER, tensor, name)
    return {
        "graph_module": {
            "graph": _cleaned(graph, name),
            "signature": _cleaned(signature, name),
            "module_call_graph": [_call(module["module_call_graph"][0], name)],
            "metadata": {},
            "treespec_namedtuple_fields": {},
        },
        "opset_version": {"aten": int(program["opset_version"]["aten"])},
        "range_constraints": _cleaned(program["range_constraints"], name),
        "schema_version": {key: int(program["schema_version"][key]) for key in ("major", "minor")},
        "verifiers": ["TRAINING"],
        "torch_version": str(program.get("torch_version", ""))[:40],
        "guards_code": [],
    }


def _check_operations(nodes: list[dict[str, Any]], name: str) -> None:
    targets = {str(node["target"]) for node in nodes}
    own = [target for target in targets if target not in _ON_SIZES and not _is_operation(target)]
    if own:
        raise _refusal(name, f"operations that are not on the list of known ones ({listed(own)})")
    modes = [given["arg"] for node in nodes for given in node["inputs"] if given["name"] in ("training", "train")]
    if {"as_bool": True} in modes:
        raise InvalidInput(
            f"{name} was exported in training mode; call model.eval() before torch.export.export, and save it again"
        )


def _is_operation(target: str) -> bool:
    known = _OPERATION.fullmatch(target)
    return known is not None and is_known(known[1])


def _call(entry: dict[str, Any], name: str) -> dict[str, Any]:
    """How the program is called: its inputs' and outputs' structure, of Python's own containers only."""
    signature = entry["signature"]
    for spec in ("in_spec", "out_spec"):
        version, tree = json.loads(signature[spec])
        if version != 1:
            raise InvalidInput(f"{name} is of another version of PyTorch; {_SAVE_AGAIN}")
        _check_structure(tree, name)
    names = {"inputs": [], "outputs": [], "forward_arg_names": list(signature["forward_arg_names"])}
    return {"fqn": "", "signature": {**names, "in_spec": signature["in_spec"], "out_spec": signature["out_spec"]}}


def _check_structure(tree: dict[str, Any], name: str, depth: int = 0) -> None:
    context = json.loads(tree["context"]) if tree["context"] is not None else None
    if tree["type"] not in _CONTAINERS or depth > _DEEPEST:
        raise _refusal(name, f"a Python type of its own for its inputs or outputs ({str(tree['type'])[:80]})")
    for key in context or []:
        _check(_IDENTIFIER, key, name)
    for child in tree["children_spec"]:
        _check_structure(child, name, depth + 1)


def _cleaned(value: Any, name: str, depth: int = 0) -> Any:
    """A copy of a part of the graph in which no text is more than a name, and everything is on the CPU."""
    if depth > _DEEPEST:
        raise _refusal(name, "a graph within graphs")
    if isinstance(value, dict):
        if set(value) == {"type", "index"}:
            return dict(_CPU)
        return {_check(_TEXT, key, name): _entry(key, one, name, depth) for key, one in value.items()}
    if isinstance(value, list):
        return [_cleaned(one, name, depth + 1) for one in value]
    return _check(_TEXT, value, name) if isinstance(value, str) else value


def _entry(key: str, value: Any, name: str, depth: int) -> Any:
    if key == "metadata":
        return {}
    if key == "expr_str":
        return _check(_SIZE, value, name, at_most=_SIZE_AT_MOST)
    if key in ("name", "as_name"):
        return value if value in (None, "") else _check(_IDENTIFIER, value, name)
    if key == "as_string" and value not in WORDS:
        raise _refusal(name, f"an operation with the text {str(value)[:80]!r}")
    if key.startswith("as_") and key not in _ARGUMENTS:
        raise _refusal(name, f"{key.removeprefix('as_').replace('_', ' ')} as an argument")
    return _cleaned(value, name, depth + 1)


def _check(pattern: re.Pattern[str], text: Any, name: str, *, at_most: int = 512) -> Any:
    if not isinstance(text, str) or len(text) > at_most or not pattern.fullmatch(text):
        raise _refusal(name, f"a name that is none ({str(text)[:80]!r})")
    return text


def _refusal(name: str, what: str, instead: str = EXPORT_TO_ONNX) -> InvalidInput:
    return InvalidInput(f"expected a program of torch.export made of known operations, but {name} needs {what}; {instead}")
