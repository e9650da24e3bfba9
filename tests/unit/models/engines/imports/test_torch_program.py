"""Programs of torch.export that would run something: refused before PyTorch sees them, and what is passed on holds no pickle."""

from __future__ import annotations

import io
import json
import logging
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.engines.imports.torch_program import checked_program
from models.errors import InvalidInput
from tests.unit.models.engines.imports.test_formats import FIXTURES

PROGRAM = FIXTURES / "squares.pt2"
MODEL = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
Edit = Callable[[dict[str, Any]], None]


def edited(directory: Path, member: str, edit: Edit, **more: bytes) -> Path:
    """The program with one of its JSON members changed, and more members."""
    path = directory / "model.pt2"
    with zipfile.ZipFile(PROGRAM) as archive, zipfile.ZipFile(path, "w") as copy:
        for one in archive.infolist():
            content = archive.read(one)
            if one.filename.endswith("/" + member):
                held = json.loads(content)
                edit(held)
                content = json.dumps(held).encode()
            copy.writestr(one.filename, content)
        for name, content in more.items():
            copy.writestr(f"squares/{name}", content)
    return path


def graph(program: dict[str, Any]) -> dict[str, Any]:
    held: dict[str, Any] = program["graph_module"]["graph"]
    return held


def node(program: dict[str, Any]) -> dict[str, Any]:
    first: dict[str, Any] = graph(program)["nodes"][0]
    return first


def first_size(program: dict[str, Any]) -> dict[str, Any]:
    """The symbol of the first dimension of what the first node returns."""
    name = node(program)["outputs"][0]["as_tensor"]["name"]
    size: dict[str, Any] = graph(program)["tensor_values"][name]["sizes"][0]["as_expr"]
    return size


def entry(program: dict[str, Any]) -> dict[str, Any]:
    first: dict[str, Any] = program["graph_module"]["module_call_graph"][0]["signature"]
    return first


def structure(kind: str, context: str) -> str:
    return json.dumps([1, {"type": kind, "context": context, "children_spec": []}])


