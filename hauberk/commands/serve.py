"""hauberk serve: check everything that can be checked, then be the BentoML server."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hauberk.commands.listening import check_free, numeric_address
from models.printable import printable
from service.lifecycle.directories import make_home
from service.lifecycle.one_bundle import read_bundle_to_serve
from service.observing import audit_and_spans as telemetry
from service.settings import Settings, read_settings

if TYPE_CHECKING:
    from models.bundle import Bundle

_SERVICE = "service.gateway:Gateway"
_GRACE_S = 30  # the drain and the deadline fit in


def serve(
    bundle: Annotated[
        Path | None, typer.Option(help="Bundle directory; HAUBERK_BUNDLE or the MNIST bundle when not given.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 3000,
) -> None:
    """Serve a bundle over HTTP, with every defence it declares. Settings are environment variables, see docs/settings.md.

    Example: hauberk serve --bundle bundles/mnist --port 3000
    """
    if bundle is not None:
        os.environ["HAUBERK_BUNDLE"] = str(bundle.resolve())
    os.environ["HAUBERK_BANNER"] = "on"
    # BentoML reports usage before it imports anything of ours; nothing about this server leaves the machine.
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    os.environ.setdefault("OTEL_SDK_DISABLED", "true")
    if sys.stdin.isatty():
        os.environ.setdefault("HAUBERK_DRAIN_S", "0")  # no load balancer has to notice the drain first
    address = numeric_address(host)
    settings = read_settings()
    served = read_bundle_to_serve(settings)
    telemetry.check(settings)
    make_home()
    check_free(address, host, port)
    with _checking_defences(served, settings):
        service, run_server = _import_the_server()
    print(f"starting Hauberk with {printable(settings.bundle)}; the log below says how far it is", file=sys.stderr, flush=True)
    # In this process, so that signals and the exit code are the server's own.
    if not run_server(service, _SERVICE, address, port, grace_s=_GRACE_S):
        _become_bentoml(address, port)


@contextmanager
def _checking_defences(bundle: Bundle, settings: Settings) -> Iterator[None]:
    """Assemble the defences meanwhile, in a process that ends with it: Numba, which they import and the server's parent process does
    not need, takes as long to import as BentoML does. It says what is wrong itself; its exit code becomes ours.
    """
    child = os.fork()
    if child == 0:
        from defences.assembly import check
        from service.formats.certificates import certificate_of

        check(bundle, modes=settings.modes)
        certificate_of(bundle, settings.modes, wanted=settings.certified_patch)
        os._exit(0)
    yield
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise typer.Exit(code if code > 0 else 1)


def _import_the_server() -> tuple[Any, Callable[..., bool]]:
    gc.disable()  # all of it stays, and would be looked through again and again
    from service.bentoml_hooks import run_server
    from service.gateway import SERVICE

    gc.freeze()
    gc.enable()
    return SERVICE, run_server


def _become_bentoml(address: str, port: int) -> None:
    options = ["--host", address, "--port", str(port), "--timeout-graceful-shutdown", str(_GRACE_S)]
    # Replaced, not spawned. -P: the working directory is not searched for modules.
    command = [sys.executable, "-P", "-m", "bentoml", "serve", _SERVICE, *options]
    os.execv(sys.executable, command)  # noqa: S606  # no shell, and nothing in it comes from a client
