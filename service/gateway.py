"""The service, top to bottom: the checks before it starts, its start, the request path, its end.

    bytes -> edge/middleware -> routes/predict -> formats/json_images -> batching -> DefendedClassifier -> formats/answers -> bytes

BentoML runs the processes, packs the Bento and describes the service in /schema.json; the middleware in `edge/` stands before its
routes and answers every path of ours. Neither TensorFlow nor Numba is imported on top: BentoML's parent process imports this module too.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

# Before BentoML is imported: nothing about this server leaves the machine, and no span is made that is not sent.
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
os.environ.setdefault("OTEL_SDK_DISABLED", "true")

import bentoml

from models.bundle import EXAMPLE
from models.engines.bundle_classifier import check_engine
from models.errors import InvalidInput, remote_cause
from models.printable import printable
from models.version import __version__
from service.bentoml_hooks import check_connections, import_less, running_server, serve_with, trust_no_proxy, worker_count
from service.edge.accounts import Clients
from service.edge.addresses import Proxies
from service.edge.bodies import Bodies
from service.edge.client_file import ClientFile
from service.edge.exchange import Bounds, Source
from service.edge.middleware import Edge
from service.edge.origins import Hosts, is_loopback
from service.edge.site import Site, Slot
from service.formats.answers import Answer
from service.formats.certificates import certificate_of
from service.lifecycle.banner import banner
from service.lifecycle.drain import drain_on_sigterm
from service.lifecycle.one_bundle import read_bundle_to_serve
from service.lifecycle.rounds import make_rounds
from service.observing import audit_and_spans as telemetry
from service.observing import logs, metrics_directory
from service.settings import METRICS_PORT, make_paths_absolute, read_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from defences.defended_classifier import Step
    from models.classifier import Classifier
    from models.engines.remote.watch import Watch
    from service.edge.accounts import Account
    from service.edge.site import Route
    from service.lifecycle.startup import Warm
    from service.observing.metrics_port import MetricsPort
    from service.serving import Serving

logger = logging.getLogger(__name__)

SLOT = Slot()
serve_with("service.edge.connection:Connection")  # uvicorn is started after this is imported
trust_no_proxy()
if bentoml.server_context.worker_index is not None:
    import_less()
    gc.disable()  # all that is imported from here on stays: `tune_the_interpreter` puts it aside and switches the collector on again
# It guards BentoML's own routes only; ours have a deadline of their own.
_BENTOML_TIMEOUT_S = 60
# The rest of the thirty seconds that BentoML gives a worker to end, after a pause and a deadline.
_HAND_ON_S = 3.0

_STARTING = "starting: loading the classifier and trying its defences, usually within half a minute; the log says how far it is"

# n×h×w or n×h×w×c; `Admission` is what checks it.
Batch = list[list[list[float | list[float]]]]


@bentoml.service(
    name="hauberk",
    workers=1,
    traffic={"timeout": _BENTOML_TIMEOUT_S},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
)
class Gateway:
    """Classify images behind defences: purified on the way in, refused when suspicious, blurred on the way out."""

    @bentoml.on_deployment
    @staticmethod
    def check() -> None:
        """In the parent process, before there is a worker: an operator's mistake ends the server here, with one line."""
        make_paths_absolute()
        try:
            settings = read_settings()
            bundle = read_bundle_to_serve(settings)
            check_engine(bundle)
            certificate_of(bundle, settings.modes, wanted=settings.certified_patch)
            telemetry.check(settings)
        except InvalidInput as mistake:
            print(f"hauberk: {printable(mistake)}", file=sys.stderr)
            raise SystemExit(2) from None
        logs.write_to_stderr(logs.line("info", _STARTING, bundle=str(settings.bundle)))

    def __init__(self) -> None:
        """Install the site: from now on every path answers, those that need the classifier with 503."""
        with _or_end_the_server():
            self.repeats = logs.configure()
            self.remote_watch: Watch | None = None
            self.alone = worker_count(SERVICE.name) == 1
            metrics_directory.choose(alone=self.alone)
            settings = read_settings()
            self.bundle = read_bundle_to_serve(settings)
            self.settings = settings.for_bundle(self.bundle.images_per_request)
            self.access_log = logs.AccessLog(logs.write_to_stderr)
            self.serving = self._serving()
            self.site = self._site(self._routes(), full=self.serving.full)
            SLOT.install(self.site)

    def _routes(self) -> dict[str, Route]:
        from service.routes.paths import public_routes

        routes = public_routes(self.serving, self.settings.body_at_most(self.bundle.input_shape))
        self.serving.metrics.show_routes(route.label or path for path, route in routes.items())
        self.serving.metrics.show_codes(route.label or path for path, route in routes.items() if route.reads)
        return routes

    def _site(self, routes: Mapping[str, Route], *, full: Callable[[Account | None], bool] = lambda _: False) -> Site:
        settings = self.settings
        return Site(
            routes=routes,
            observer=self.serving.metrics,
            log=self.access_log.add if settings.access_log else None,
            clients=Clients(settings.clients, images_per_minute=settings.images_per_minute),
            audit=self.telemetry.audit,
            spans=self.telemetry.tracer,
            bounds=Bounds(
                settings.deadline_s,
                Bodies(settings.held_at_most(self.bundle.input_shape)),
                connections_per_address=settings.connections_per_address,
            ),
            proxies=Proxies(settings.trusted_proxies),
            hosts=self.serving.hosts,
            full=full,
        )

    @bentoml.on_startup
    async def begin(self) -> None:
        """Get ready beside the event loop, which answers health checks meanwhile."""
        from service.edge import connection, watching

        with _or_end_the_server():
            connection.Connection.site = self.site
            self.watching = asyncio.gather(watching.watch(), make_rounds(*self._looks()))
            self.metrics_port = self._metrics_port()
            self.starting = asyncio.create_task(self._get_ready())
            server = running_server()
            if server is not None:
                check_connections(server, connection.Connection)
                drain_on_sigterm(server, self._drain, self.settings.drain_s, alone=self.alone)

    def _looks(self) -> list[Callable[[], object]]:
        """What is looked at once a second."""
        looks: list[Callable[[], object]] = [self.repeats.tell, self.serving.look]
        if self.settings.clients_file is not None:
            looks.append(ClientFile(self.settings.clients_file, self.site.clients).look)
        return looks

    def _metrics_port(self) -> MetricsPort | None:
        if self.serving.listens_on_loopback or bentoml.server_context.worker_index not in (None, 1):
            return None  # the first worker answers for all of them
        from service.observing.metrics_port import MetricsPort
        from service.routes.paths import private_routes

        settings = self.settings
        host = settings.metrics_host or _address()
        hosts = Hosts.of(host, settings.hosts if is_loopback(host) else ())  # else it is scraped by any address
        site = self._site(private_routes(self.serving, hosts))
        try:
            return MetricsPort(site, host, settings.metrics_port or METRICS_PORT)
        except InvalidInput as mistake:
            _give_up(str(mistake))
            return None

    def _drain(self) -> None:
        self.serving.draining = self.site.bounds.load.closing = True

    @bentoml.api(route="/predict")
    async def predict(self, images: Batch) -> Answer:
        """Classify a batch of images, numbers in [0, 1].

        Over HTTP the edge answers this path from the bytes; this is for callers in the same process, and for /schema.json.
        """
        admitted = self.serving.admission.images_in({"images": images})
        decisions = await self.serving.classify(admitted)
        request_id = os.urandom(16).hex()
        if self.telemetry.audit is not None:
            self.telemetry.audit.decided(Source(request_id, "", "/predict"), admitted, decisions)
        return Answer.model_validate_json(self.serving.writer.answer(request_id, decisions))

    @bentoml.on_shutdown
    async def end(self) -> None:
        """Finish the requests accepted; uvicorn has closed the listener by now."""
        self.serving.stopping = True
        self.starting.cancel()
        if self.serving.batcher is not None:
            await self.serving.batcher.stop()
        if self.metrics_port is not None:
            await self.metrics_port.close()
        if self.remote_watch is not None:
            self.remote_watch.stop()
        self.watching.cancel()
        self.repeats.tell(at_once=True)
        await self.telemetry.close(_HAND_ON_S)
        logger.info("stopped")
        self.access_log.flush()

    def _serving(self) -> Serving:
        from service.observing.metrics import Metrics, new_registry
        from service.serving import Serving

        build = (__version__, self.bundle.name, self.bundle.version)
        metrics = Metrics(new_registry(), labels=self.bundle.labels, build=build)
        worker = bentoml.server_context.worker_index or 1
        self.telemetry = telemetry.begin(self.settings, self.bundle, metrics, software=__version__, worker=worker)
        return Serving(
            bundle=self.bundle,
            metrics=metrics,
            software=__version__,
            images_at_most=self.settings.max_images,
            listens_on_loopback=is_loopback(_host()) and self.settings.metrics_port is None,
            hosts=Hosts.of(_host(), self.settings.hosts),
            modes=self.settings.modes,
            audit=self.telemetry.audit,
            certificate=certificate_of(self.bundle, self.settings.modes, wanted=self.settings.certified_patch),
        )

    async def _get_ready(self) -> None:
        from service.distinct import warm_up
        from service.lifecycle import startup

        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(None, self.serving.admission.warm_up)
            await loop.run_in_executor(None, warm_up)
            warm = await loop.run_in_executor(None, startup.load, self.settings, self.bundle, self.serving.metrics.remote)
        except Exception as failure:  # noqa: BLE001  # none is lost: it is logged, and ends the server
            _give_up_after(failure)
        else:
            self._open_for_work(warm)

    def _open_for_work(self, warm: Warm) -> None:
        from service.batching import Batcher
        from service.lifecycle import startup
        from service.observing.heartbeat import Heartbeat
        from service.release import Schedule

        settings, serving = self.settings, self.serving
        batcher = Batcher(
            warm.defended,
            serving.metrics,
            queue_images=settings.queue_at_most(self.bundle.input_shape),
            batch_images=settings.batch_images,
            deadline_s=settings.deadline_s,
            timed=self.telemetry.tracer is not None,
            traced=self.telemetry.audit is not None or serving.certificate is not None,
            call_s=warm.call_s,
        )
        serving.metrics.watch(lambda: batcher.waiting)
        serving.metrics.show_detectors([(step.defence.name, step.mode) for step in warm.defended.detectors])
        serving.limit(warm.max_images)
        if settings.release_s is not None:
            serving.schedule = Schedule(settings.release_s, images=warm.max_images, deadline_s=settings.deadline_s)
        self.telemetry.started(__version__, _in_force(warm), secret_is_random=settings.secret_is_random)
        self._watch_remote(warm.defended.classifier)
        startup.tune_the_interpreter()
        serving.batcher, serving.heartbeat = batcher, Heartbeat(lambda: batcher.stalled_s, settings.deadline_s)
        fields = {"model": self.bundle.name, "model_version": self.bundle.version, "url": SERVICE.url}
        logger.info("ready", extra={"fields": fields})
        if settings.announce:
            announce(self, warm)

    def _watch_remote(self, classifier: Classifier) -> None:
        """Look whether the server of a remote classifier answers as ever, for as long as this one runs."""
        from models.engines.remote.classifier import RemoteClassifier
        from models.engines.remote.opening import watch

        if isinstance(classifier, RemoteClassifier):
            self.serving.circuit = classifier.circuit
            self.remote_watch = watch(self.bundle, classifier)
            self.remote_watch.start()


