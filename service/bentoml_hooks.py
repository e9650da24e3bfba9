"""Every hook into BentoML, uvicorn and starlette that is not their public interface, with the loss when one no longer holds.

    serve_with           uvicorn.config.HTTP_PROTOCOLS                  bounds on connections, heads and slow clients
    HttpToolsProtocol    uvicorn's parser callbacks, overridden         the same; without the class the server cannot start
    step_in_front        starlette's `middleware_stack`                 speed, and request ids on BentoML's own refusals
    worker_count         BentoML's configuration container              one worker's metrics in memory, the listener closed for good
    running_server       the object behind uvicorn's SIGTERM handler    the pause before a server ends
    listeners            the `servers` of a uvicorn.Server              the listener closed for BentoML's parent process too
    UnsignalledServer    `capture_signals` of uvicorn.Server            a port for metrics beside the service
    LOGGERS              the names of their loggers                     their lines as JSON
    METRICS_DIRECTORY    what BentoML sets for its workers              one sum of the metrics of several workers
    FORWARDED            uvicorn's variable for trusted proxies          X-Forwarded-For read by our rules alone
    run_server           `serve_http` of BentoML, called directly        half a second of the start, for BentoML's whole command line
    import_less          modules that BentoML's worker imports in vain   a third of a second of the start, and memory

A hook that does not hold is said in one sentence on the log at the start, and the server works without it; where it cannot, it ends
with that sentence. tests/unit/service/test_bentoml_hooks.py tries each against the installed versions: let an upgrade pass it first.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from types import ModuleType
from typing import Any

import uvicorn
import uvicorn.config

from models.errors import InvalidInput

try:
    from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
except ImportError as missing:
    raise ImportError(
        f"expected uvicorn to have HttpToolsProtocol, got {version('uvicorn')}; install a version that pyproject.toml names"
    ) from missing

__all__ = ["STATUS_LINE", "HttpToolsProtocol"]

logger = logging.getLogger(__name__)

CALLBACKS = (
    "connection_made",
    "connection_lost",
    "data_received",
    "on_message_begin",
    "on_url",
    "on_header",
    "on_headers_complete",
    "on_body",
    "on_message_complete",
    "on_response_complete",
    "shutdown",
    "eof_received",
    "_unset_keepalive_if_required",
)
"""What `Connection` overrides or calls of uvicorn's protocol."""

LOGGERS = ("bentoml", "uvicorn.error", "circus")
"""Loggers with handlers of their own, which would not write JSON."""

METRICS_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
"""Where prometheus_client sums several processes; BentoML sets it for every worker."""

FORWARDED = "FORWARDED_ALLOW_IPS"
"""Whose X-Forwarded-For uvicorn believes, by default that of whatever is on this machine."""


def trust_no_proxy() -> None:
    """Let uvicorn leave the addresses of requests as they are; to be called before BentoML starts uvicorn."""
    os.environ[FORWARDED] = ""


def serve_with(connection: str) -> None:
    """Let uvicorn make its connections of this class, "module:name"; to be called before BentoML starts uvicorn."""
    protocols = getattr(uvicorn.config, "HTTP_PROTOCOLS", None)
    if isinstance(protocols, dict):
        protocols["auto"] = connection


def check_connections(server: uvicorn.Server, connection: type[asyncio.Protocol]) -> None:
    """Say when the server's connections are not of this class, or uvicorn lacks a method that it overrides."""
    if getattr(server.config, "http_protocol_class", None) is not connection:
        _lost(
            "uvicorn",
            "takes its connections from elsewhere than HTTP_PROTOCOLS",
            "heads, slow clients and their count are unbounded",
        )
    gone = [name for name in CALLBACKS if not callable(getattr(HttpToolsProtocol, name, None))]
    if gone:
        _lost("uvicorn", f"has no {', '.join(gone)} in its HttpToolsProtocol", "some bounds on connections do not hold")


