"""Each hook into BentoML, uvicorn and starlette against what is installed, and what is said when it no longer holds."""

from __future__ import annotations

import asyncio
import inspect
import logging
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
import uvicorn.config
from starlette.applications import Starlette
from starlette.middleware import Middleware
from uvicorn.server import ServerState

from models.errors import InvalidInput
from service import bentoml_hooks
from service.bentoml_hooks import CALLBACKS, LOGGERS, HttpToolsProtocol, UnsignalledServer
from service.edge.connection import Connection

HERE = "service.edge.connection:Connection"


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    """An application that does nothing."""


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, "service.bentoml_hooks")
    return caplog


@pytest.fixture
def sigterm() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def configured(**options: Any) -> uvicorn.Config:
    config = uvicorn.Config(nothing, log_config=None, lifespan="off", **options)
    config.load()
    return config


def test_uvicorn_takes_its_connections_from_the_table_that_serve_with_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(uvicorn.config.HTTP_PROTOCOLS, "auto", "uvicorn.protocols.http.h11_impl:H11Protocol")
    bentoml_hooks.serve_with(HERE)
    assert configured().http_protocol_class is Connection


def test_a_uvicorn_without_the_table_is_left_alone_and_what_is_lost_is_said(
    monkeypatch: pytest.MonkeyPatch, said: pytest.LogCaptureFixture
) -> None:
    server = uvicorn.Server(configured(http="h11"))
    monkeypatch.delattr(uvicorn.config, "HTTP_PROTOCOLS")
    bentoml_hooks.serve_with(HERE)
    bentoml_hooks.check_connections(server, Connection)
    (line,) = said.messages
    assert "takes its connections from elsewhere" in line
    assert "unbounded" in line


def test_nothing_is_said_of_a_server_with_connections_of_ours(said: pytest.LogCaptureFixture) -> None:
    bentoml_hooks.check_connections(uvicorn.Server(configured(http=Connection)), Connection)
    assert said.messages == []


def test_a_callback_that_uvicorn_no_longer_has_is_named(monkeypatch: pytest.MonkeyPatch, said: pytest.LogCaptureFixture) -> None:
    monkeypatch.delattr(HttpToolsProtocol, "on_header")
    bentoml_hooks.check_connections(uvicorn.Server(configured(http=Connection)), Connection)
    (line,) = said.messages
    assert "has no on_header" in line


def test_every_method_of_uvicorns_that_a_connection_overrides_is_among_the_callbacks() -> None:
    overridden = {name for name, _ in inspect.getmembers(Connection, callable) if name in vars(Connection)}
    assert {name for name in overridden if hasattr(HttpToolsProtocol, name) and not name.startswith("__")} <= set(CALLBACKS)


def test_a_connection_of_uvicorns_has_the_attributes_that_ours_reads() -> None:
    async def scenario() -> None:
        connection = HttpToolsProtocol(configured(), ServerState(), {})
        for name in ("loop", "parser", "connections", "cycle", "flow", "pipeline", "headers", "root_path", "server_state",
                     "ws_protocol_class", "timeout_keep_alive", "access_log", "expect_100_continue"):  # fmt: skip
            assert hasattr(connection, name), name
        connection.on_message_begin()
        assert (connection.url, connection.headers) == (b"", [])
        assert isinstance(connection.scope, dict)
        assert connection.logger.name in LOGGERS

    asyncio.run(scenario())


def test_starlette_runs_what_its_stack_is_replaced_with_and_names_itself_in_the_lifespan() -> None:
    asked: list[str] = []

    class Front:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            asked.append(scope["type"])
            if scope["type"] == "lifespan":
                bentoml_hooks.step_in_front(scope.get("app"), self)
                await self.app(scope, receive, send)

    class Behind:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            asked.append("behind")
            await self.app(scope, receive, send)

    application = Starlette(middleware=[Middleware(Behind), Middleware(Front)])
    messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None: ...

    async def scenario() -> None:
        await application({"type": "lifespan"}, receive, send)
        await application({"type": "http", "path": "/", "method": "GET", "headers": []}, receive, send)

    asyncio.run(scenario())
    assert asked == ["behind", "lifespan", "http"]


def test_an_application_without_a_stack_is_left_alone_and_that_it_is_slower_is_said(said: pytest.LogCaptureFixture) -> None:
    bentoml_hooks.step_in_front(None, nothing)
    (line,) = said.messages
    assert line.startswith("a library has changed inside: starlette ")
    assert "slower" in line


# In a process of its own: importing BentoML warns, and sets up loggers.
BENTOML = """
import inspect, logging
import bentoml
from _bentoml_impl.server import serving
from service import bentoml_hooks

logging.basicConfig(format="%(message)s")

@bentoml.service(name="counted", workers=3)
class Counted:
    pass

Counted.inject_config()  # as BentoML does in a worker, and in the process before it
print(bentoml_hooks.worker_count("counted"), bentoml_hooks.worker_count("unheard of"))
print(bentoml_hooks.METRICS_DIRECTORY in inspect.getsource(serving))
print(Counted.url is None, bentoml.server_context.worker_index, callable(Counted.add_asgi_middleware))
"""


