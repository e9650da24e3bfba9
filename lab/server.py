"""The lab's process: its parts put together, the address printed, and everything ended again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from lab.access import Access, WorkerUser
from lab.app import Lab
from lab.guard import Guard
from lab.jobs import Queue, ScanCluster
from lab.limits import LabLimits
from lab.state import State
from lab.subject import Subject
from lab.uploads import Uploads
from lab.warm import WarmWorker
from lab.workbench import Workbench, new_token
from models.bundle import standard_bundle_directory
from models.datasets import MNIST
from models.errors import InvalidInput
from service.edge.origins import Hosts, is_loopback

_logger = logging.getLogger(__name__)

_EXPIRE_S = 3600.0
_CONNECTIONS = 64
_GRACE_S = 3
_STATE = "lab.sqlite3"


@dataclass(frozen=True, kw_only=True)
class LabPlan:
    """How a lab is run.

    Args:
        data: directory for its state, uploads and results; only this user may enter it.
        worker: module that its workers run.
        token: what guards it; drawn when not given.
        user: whom workers run as; the lab's own user when none.
        cluster: where the jobs whose commands know clusters have their work done.
    """

    data: Path
    worker: str
    host: str = "127.0.0.1"
    port: int = 3001
    limits: LabLimits = field(default_factory=LabLimits)
    token: str = field(default_factory=new_token, repr=False)
    user: WorkerUser | None = None
    cluster: ScanCluster | None = None


class ServedLab:
    """The ASGI application of a lab, with the parts that start and end with it.

    Raises: InvalidInput on construction: a directory that cannot be written, or that another lab uses.
    """

    def __init__(self, plan: LabPlan) -> None:
        self.plan = plan
        places = {name: plan.data / name for name in ("uploads", "jobs")}
        try:
            access = Access(plan.user)
            for place in (plan.data, *places.values()):
                access.passage(place)
            self._lock = _locked(plan.data / "lock")
            (plan.data / _STATE).touch(mode=0o600)
            for file in plan.data.glob(f"{_STATE}*"):  # in a folder that workers may pass through
                file.chmod(0o600)
        except OSError as failure:
            raise InvalidInput(f"cannot write to {plan.data} ({(failure.strerror or str(failure)).lower()})") from failure
        self.state = State(plan.data / _STATE, limits=plan.limits)
        limits, module = plan.limits, plan.worker
        uploads = Uploads(places["uploads"], limits=limits, access=access)
        self.queue = Queue(
            self.state,
            places["jobs"],
            module=module,
            limits=limits,
            subject_of=lambda job: self.bench.subject_of(job),
            access=access,
            cluster=plan.cluster,
        )
        self.warm = WarmWorker(places["jobs"] / "warm", module=module, limits=limits, access=access)
        example = Subject(model=str(standard_bundle_directory()), data=str(MNIST))
        on_loopback = is_loopback(plan.host)
        self.bench = Workbench(self.state, uploads, self.queue, self.warm, limits, example, names_paths=on_loopback)
        lab = Lab(self.bench)
        cookie = f"hauberk_lab_{plan.port}"
        hosts = Hosts.of(plan.host)
        self._app: ASGIApp = Guard(
            lab.application(), token=plan.token, hosts=hosts, state=self.state, cookie=cookie, page=lab.message
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Jobs are run and old files deleted within."""
        self.queue.start()
        expiring = asyncio.ensure_future(self._expire_forever())
        try:
            yield
        finally:
            expiring.cancel()
            await self.queue.stop()
            await self.warm.stop()

    def close(self) -> None:
        """Let the files go."""
        self.state.close()
        os.close(self._lock)

    @property
    def address(self) -> str:
        """What is opened in a browser."""
        host = f"[{self.plan.host}]" if ":" in self.plan.host else self.plan.host
        return f"http://{host}:{self.plan.port}/?token={self.plan.token}"

    async def _expire_forever(self) -> None:
        while True:
            try:
                self.bench.expire()
            except OSError:  # the next time may go better, and ends what is too old as well
                _logger.exception("old files could not be deleted")
            await asyncio.sleep(_EXPIRE_S)


def serve(plan: LabPlan, say: Callable[[str], None]) -> None:
    """Run a lab until it is interrupted. Raises: InvalidInput."""
    served = ServedLab(plan)
    if os.geteuid() == 0 and plan.user is None:
        say("workers open what is uploaded as root, since root started the lab; --user NAME runs them as another user")
    if served.state.lost:
        say(f"{served.state.lost} job(s) were running when the lab was last stopped, and are lost; their pages say so")
    if not served.bench.names_paths:
        say("listening beyond this machine, without encryption: whoever has the token uses the lab")
    try:
        if plan.user is not None:
            plan.user.check_enters(plan.data / "jobs")
        asyncio.run(_serve(served, say))
    except KeyboardInterrupt:  # uvicorn raises it again when everything has ended
        pass
    finally:
        served.close()


async def _serve(served: ServedLab, say: Callable[[str], None]) -> None:
    plan = served.plan
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))  # both end the lab in the same way
    config = uvicorn.Config(
        served, host=plan.host, port=plan.port, log_level="warning", access_log=False, server_header=False, lifespan="off",
        ws="none", limit_concurrency=_CONNECTIONS, timeout_graceful_shutdown=_GRACE_S, proxy_headers=False,
    )  # fmt: skip
    server = uvicorn.Server(config)
    async with served.running():
        serving = asyncio.ensure_future(server.serve())
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        if server.started:
            say(f"the lab is open at {served.address}")
            say("Ctrl-C ends it")
        await serving


def _locked(path: Path) -> int:
    """A file that only one lab holds. Raises: InvalidInput: another does."""
    import fcntl

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as failure:
        os.close(descriptor)
        raise InvalidInput(f"another lab uses {path.parent}; end it, or choose another with --data") from failure
    return descriptor


def default_data_directory() -> Path:
    """Where a lab keeps what it is given: the user's state directory."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "hauberk" / "lab"
