"""hauberk lab: bring a classifier in a browser, see what breaks it and what helps, and take a defended bundle away."""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hauberk.commands.listening import check_free, numeric_address
from models.errors import InvalidInput
from models.printable import printable

if TYPE_CHECKING:
    from lab.jobs import ScanCluster

_WORKER = "hauberk.commands.lab_worker"
_PACKAGES = ("jinja2",)
_SCHEDULER = re.compile(r"(tcp|tls)://[^\s/]+:\d{1,5}")


def lab(
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 3001,
    host: Annotated[str, typer.Option(help="Address to listen on; beyond loopback, local files cannot be named.")] = "127.0.0.1",
    data: Annotated[
        Path | None, typer.Option(help="Directory for uploads and results; in the user's state directory when not given.")
    ] = None,
    user: Annotated[
        str | None, typer.Option(help="User that workers run as, where root starts the lab, such as nobody; root when not given.")
    ] = None,
    backend: Annotated[
        Literal["threading", "dask"], typer.Option(help="Where the classes are worked on that are scanned for poison.")
    ] = "threading",
    address: Annotated[str | None, typer.Option(help="Of the Dask scheduler, with --backend dask.")] = None,
) -> None:
    """Open the robustness lab, a web application for this machine: attack and defend a classifier, and download its bundle.

    Example: hauberk lab --port 3001
    """
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise InvalidInput(f"the lab needs {' and '.join(missing)}; install hauberk[lab]")
    from lab.access import WorkerUser
    from lab.server import LabPlan, default_data_directory, serve

    listening = numeric_address(host)
    check_free(listening, host, port)
    place = (data or default_data_directory()).expanduser().absolute()
    worker_user = None if user is None else WorkerUser.named(user)
    cluster = _cluster(backend, address)
    plan = LabPlan(data=place, worker=_WORKER, host=listening, port=port, user=worker_user, cluster=cluster)
    serve(plan, _say)


def _cluster(backend: str, address: str | None) -> ScanCluster | None:
    """Raises: InvalidInput: one of the options without the other, no address of a scheduler, or Dask is not installed."""
    if backend == "threading" and address is None:
        return None
    if backend == "threading" or address is None or not _SCHEDULER.fullmatch(address):
        raise InvalidInput("expected --backend dask with --address tcp://HOST:PORT, that of its scheduler")
    if find_spec("distributed") is None:
        raise InvalidInput(
            "expected dask[distributed] for this --backend, which is not installed; pip install 'hauberk[cluster]'"
        )
    from lab.jobs import ScanCluster

    return ScanCluster(backend, address)


def _say(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)
