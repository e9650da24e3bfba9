"""TorchScript programs that do more than arithmetic: refused before PyTorch compiles them."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest

from models.engines.imports.torch_script import checked_script
from models.errors import InvalidInput
from tests.unit.models.engines.imports.test_formats import FIXTURES

EMPTY = b"\x80\x02}."
HEAD = "class Net(Module):\n  __parameters__ = []\n  __buffers__ = []\n  def forward(self: __torch__.Net,\n    x: Tensor) -> Tensor:\n"


def program(directory: Path, body: str, *, more: str = "", data: bytes = EMPTY) -> Path:
    """An archive with this body of `forward`."""
    path = directory / "net.pt"
    with zipfile.ZipFile(path, "w") as archive:
        lines = "".join(f"    {line}\n" for line in body.splitlines())
        archive.writestr("net/code/__torch__.py", HEAD + lines + more)
        archive.writestr("net/data.pkl", data)
        archive.writestr("net/constants.pkl", EMPTY)
        archive.writestr("net/version", "3")
    return path


SAVE = "  def save(self: __torch__.Net,\n    x: Tensor) -> Tensor:\n    return x\n"
HOSTILE: dict[str, tuple[str, str, str]] = {
    "a loop without an end": ("while True:\n  x = torch.add(x, x)\nreturn x", "", "while True"),
    "a long loop": ("for i in range(10000000000):\n  x = torch.add(x, x)\nreturn x", "", r"for i in range\(10000000000\)"),
    "a file that is read": ('return torch.from_file("/etc/passwd")', "", r"torch\.from_file"),
    "a file that is written": ('return (x).save("/tmp/x")', SAVE, r"x\.save"),
    "a function under another name": ('_0 = torch.from_file\nreturn _0("/etc/passwd")', "", r"torch\.from_file"),
    "a method under another name": ('_0 = x.save\nreturn _0("/tmp/x")', "", r"x\.save"),
    "a method looked up": ('_0 = getattr(x, "save")\nreturn _0("/tmp/x")', "", "save"),
    "an operation of a library": ("return ops.torchvision.nms(x, x, 0.5)", "", r"ops\.torchvision\.nms"),
    "the library itself": ('_0 = getattr(torch, "from_file")\nreturn _0("/etc/passwd")', "", "from_file|PyTorch itself"),
    "a method of no class of its own": ("return (x).resize_(10)", "", r"x\.resize_"),
    "what runs when it is loaded": (
        "return x",
        "  def __setstate__(self: __torch__.Net) -> None:\n    pass\n",
        "when it is loaded",
    ),
    "an import": ("import os\nreturn x", "", "import os"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_program_that_does_more_than_arithmetic_is_refused(what: str, tmp_path: Path) -> None:
    body, more, said = HOSTILE[what]
    with pytest.raises(InvalidInput, match=said) as refusal:
        checked_script(program(tmp_path, body, more=more))
    assert "\n" not in str(refusal.value)
    assert "export it to ONNX where it was made" in str(refusal.value)


def test_a_pickle_in_an_archive_may_name_types_of_torch_only(tmp_path: Path) -> None:
    for data in (b"cos\nsystem\n(S'true'\ntR.", pickle.dumps(print, 4), b"\x80\x02cbuiltins\neval\n."):
        with pytest.raises(InvalidInput, match=r"types that are not PyTorch's"):
            checked_script(program(tmp_path, "return x", data=data))
    with pytest.raises(InvalidInput, match="cannot be read as one"):
        checked_script(program(tmp_path, "return x", data=b"\x80\x02"))


def test_what_is_passed_on_holds_no_more_than_was_checked(tmp_path: Path) -> None:
    path = program(tmp_path, "return torch.relu(x)")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("net/bytecode.pkl", pickle.dumps(print))
        archive.writestr("net/extra/notes", "x")
        archive.writestr("net/code/__torch__.py.debug_pkl", pickle.dumps(print))
    (tmp_path / "passed.pt").write_bytes(checked_script(path))
    with zipfile.ZipFile(tmp_path / "passed.pt") as archive:
        assert sorted(archive.namelist()) == ["model/code/__torch__.py", "model/constants.pkl", "model/data.pkl", "model/version"]


@pytest.mark.parametrize("name", ["scripted.pt", "traced.pt"])
def test_what_torch_writes_for_a_network_is_taken(name: str) -> None:
    assert checked_script(FIXTURES / name).startswith(b"PK")


@pytest.mark.parametrize("body", ["return (", "return " + "(" * 300 + "x" + ")" * 300])
def test_damaged_sources_are_refused_with_one_sentence(body: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read as one") as refusal:
        checked_script(program(tmp_path, body))
    assert "\n" not in str(refusal.value)