def step_in_front(application: Any, middleware: Any) -> None:
    """Put a middleware before the stack that starlette built, and not in it, behind BentoML's tracing and timeout.

    They make a task, a future and a timer per request, the timer alive long after the answer, and their own refusals carry no
    request id. Starlette keeps the stack in an attribute of the application, and names that one in the lifespan's scope.
    """
    if hasattr(application, "middleware_stack"):
        application.middleware_stack = middleware
    else:
        _lost("starlette", "keeps no middleware_stack", "requests pass BentoML's own middleware first, which makes them slower")


def worker_count(service: str) -> int | None:
    """How many workers BentoML runs of this service, by its configuration; None, and a sentence, when that cannot be read."""
    try:
        from bentoml._internal.configuration.containers import BentoMLContainer

        return int(BentoMLContainer.config.get()["services"][service]["workers"] or 1)
    except (ImportError, AttributeError, KeyError, TypeError, ValueError):
        _lost("bentoml", "does not say how many workers it runs", "the server acts as one of several")
        return None


def run_server(service: Any, name: str, host: str, port: int, *, grace_s: int) -> bool:
    """Be the process that `bentoml serve` would be, until the server ends; False, and a sentence, when BentoML cannot be called so.

    Its command line would import what builds, deploys and packs Bentos before it starts a server.

    Args:
        service: what `name`, "module:attribute", stands for.
        grace_s: a worker is killed this long after it was told to end.
    """
    try:
        from _bentoml_impl.server.serving import serve_http
        from bentoml import server_context
        from bentoml._internal.log import SERVER_LOGGING_CONFIG, configure_server_logging

        inspect.signature(serve_http).bind(name, working_dir=".", host=host, port=port, timeout_graceful_shutdown=grace_s)
        service.inject_config()
        SERVER_LOGGING_CONFIG.setdefault("disable_existing_loggers", False)  # ours were made before
        configure_server_logging()  # type: ignore[no-untyped-call]  # BentoML wrote no types here
    except (ImportError, AttributeError, TypeError):
        _lost(
            "bentoml",
            "does not serve by serve_http as it did",
            "the server is started by BentoML's command line, which takes longer",
        )
        return False
    server_context.service_type = "cli"  # what its log calls this process
    serve_http(name, working_dir=".", host=host, port=port, timeout_graceful_shutdown=grace_s)
    return True


_IN_VAIN = {"_bentoml_impl.server.serving": "serve_http", "_bentoml_impl.server.proxy": "create_proxy_app"}
"""What BentoML's worker imports and never calls for a service such as ours, with the name that it takes from it: the first starts
processes, the second forwards requests to a command."""


def import_less() -> None:
    """Let this process do without those modules; to be called in a worker, before BentoML makes its application."""
    for module, name in _IN_VAIN.items():
        if module not in sys.modules:
            stand_in = ModuleType(module)
            setattr(stand_in, name, _never(module, name))
            sys.modules[module] = stand_in


def _never(module: str, name: str) -> Callable[..., Any]:
    def refuse(*_: Any, **__: Any) -> Any:
        raise NotImplementedError(f"a worker of Hauberk does without {module}.{name}")

    return refuse


def running_server() -> uvicorn.Server | None:
    """The server whose SIGTERM handler is installed; None, and a sentence, when it is not uvicorn's."""
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    if isinstance(server, uvicorn.Server):
        return server
    _lost("uvicorn", "does not handle SIGTERM", "the server ends without a pause")
    return None


def listeners(server: uvicorn.Server) -> Sequence[asyncio.Server]:
    """What the server listens with."""
    return getattr(server, "servers", ())


class UnsignalledServer(uvicorn.Server):
    """A second server in one process: the signals are for the first. Raises: InvalidInput when uvicorn would take them anyway."""

    def __init__(self, config: uvicorn.Config) -> None:
        if not hasattr(uvicorn.Server, "capture_signals"):
            raise InvalidInput(
                f"uvicorn {version('uvicorn')} has no Server.capture_signals, so that the port for metrics would take its signals; "
                "install a version that pyproject.toml names"
            )
        super().__init__(config)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def _lost(library: str, change: str, loss: str) -> None:
    logger.warning("a library has changed inside: %s %s %s: %s", library, version(library), change, loss)