CODE = "__import__('os').system('true')"
HOSTILE: dict[str, tuple[Edit, str]] = {
    "an operation of a library": (
        lambda p: node(p).update(target="torch.ops.mine.sharpen.default"),
        r"torch\.ops\.mine\.sharpen",
    ),
    "a function of Python": (lambda p: node(p).update(target="torch.hub.load"), r"torch\.hub\.load"),
    "an operator that calls": (lambda p: node(p).update(target="_operator.methodcaller"), r"_operator\.methodcaller"),
    "an operation that reads a file": (lambda p: node(p).update(target="torch.ops.aten.from_file.default"), "from_file"),
    "a file's name as an argument": (
        lambda p: node(p)["inputs"].append({"name": "filename", "arg": {"as_string": "secrets"}, "kind": 1}),
        "with the text 'secrets'",
    ),
    "a program within the program": (
        lambda p: node(p)["inputs"].append({"name": "body", "arg": {"as_graph": {}}, "kind": 1}),
        "graph as an argument",
    ),
    "code as a size": (lambda p: first_size(p).update(expr_str=CODE), "a name that is none"),
    "a size that takes for ever": (lambda p: first_size(p).update(expr_str="9**9**9**9"), "a name that is none"),
    "code as a name": (lambda p: node(p).update(name="x): pass\n" + CODE), "a name that is none"),
    "code as an output": (lambda p: node(p)["outputs"][0]["as_tensor"].update(name=f"x;{CODE}"), "a name that is none"),
    "code as the name of an input": (lambda p: entry(p).update(forward_arg_names=[f"x={CODE}"]), "a name that is none"),
    "a type of its own": (
        lambda p: entry(p).update(in_spec=structure("my.Type", "null")),
        r"a Python type of its own .*my\.Type",
    ),
    "a module to import": (
        lambda p: entry(p).update(in_spec=structure("builtins.dict", '[{"__enum__": true, "fqn": "antigravity:Fly"}]')),
        "a name that is none",
    ),
    "an object": (lambda p: graph(p).update(custom_obj_values={"a": {"name": "a", "class_fqn": "b"}}), "objects of its own"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_program_that_asks_for_code_is_refused_before_torch_sees_it(what: str, tmp_path: Path) -> None:
    edit, said = HOSTILE[what]
    with pytest.raises(InvalidInput, match=said) as refusal:
        checked_program(edited(tmp_path, MODEL, edit))
    assert "\n" not in str(refusal.value)
    assert "torch.onnx.export(model, example, 'model.onnx', dynamo=True)" in str(refusal.value)


def test_pickled_weights_and_objects_are_refused(tmp_path: Path) -> None:
    def pickled(config: dict[str, Any]) -> None:
        next(iter(config["config"].values()))["use_pickle"] = True

    def an_object(config: dict[str, Any]) -> None:
        next(iter(config["config"].values()))["path_name"] = "opaque_obj_0"

    def outside(config: dict[str, Any]) -> None:
        next(iter(config["config"].values()))["path_name"] = "../../../etc/passwd"

    for edit in (pickled, an_object, outside):
        with pytest.raises(InvalidInput, match="needs a pickle"):
            checked_program(edited(tmp_path, WEIGHTS, edit))


def test_a_program_exported_in_training_mode_is_refused(tmp_path: Path) -> None:
    def in_training(program: dict[str, Any]) -> None:
        [norm] = [one for one in graph(program)["nodes"] if "batch_norm" in one["target"]]
        next(given for given in norm["inputs"] if given["name"] == "training")["arg"] = {"as_bool": True}

    with pytest.raises(InvalidInput, match=r"was exported in training mode; call model\.eval\(\)"):
        checked_program(edited(tmp_path, MODEL, in_training))


def test_compiled_programs_and_those_of_older_versions_are_refused(tmp_path: Path) -> None:
    compiled = edited(tmp_path, MODEL, lambda _: None, **{"data/aotinductor/model/model.so": b"\x7fELF"})
    with pytest.raises(InvalidInput, match="compiled code"):
        checked_program(compiled)
    with zipfile.ZipFile(tmp_path / "old.pt2", "w") as archive:
        archive.writestr("serialized_exported_program.json", "{}")
        archive.writestr("serialized_state_dict.pt", pickle.dumps(0))
    with pytest.raises(InvalidInput, match="pickles of an older PyTorch or several programs; save it again"):
        checked_program(tmp_path / "old.pt2")


def test_what_is_passed_on_holds_tensors_and_the_graph_only() -> None:
    with zipfile.ZipFile(io.BytesIO(checked_program(PROGRAM))) as archive:
        held = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    program = json.loads(held[MODEL])
    assert held["data/sample_inputs/model.pt"] == b""  # pickled in the file
    assert not any(content.startswith((b"PK", b"\x80")) for content in held.values())
    assert program["guards_code"] == []
    assert all(one["metadata"] == {} for one in graph(program)["nodes"])


@pytest.mark.parametrize("damage", ["cut", "no graph", "not JSON", "bomb"])
def test_damaged_programs_are_refused_with_one_sentence(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    if damage == "cut":
        path.write_bytes(PROGRAM.read_bytes()[:-300])
    elif damage == "no graph":
        path = edited(tmp_path, MODEL, lambda p: p.pop("graph_module"))
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("m/models/model.json", "[" if damage == "not JSON" else b"0" * (300 << 20))
    with pytest.raises(InvalidInput) as refusal:
        checked_program(path)
    assert "\n" not in str(refusal.value)
    assert "model.pt2" in str(refusal.value)


class _Runs:
    """What writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_that_torch_would_run_does_not_run(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    from models.engines.imports import imported

    ran = tmp_path / "it ran"
    path = tmp_path / "model.pt2"
    sample = io.BytesIO()
    torch.save((_Runs(ran),), sample)
    with zipfile.ZipFile(PROGRAM) as archive, zipfile.ZipFile(path, "w") as copy:
        for one in archive.infolist():
            inputs = one.filename.endswith("sample_inputs/model.pt")
            copy.writestr(one.filename, sample.getvalue() if inputs else archive.read(one))
    assert imported(path).what == "a program of torch.export"
    assert not ran.exists()
    logging.disable(logging.CRITICAL)
    try:
        torch.export.load(path)  # to show that it would have
    finally:
        logging.disable(logging.NOTSET)
    assert ran.exists()
