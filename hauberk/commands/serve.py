"""hauberk serve: check everything that can be checked, then become the BentoML server."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from defences.assembly import check
from models.errors import InvalidInput
from models.printable import printable
from service.lifecycle.directories import make_home
from service.lifecycle.one_bundle import read_bundle_to_serve
from service.observing import audit_and_spans as telemetry
from service.settings import read_settings

_SERVICE = "service.gateway:Gateway"


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
    address = _address(host)
    settings = read_settings()
    check(read_bundle_to_serve(settings), modes=settings.modes)
    telemetry.check(settings)
    make_home()
    _check_free(address, host, port)
    print(f"starting Hauberk with {printable(settings.bundle)}; the log below says how far it is", file=sys.stderr, flush=True)
    # Replaced, not spawned: signals and the exit code are the server's own. -P: the working directory is not searched for modules.
    os.execv(  # noqa: S606  # no shell, and nothing in it comes from a client
        sys.executable,
        [sys.executable, "-P", "-m", "bentoml", "serve", _SERVICE, "--host", address, "--port", str(port), *_QUIETLY],
    )


_QUIETLY = ["--timeout-graceful-shutdown", "30"]


def _address(host: str) -> str:
    """BentoML listens on numeric addresses only."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return str(socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0])
    except OSError as failure:
        raise InvalidInput(f"expected --host to be an address of this machine, got {host!r}") from failure


def _check_free(address: str, host: str, port: int) -> None:
    if not 1 <= port <= 65535:
        raise InvalidInput(f"expected --port between 1 and 65535, got {port}")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen()
        except OSError as failure:
            reason = failure.strerror or str(failure)
            raise InvalidInput(f"cannot listen on {host}:{port} ({reason.lower()}); choose another with --port") from failure
