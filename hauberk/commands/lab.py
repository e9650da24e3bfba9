"""hauberk lab: bring a classifier in a browser, see what breaks it and what helps, and take a defended bundle away."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from hauberk.commands.listening import check_free, numeric_address
from models.errors import InvalidInput
from models.printable import printable

_WORKER = "hauberk.commands.lab_worker"
_PACKAGES = ("jinja2",)


def lab(
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 3001,
    host: Annotated[str, typer.Option(help="Address to listen on; beyond loopback, local files cannot be named.")] = "127.0.0.1",
    data: Annotated[
        Path | None, typer.Option(help="Directory for uploads and results; in the user's state directory when not given.")
    ] = None,
) -> None:
    """Open the robustness lab, a web application for this machine: attack and defend a classifier, and download its bundle.

    Example: hauberk lab --port 3001
    """
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise InvalidInput(f"the lab needs {' and '.join(missing)}; install hauberk[lab]")
    from lab.server import LabPlan, default_data_directory, serve

    address = numeric_address(host)
    check_free(address, host, port)
    place = (data or default_data_directory()).expanduser().absolute()
    serve(LabPlan(data=place, worker=_WORKER, host=address, port=port), _say)


def _say(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)
