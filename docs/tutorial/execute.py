"""python docs/tutorial/execute.py [--reduced | --check] [NAME...]: run the tutorial's notebooks from their first cell to their last.

Without an option they run at full size, a few minutes each; what they show is written into them, and the results that README.md quotes
into it. The `.ipynb` files are the source of the text and the code: edit them in Jupyter or in any editor, then run this. It keeps
their metadata free of machines and times.

--reduced: at the size of a test, and nothing is written.
--check: at full size, nothing is written, and a result that is not the one stored is an error.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib.font_manager  # noqa: F401  # fills its cache here: a notebook would otherwise remark on how long that takes
import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

TUTORIAL = Path(__file__).resolve().parent
ROOT = TUTORIAL.parents[1]
SIZE = "HAUBERK_TUTORIAL"
RESULTS = "results"
"""The tag of the cell whose output is the notebook's numbers, as JSON."""

# A number of README.md, and behind it in a comment which result of which notebook it is.
_QUOTED = re.compile(r"(?P<number>\d[\d,]*(?:\.\d+)?)(?P<unit>[^\d|<>]*)<!-- (?P<notebook>\w+)\.(?P<key>[\w.]+) -->")
_CELL_TIMEOUT_S = 3600
_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def main(arguments: list[str] | None = None) -> int:
    """Run what is named, or all; 1 when one of them fails, writes to stderr, or finds other results than it should."""
    known = sorted(path.stem for path in TUTORIAL.glob("*.ipynb"))
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}; all when not given")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--reduced", action="store_true", help="at the size of a test; nothing is written")
    size.add_argument("--check", action="store_true", help="write nothing, and fail when a result is not the one stored")
    chosen = parser.parse_args(arguments)
    unknown = sorted(set(chosen.names) - set(known))
    if unknown:
        parser.error(f"expected notebooks of {', '.join(known)}, got {', '.join(unknown)}")
    faults = [fault for name in chosen.names or known for fault in _run(name, chosen.reduced, chosen.check)]
    for fault in faults:
        print(fault, file=sys.stderr)
    return bool(faults)


def _run(name: str, reduced: bool, check: bool) -> list[str]:
    """Run one notebook and store it if asked to; what is wrong with it."""
    path = TUTORIAL / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    stored = results(notebook)
    started = time.monotonic()
    try:
        execute(notebook, reduced=reduced)
    except CellExecutionError as failure:
        return [f"{name}: {failure}"]
    print(f"{name}: {time.monotonic() - started:.0f} s")
    faults = [f"{name}: on stderr: {text}" for text in on_stderr(notebook)]
    if check:
        found = results(notebook)
        changed = sorted(key for key in stored.keys() | found.keys() if stored.get(key) != found.get(key))
        faults += [f"{name}: {key} was {stored.get(key)}, is {found.get(key)}" for key in changed]
    elif not (reduced or faults):
        normalise(notebook)
        nbformat.write(notebook, path)  # type: ignore[no-untyped-call]
        faults += _quote(TUTORIAL / "README.md", name, results(notebook))
    return faults


def execute(notebook: nbformat.NotebookNode, *, reduced: bool) -> None:
    """Run all cells in a kernel of this Python, whatever kernels are installed, over sockets in a directory of its own.

    Raises: CellExecutionError.
    """
    with tempfile.TemporaryDirectory(prefix="tutorial-") as scratch:
        kernel = AsyncKernelManager(
            kernel_name="python3",
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),  # none but the one that ipykernel brings
            transport="ipc",
            connection_file=str(Path(scratch) / "kernel.json"),
        )
        here = {"metadata": {"path": str(TUTORIAL)}}
        client = NotebookClient(
            notebook, km=kernel, resources=here, timeout=_CELL_TIMEOUT_S, record_timing=False, coalesce_streams=True
        )
        client.execute(env=_environment(Path(scratch), reduced), cleanup_kc=True)


def _environment(scratch: Path, reduced: bool) -> dict[str, str]:
    """This process's, with our modules and without what is a user's own: profiles, history, settings of the gateway."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HAUBERK_")}
    return inherited | {
        "PYTHONPATH": str(ROOT),
        "IPYTHONDIR": str(scratch),
        "JUPYTER_CONFIG_DIR": str(scratch),
        "JUPYTER_RUNTIME_DIR": str(scratch),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        SIZE: "reduced" if reduced else "full",
    }


def on_stderr(notebook: nbformat.NotebookNode) -> list[str]:
    """What the cells wrote there: warnings, mostly."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output.text.strip() for output in outputs if output.output_type == "stream" and output.name == "stderr"]


def results(notebook: nbformat.NotebookNode) -> dict[str, Any]:
    """The notebook's numbers by name; none where it has not been run."""
    for cell in notebook.cells:
        if RESULTS in cell.metadata.get("tags", []) and cell.get("outputs"):
            numbers: dict[str, Any] = json.loads(cell.outputs[0].text)
            return numbers
    return {}


def _quote(page: Path, name: str, found: dict[str, Any]) -> list[str]:
    """Put this notebook's results, with as many decimals, in place of those that the page quotes; what it quotes that is not there."""
    missing = []

    def renewed(match: re.Match[str]) -> str:
        if match["notebook"] != name:
            return match[0]
        if match["key"] not in found:
            missing.append(f"{page.name}: quotes {name}.{match['key']}, which the notebook does not print")
            return match[0]
        decimals = len(match["number"].partition(".")[2])
        return f"{found[match['key']]:,.{decimals}f}{match['unit']}<!-- {name}.{match['key']} -->"

    page.write_text(_QUOTED.sub(renewed, page.read_text(encoding="utf-8")), encoding="utf-8")
    return missing


def normalise(notebook: nbformat.NotebookNode) -> None:
    """Leave nothing in the metadata that says where, when or in what the notebook was run."""
    notebook.metadata = _METADATA
    for cell in notebook.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = {"tags": tags} if tags else {}
        for output in cell.get("outputs", []):
            if "metadata" in output:
                output.metadata = {}


if __name__ == "__main__":
    sys.exit(main())