def announce(gateway: Any, warm: Warm) -> None:
    """Print the banner to stdout."""
    bundle = gateway.bundle
    text = banner(
        bundle,
        warm.defended,
        SERVICE.url or "",
        example=bundle.directory / EXAMPLE if bundle.holds(EXAMPLE) else None,
        asks_for_key=gateway.settings.clients is not None,
    )
    print(text, flush=True)


def _in_force(warm: Warm) -> list[tuple[str, str]]:
    """Every defence that is on, (name, mode), in the order of the data path."""
    stack = warm.defended
    steps: tuple[Step[Any], ...] = (*stack.preprocessors, *stack.detectors, *stack.postprocessors)
    return [(step.defence.name, step.mode) for step in steps]


def _give_up(reason: str) -> None:
    """End the whole server: BentoML's parent process would start a worker that cannot work over and over."""
    logger.critical(reason)
    if bentoml.server_context.worker_index is not None:
        os.kill(os.getppid(), signal.SIGTERM)


@contextmanager
def _or_end_the_server() -> Iterator[None]:
    """An exception within ends the server, and is raised again."""
    try:
        yield
    except Exception as failure:
        _give_up_after(failure)
        raise


def _give_up_after(failure: Exception) -> None:
    """End the server: with one line for an operator's mistake, with the traceback before it for anything else."""
    if isinstance(failure, InvalidInput):
        _give_up(str(failure))
        return
    remote = remote_cause(failure)
    if remote is not None:
        _give_up(f"the start failed: {remote}")
        return
    logger.error("the start failed", exc_info=failure)
    _give_up("the start failed, see above")


def _host() -> str:
    """The address this server listens on; "" when unknown, and a name when it is every address."""
    from urllib.parse import urlsplit

    return urlsplit(SERVICE.url or "").hostname or ""


def _address() -> str:
    """The address this server listens on; "" for every address, which BentoML shows as a name."""
    host = _host()
    return host if ":" in host or host.replace(".", "").isdigit() else ""


SERVICE: Any = Gateway  # BentoML's decorator leaves a service here, not a class
SERVICE.add_asgi_middleware(Edge, slot=SLOT)