def test_bentoml_says_how_many_workers_it_runs_which_this_is_and_where_they_sum_their_metrics() -> None:
    ran = subprocess.run([sys.executable, "-c", BENTOML], capture_output=True, text=True, check=True, timeout=60)
    workers, directory, service = ran.stdout.splitlines()
    assert workers == "3 None"
    assert directory == "True"
    assert service == "True None True"
    assert "does not say how many workers it runs: the server acts as one of several" in ran.stderr


@pytest.mark.usefixtures("sigterm")
def test_the_server_is_found_behind_the_handler_that_uvicorn_installs(said: pytest.LogCaptureFixture) -> None:
    server = uvicorn.Server(configured())
    with server.capture_signals():
        assert bentoml_hooks.running_server() is server
    assert callable(server.handle_exit)
    assert server.should_exit is False
    assert said.messages == []


@pytest.mark.usefixtures("sigterm")
def test_without_uvicorns_handler_there_is_no_server_and_the_missing_pause_is_said(said: pytest.LogCaptureFixture) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert bentoml_hooks.running_server() is None
    assert "without a pause" in said.messages[0]


def test_a_server_that_has_started_says_what_it_listens_with() -> None:
    async def scenario() -> None:
        server = UnsignalledServer(configured(port=0))
        before = signal.getsignal(signal.SIGTERM)
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        (listener,) = bentoml_hooks.listeners(server)
        assert listener.sockets
        assert signal.getsignal(signal.SIGTERM) is before  # the signals are for the first server
        server.should_exit = True
        await serving

    asyncio.run(scenario())
    unlike: Any = SimpleNamespace()
    assert list(bentoml_hooks.listeners(unlike)) == []


def test_a_second_server_that_would_take_the_signals_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(uvicorn.Server, "capture_signals")
    with pytest.raises(InvalidInput, match="would take its signals"):
        UnsignalledServer(configured())


def test_the_loggers_that_are_silenced_are_those_that_write() -> None:
    assert {import_module("circus").logger.name, "bentoml", "uvicorn.error"} == set(LOGGERS)


@pytest.mark.parametrize("trusts", [True, False])
def test_uvicorn_leaves_the_address_of_a_request_as_it_is_once_it_trusts_no_proxy(
    monkeypatch: pytest.MonkeyPatch, trusts: bool
) -> None:
    monkeypatch.setenv(bentoml_hooks.FORWARDED, "127.0.0.1")
    if not trusts:
        bentoml_hooks.trust_no_proxy()
    seen: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["client"][0])

    config = uvicorn.Config(application, log_config=None, lifespan="off")
    config.load()
    scope = {"type": "http", "client": ("127.0.0.1", 1), "headers": [(b"x-forwarded-for", b"10.0.0.1")]}
    asyncio.run(config.loaded_app(scope, None, None))
    assert seen == ["10.0.0.1" if trusts else "127.0.0.1"]


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300).stdout.strip()


IN_VAIN = ("aiohttp", "circus", "zmq", "pyparsing", "bentoml_cli")
HEAVY = ("tensorflow", "keras", "onnx", "scipy", "sklearn", "matplotlib", "numba", "onnxruntime", "typer")


def test_a_worker_makes_its_application_without_what_it_would_import_in_vain() -> None:
    code = (
        "import sys, bentoml; bentoml.server_context.worker_index = 1; from service.gateway import SERVICE; "
        f"SERVICE.to_asgi(is_main=True); print([name for name in {(*IN_VAIN, *HEAVY)} if name in sys.modules])"
    )
    assert python(code) == "[]"


def test_what_a_worker_does_without_is_imported_by_bentomls_application_and_has_the_name_that_it_takes() -> None:
    code = (
        "import sys; from service.gateway import SERVICE; SERVICE.to_asgi(is_main=True); "
        f"print([name for module, name in {bentoml_hooks._IN_VAIN}.items() if not hasattr(sys.modules.get(module), name)])"
    )
    assert python(code) == "[]"  # where this no longer holds, the hook has become needless


def test_what_a_worker_does_without_says_so_when_it_is_called_after_all() -> None:
    code = (
        "from service.bentoml_hooks import import_less; import_less(); from _bentoml_impl.server import serve_http\n"
        "try: serve_http('x')\nexcept NotImplementedError as failure: print(failure)"
    )
    assert python(code) == "a worker of Hauberk does without _bentoml_impl.server.serving.serve_http"


def test_a_bentoml_that_serves_otherwise_is_left_to_its_command_line() -> None:
    code = "from service.bentoml_hooks import run_server; print(run_server(object(), 'a:B', '127.0.0.1', 3000, grace_s=30))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert ran.stdout.strip() == "False"  # no service of BentoML's is configured as this object is
    assert "does not serve by serve_http as it did" in ran.stderr
