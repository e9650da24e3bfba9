"""The settings: environment variables named HAUBERK_..., read once at the start.

A field of `Settings` says all there is to say of its variable: how its text is read, its default, what it means. `SETTINGS` is the
list that docs/settings.md shows; `python -m service.settings` prints it.
"""

from __future__ import annotations

import difflib
import os
import re
import secrets
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import defences  # noqa: F401  # so that `kinds.modes` finds it: a Bento's parent process forgets the path once this is imported
from models.bundle import default_bundle_directory
from models.engines.remote.options import RemoteOptions, read_authorities, read_token
from models.errors import InvalidInput
from models.machine import processors
from service import kinds, sizes
from service.edge.accounts import Client
from service.edge.addresses import Network, read_networks
from service.kinds import PREFIX, Setting, set_by
from service.secret import SECRETS, secret_of

if TYPE_CHECKING:
    from defences.defended_classifier import Mode

METRICS_PORT = 9464
PATHS = (
    "HAUBERK_BUNDLE",
    "HAUBERK_SECRET_FILE",
    "HAUBERK_CLIENTS_FILE",
    "HAUBERK_AUDIT_FILE",
    "HAUBERK_REMOTE_TOKEN_FILE",
    "HAUBERK_REMOTE_CA_FILE",
)
"""Those of these variables that name a file or a directory."""
# Kubernetes puts these into every pod beside a Service that is called hauberk.
_KUBERNETES = re.compile(r"HAUBERK_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the service is started with. A field without a variable of its own follows from others."""

    bundle: Path = set_by(  # noqa: RUF009  # it makes a field
        "BUNDLE",
        kinds.path,
        default_bundle_directory,
        "directory of the bundle to serve",
        shown="the MNIST bundle that ships with the project",
    )
    bundle_sha256: str | None = set_by(
        "BUNDLE_SHA256",
        kinds.sha256,
        None,
        "digest the bundle has to have, as the start's banner shows it; a worker that takes another's place serves that one only",
        shown="that of the bundle found at the start",
    )
    secret: bytes = field(repr=False)
    secret_is_random: bool = False
    modes: Mapping[str, Mode] = set_by(
        "MODES",
        kinds.modes,
        dict,
        "replaces the bundle's modes: `strip=monitor,reverse_sigmoid=off` (enforce, monitor, off)",
        shown="",
    )
    clients: tuple[Client, ...] | None = set_by(
        "CLIENTS_FILE",
        kinds.clients,
        None,
        "file with the clients that may ask, read again when it changes, see [Clients](#clients); everybody may without",
    )
    clients_file: Path | None = None
    images_per_minute: int | None = set_by(
        "IMAGES_PER_MINUTE",
        kinds.whole,
        None,
        "images a minute of a client, or without `HAUBERK_CLIENTS_FILE` of an address; no limit without",
    )
    trusted_proxies: tuple[Network, ...] = set_by(
        "TRUSTED_PROXIES",
        read_networks,
        (),
        "addresses and networks of the proxies in front, `10.0.0.7,10.1.0.0/16`: their `X-Forwarded-For` is believed, "
        "see [Behind a proxy](#behind-a-proxy)",
        shown="",
    )
    connections_per_address: int | None = set_by(
        "CONNECTIONS_PER_ADDRESS",
        kinds.whole,
        None,
        "connections of one address that are served at once, see [Connections](#connections); those of trusted proxies are not counted",
        shown="a quarter of what the process takes",
    )
    remote: str | None = set_by(
        "REMOTE",
        kinds.remote,
        None,
        "where the classifier of a bundle without a model is served, `v2://host:port/model`, see [remote.md](remote.md)",
        shown="where the bundle says",
    )
    remote_token: str | None = set_by(
        "REMOTE_TOKEN_FILE",
        read_token,
        None,
        "file with the token that its server asks for, sent as `Authorization: Bearer`",
        secret=True,
    )
    remote_authorities: str | None = set_by(
        "REMOTE_CA_FILE",
        read_authorities,
        None,
        "file with the certificates (PEM) that sign that server's, for `v2s://` and `tfss://`",
        shown="those of the system",
        secret=True,
    )
    remote_timeout_s: float | None = set_by(
        "REMOTE_TIMEOUT_S",
        kinds.seconds,
        None,
        "seconds that server may take for a step, retries included; at most half of `HAUBERK_DEADLINE_S`",
        shown="a quarter of the deadline",
    )
    remote_wait_s: float = set_by(
        "REMOTE_WAIT_S", kinds.seconds, 120.0, "seconds to wait at the start for a server that is not there yet"
    )
    max_images: int = set_by(
        "MAX_IMAGES",
        kinds.whole,
        64,
        "images per request, at most, see [Images per request](#images-per-request)",
        shown="what the bundle states, or 64",
    )
    max_images_is_default: bool = True
    max_model_calls: int | None = set_by(
        "MAX_MODEL_CALLS",
        kinds.whole,
        None,
        "model calls one request may cause, at most: its images are limited so that all of them with every probe of every detector "
        "stay within",
        shown="what the deadline allows",
    )
    max_body_bytes: int | None = set_by(
        "MAX_BODY_BYTES",
        kinds.size,
        None,
        "bytes per request body, at most",
        shown="26 bytes per number of the largest request + 16 KiB, at most 64 MiB",
    )
    held_bytes: int | None = set_by(
        "HELD_BYTES",
        kinds.size,
        None,
        "bytes of request bodies held at once, of all requests; beyond it 503 `queue_full` for who holds the most",
        shown="8 bodies of the largest size, at least 64 MiB",
    )
    batch_images: int = set_by(
        "BATCH_IMAGES",
        kinds.whole,
        64,
        "images of one client that the classifier works on at once, at most, and of all clients twice as many; no request may hold more",
    )
    queue_images: int | None = set_by(
        "QUEUE_IMAGES",
        kinds.whole,
        None,
        "images that may wait; beyond it the newest requests of the client that has most get 503 `queue_full` with `Retry-After`",
        shown="1024, fewer if they would take over 256 MiB",
    )
    deadline_s: float = set_by(
        "DEADLINE_S",
        kinds.seconds,
        10.0,
        "seconds a head may take to arrive, a body, and from then on an answer; beyond it 408 and 504",
    )
    release_s: float | None = set_by(
        "RELEASE_S",
        kinds.seconds,
        None,
        "seconds of which an answer to images leaves at a multiple after they came, so that its time does not tell what was found, "
        "see [Times of answers](#times-of-answers); as soon as it is ready without",
    )
    certified_patch: bool = set_by(
        "CERTIFIED_PATCH",
        kinds.switch,
        False,
        "say in every answer whether it is proven against local patches, see [Certified answers](#certified-answers): on or off",
    )
    drain_s: float = set_by(
        "DRAIN_S", kinds.drain, 3.0, "seconds between SIGTERM and closing the listener, 0 to 20, see [Stopping](#stopping)"
    )
    metrics_host: str = set_by(
        "METRICS_HOST", kinds.text, "", "where the port for metrics listens", shown="the address it listens on"
    )
    metrics_port: int | None = set_by(
        "METRICS_PORT",
        kinds.port,
        None,
        "port for metrics; open when the service listens on more than loopback, or when you set it: then the other port has none",
        shown=str(METRICS_PORT),
    )
    hosts: tuple[str, ...] = set_by(
        "HOSTS",
        kinds.hosts,
        (),
        "names by which browsers may reach the service, beside its own: `gateway.example.com,gw`, see [Console](#console)",
        shown="on loopback `localhost` and its address, else any",
    )
    threads: int = set_by(
        "THREADS",
        kinds.whole,
        lambda: max(1, min(4, processors() - 1)),
        "threads of the classifier and of the purifier",
        shown="the processors less one, between 1 and 4",
    )
    onnx_providers: str = set_by(
        "ONNX_PROVIDERS",
        kinds.providers,
        "cpu",
        "what computes a model.onnx, the first of these that is there, with commas between: cpu, cuda, tensorrt, openvino",
    )
    access_log: bool = set_by("ACCESS_LOG", kinds.switch, True, "a line of JSON per request on stderr: on or off")
    audit_file: Path | None = set_by(  # noqa: RUF009  # it makes a field
        "AUDIT_FILE", kinds.path, None, "file with a line of JSON per decision, see [events.md](events.md); none without"
    )
    audit_bytes: int = set_by(
        "AUDIT_BYTES", kinds.size, 64 << 20, "bytes of that file, at most; then it is renamed to `NAME.1` and a new one begun"
    )
    audit_files: int = set_by("AUDIT_FILES", kinds.whole, 16, "files kept of it, at most, the one being written included")
    tracing: bool = set_by(
        "TRACING",
        kinds.switch,
        False,
        "send OpenTelemetry spans to where `OTEL_EXPORTER_OTLP_ENDPOINT` says, see [Tracing](#tracing): on or off",
    )
    announce: bool = set_by(
        "BANNER", kinds.switch, False, "print what is served to stdout once it is ready; `hauberk serve` switches it on"
    )

    def for_bundle(self, images_per_request: int | None) -> Settings:
        """These settings with the limit of images that a bundle states, where the operator set none: no more than may be at work, or
        wait, at once, which the operator may have set.
        """
        if not self.max_images_is_default:
            return self
        stated = self.max_images if images_per_request is None else images_per_request
        return replace(self, max_images=min(stated, *self._room.values()))

    @property
    def _room(self) -> dict[str, int]:
        """The images that the largest request has to fit in, by the setting that says so."""
        room = {"HAUBERK_BATCH_IMAGES": self.batch_images}
        return room if self.queue_images is None else room | {"HAUBERK_QUEUE_IMAGES": self.queue_images}

    @property
    def remote_options(self) -> RemoteOptions:
        """How the server of a remote classifier is called."""
        timeout_s = self.remote_timeout_s or self.deadline_s / 4
        return RemoteOptions.for_serving(timeout_s, token=self.remote_token, authorities=self.remote_authorities)

    def body_at_most(self, input_shape: tuple[int, int, int]) -> int:
        """Bytes a request body may have."""
        return self.max_body_bytes or sizes.body_bytes(self.max_images, input_shape)

    def held_at_most(self, input_shape: tuple[int, int, int]) -> int:
        """Bytes of bodies that may be held at once."""
        return self.held_bytes or sizes.held_bytes(self.body_at_most(input_shape))

    def queue_at_most(self, input_shape: tuple[int, int, int]) -> int:
        """Images that may wait."""
        return self.queue_images or sizes.waiting_images(self.max_images, input_shape)


_SET: Mapping[str, Setting] = {each.name: each.metadata["setting"] for each in fields(Settings) if "setting" in each.metadata}

_BUNDLE = ("bundle", "bundle_sha256")
SETTINGS = (*(_SET[name] for name in _BUNDLE), *SECRETS, *(setting for name, setting in _SET.items() if name not in _BUNDLE))
"""Every variable, in the order of the documentation."""


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Settings from HAUBERK_... variables. Raises: InvalidInput, one sentence: an unknown name, or a value that cannot be."""
    known = {setting.name for setting in SETTINGS}
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in known and not _KUBERNETES.fullmatch(name):
            raise InvalidInput(_unknown(name, sorted(known)))
    given = {name: environment[name] for name in known if environment.get(name)}
    secret = secret_of(given)
    settings = Settings(
        secret=secret or secrets.token_bytes(32),
        secret_is_random=secret is None,
        max_images_is_default="HAUBERK_MAX_IMAGES" not in given,
        clients_file=Path(given["HAUBERK_CLIENTS_FILE"]) if "HAUBERK_CLIENTS_FILE" in given else None,
        **{name: setting.read(setting.name, given[setting.name]) for name, setting in _SET.items() if setting.name in given},
    )
    _check_together(settings)
    return settings.for_bundle(None)


def _unknown(name: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(name.removeprefix(PREFIX), [each.removeprefix(PREFIX) for each in known], 1)
    hint = f"did you mean {PREFIX}{nearest[0]}? Known" if nearest else "known"
    return f"unknown setting {name}; {hint} are {', '.join(known)}"


def make_paths_absolute(environment: MutableMapping[str, str] = os.environ) -> None:
    """For the processes this one starts: the worker of a served Bento runs in the Bento's directory, not the operator's."""
    for name in PATHS:
        if environment.get(name):
            environment[name] = os.path.abspath(environment[name])


def _check_together(settings: Settings) -> None:
    most = settings.max_images
    for name, images in settings._room.items() if not settings.max_images_is_default else ():
        if images < most:
            raise InvalidInput(
                f"expected {name} to be at least HAUBERK_MAX_IMAGES, got {images} and {most}; raise {name} to {most} or lower "
                f"HAUBERK_MAX_IMAGES to {images}"
            )
    if settings.remote_timeout_s is not None and settings.remote_timeout_s > settings.deadline_s / 2:
        raise InvalidInput(
            "expected HAUBERK_REMOTE_TIMEOUT_S to be at most half of HAUBERK_DEADLINE_S, so that a request outlives a step that failed, "
            f"got {settings.remote_timeout_s:g} and {settings.deadline_s:g}"
        )
    if settings.release_s is not None and settings.release_s > settings.deadline_s:
        raise InvalidInput(
            f"expected HAUBERK_RELEASE_S to be at most HAUBERK_DEADLINE_S, got {settings.release_s:g} and {settings.deadline_s:g}"
        )


def _table() -> Iterator[str]:
    yield from ("| variable | default | meaning |", "| --- | --- | --- |")
    for name, default, meaning, _ in SETTINGS:
        yield f"| `{name}` | {default} | {meaning} |".replace("|  |", "| |")


def table() -> str:
    """The list of settings, as docs/settings.md shows it."""
    return "\n".join(_table()) + "\n"


if __name__ == "__main__":
    print(table(), end="")
