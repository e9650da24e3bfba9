"""What an operator can set: environment variables named HAUBERK_..., read once at the start. `DEFAULTS` is the whole list."""

from __future__ import annotations

import math
import os
import re
import secrets
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import defences  # noqa: F401  # so that `_modes` finds it: a Bento's parent process forgets the path once this is imported
from models.bundle import default_bundle_directory
from models.errors import InvalidInput
from models.machine import processors
from service.edge.accounts import Client, read_clients

if TYPE_CHECKING:
    from defences.defended_classifier import Mode

PREFIX = "HAUBERK_"
# The longest double as text, its comma and a space; brackets and the rest fit in the slack.
_BYTES_PER_NUMBER, _BODY_SLACK = 26, 1 << 14
_BODY_AT_MOST_BY_DEFAULT = 64 << 20
_HELD_BODIES, _HELD_AT_LEAST = 8, 64 << 20
_QUEUE_IMAGES, _QUEUE_BYTES, _BYTES_PER_FLOAT = 1024, 256 << 20, 4
# BentoML kills a worker thirty seconds after it told it to end.
_DRAIN_AT_MOST_S = 20.0
_SECRET_BYTES = range(16, 65)
# Kubernetes puts these into every pod beside a Service that is called hauberk.
_KUBERNETES = re.compile(r"HAUBERK_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")


class Default(NamedTuple):
    """A setting, as the documentation lists it."""

    name: str
    default: str
    meaning: str


DEFAULTS = (
    Default("HAUBERK_BUNDLE", "the MNIST bundle that ships with the project", "directory of the bundle to serve"),
    Default("HAUBERK_SECRET_FILE", "", "file with 16 to 64 bytes that key the defences' randomness; give every replica the same"),
    Default("HAUBERK_SECRET", "", "the same as text; with neither a random secret is drawn at start"),
    Default("HAUBERK_MODES", "", "replaces the bundle's modes: strip=monitor,reverse_sigmoid=off (enforce, monitor, off)"),
    Default(
        "HAUBERK_CLIENTS_FILE", "", "file with the clients that may ask, their keys' digests and budgets; everybody may without"
    ),
    Default(
        "HAUBERK_IMAGES_PER_MINUTE",
        "",
        "images a minute of a client, or without HAUBERK_CLIENTS_FILE of an address; no limit without",
    ),
    Default("HAUBERK_MAX_IMAGES", "64", "images per request, at most"),
    Default(
        "HAUBERK_MAX_MODEL_CALLS",
        "what the deadline allows",
        "model calls one request may cause, at most; its images are limited to fit",
    ),
    Default(
        "HAUBERK_MAX_BODY_BYTES",
        "26 bytes per number of the largest request + 16 KiB, at most 64 MiB",
        "bytes per request body, at most",
    ),
    Default(
        "HAUBERK_HELD_BYTES",
        "8 bodies of the largest size, at least 64 MiB",
        "bytes of request bodies held at once, at most; beyond it 503 queue_full",
    ),
    Default("HAUBERK_BATCH_IMAGES", "64", "images the classifier works on at once, at most; not fewer than HAUBERK_MAX_IMAGES"),
    Default(
        "HAUBERK_QUEUE_IMAGES",
        "1024, fewer if they would take over 256 MiB",
        "images that may wait; beyond it requests get 503 queue_full",
    ),
    Default("HAUBERK_DEADLINE_S", "10", "seconds a body may take to arrive, and from then on an answer; beyond it 408 and 504"),
    Default(
        "HAUBERK_DRAIN_S",
        "3",
        "seconds between SIGTERM and closing the listener, in which /readyz is 503 and requests are still taken",
    ),
    Default("HAUBERK_METRICS_HOST", "the address it listens on", "where the port for metrics listens"),
    Default("HAUBERK_METRICS_PORT", "9464", "port for metrics; open only when the service listens on more than loopback"),
    Default("HAUBERK_THREADS", "the processors less one, between 1 and 4", "threads of the classifier and of the purifier"),
    Default("HAUBERK_ACCESS_LOG", "on", "a line of JSON per request on stderr: on or off"),
    Default("HAUBERK_AUDIT_FILE", "", "file with a line of JSON per decision, see docs/events.md; none without"),
    Default("HAUBERK_AUDIT_BYTES", "64 MiB", "bytes of that file, at most; then it is renamed and a new one begun"),
    Default("HAUBERK_AUDIT_FILES", "16", "files kept of it, at most, the one being written included"),
    Default("HAUBERK_TRACING", "off", "send OpenTelemetry spans to where OTEL_EXPORTER_OTLP_ENDPOINT says: on or off"),
    Default("HAUBERK_BANNER", "off", "print what is served to stdout once it is ready: on or off; hauberk serve switches it on"),
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """See `DEFAULTS` for what each means."""

    bundle: Path = field(default_factory=default_bundle_directory)
    secret: bytes = field(repr=False)
    secret_is_random: bool = False
    modes: Mapping[str, Mode] = field(default_factory=dict)
    max_images: int = 64
    max_images_is_default: bool = True
    max_model_calls: int | None = None
    max_body_bytes: int | None = None
    held_bytes: int | None = None
    batch_images: int = 64
    queue_images: int | None = None
    deadline_s: float = 10.0
    drain_s: float = 3.0
    clients: tuple[Client, ...] | None = None
    images_per_minute: int | None = None
    metrics_host: str = ""
    metrics_port: int = 9464
    threads: int = 1
    access_log: bool = True
    audit_file: Path | None = None
    audit_bytes: int = 64 << 20
    audit_files: int = 16
    tracing: bool = False
    announce: bool = False

    def body_at_most(self, input_shape: tuple[int, int, int]) -> int:
        """Bytes a request body may have."""
        if self.max_body_bytes is not None:
            return self.max_body_bytes
        numbers = self.max_images * math.prod(input_shape)
        return min(_BYTES_PER_NUMBER * numbers + _BODY_SLACK, _BODY_AT_MOST_BY_DEFAULT)

    def held_at_most(self, input_shape: tuple[int, int, int]) -> int:
        """Bytes of bodies that may be held at once."""
        return self.held_bytes or max(_HELD_BODIES * self.body_at_most(input_shape), _HELD_AT_LEAST)

    def queue_at_most(self, input_shape: tuple[int, int, int]) -> int:
        """Images that may wait."""
        if self.queue_images is not None:
            return self.queue_images
        fitting = _QUEUE_BYTES // (_BYTES_PER_FLOAT * math.prod(input_shape))
        return max(self.max_images, min(_QUEUE_IMAGES, fitting))


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Settings from HAUBERK_... variables. Raises: InvalidInput, one sentence: an unknown name, or a value that cannot be."""
    known = {default.name for default in DEFAULTS}
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in known and not _KUBERNETES.fullmatch(name):
            raise InvalidInput(f"unknown setting {name}; known are {', '.join(sorted(known))}")
    given = {name: environment[name] for name in known if environment.get(name)}
    secret = _secret(given)
    settings = Settings(
        bundle=Path(given.get("HAUBERK_BUNDLE") or default_bundle_directory()),
        secret=secret or secrets.token_bytes(32),
        secret_is_random=secret is None,
        modes=_modes(given.get("HAUBERK_MODES", "")),
        max_images=_whole(given, "HAUBERK_MAX_IMAGES", 64),
        max_images_is_default="HAUBERK_MAX_IMAGES" not in given,
        max_model_calls=_whole(given, "HAUBERK_MAX_MODEL_CALLS", 0) or None,
        max_body_bytes=_whole(given, "HAUBERK_MAX_BODY_BYTES", 0) or None,
        held_bytes=_whole(given, "HAUBERK_HELD_BYTES", 0) or None,
        batch_images=_whole(given, "HAUBERK_BATCH_IMAGES", 64),
        queue_images=_whole(given, "HAUBERK_QUEUE_IMAGES", 0) or None,
        deadline_s=_seconds(given, "HAUBERK_DEADLINE_S", 10.0),
        drain_s=_drain(given),
        clients=read_clients(Path(given["HAUBERK_CLIENTS_FILE"])) if "HAUBERK_CLIENTS_FILE" in given else None,
        images_per_minute=_whole(given, "HAUBERK_IMAGES_PER_MINUTE", 0) or None,
        metrics_host=given.get("HAUBERK_METRICS_HOST", ""),
        metrics_port=_port(given),
        threads=_whole(given, "HAUBERK_THREADS", max(1, min(4, processors() - 1))),
        access_log=_switch(given, "HAUBERK_ACCESS_LOG", True),
        audit_file=Path(given["HAUBERK_AUDIT_FILE"]) if "HAUBERK_AUDIT_FILE" in given else None,
        audit_bytes=_whole(given, "HAUBERK_AUDIT_BYTES", 64 << 20),
        audit_files=_whole(given, "HAUBERK_AUDIT_FILES", 16),
        tracing=_switch(given, "HAUBERK_TRACING", False),
        announce=_switch(given, "HAUBERK_BANNER", False),
    )
    _check_together(settings)
    return settings


def make_paths_absolute(environment: MutableMapping[str, str] = os.environ) -> None:
    """For the processes this one starts: the worker of a served Bento runs in the Bento's directory, not the operator's."""
    for name in ("HAUBERK_BUNDLE", "HAUBERK_SECRET_FILE", "HAUBERK_CLIENTS_FILE", "HAUBERK_AUDIT_FILE"):
        if environment.get(name):
            environment[name] = os.path.abspath(environment[name])


def _check_together(settings: Settings) -> None:
    most = settings.max_images
    for name, images in (("HAUBERK_BATCH_IMAGES", settings.batch_images), ("HAUBERK_QUEUE_IMAGES", settings.queue_images)):
        if images is not None and images < most:
            raise InvalidInput(f"expected {name} to be at least HAUBERK_MAX_IMAGES, got {images} and {most}")


def _secret(given: Mapping[str, str]) -> bytes | None:
    if "HAUBERK_SECRET" in given and "HAUBERK_SECRET_FILE" in given:
        raise InvalidInput("expected HAUBERK_SECRET or HAUBERK_SECRET_FILE, got both")
    if "HAUBERK_SECRET_FILE" in given:
        path = Path(given["HAUBERK_SECRET_FILE"])
        try:
            secret = path.read_bytes().rstrip(b"\r\n")
        except OSError as failure:
            raise InvalidInput(f"HAUBERK_SECRET_FILE {path} cannot be read: {failure.strerror}") from failure
    elif "HAUBERK_SECRET" in given:
        secret = os.fsencode(given["HAUBERK_SECRET"])
    else:
        return None
    if len(secret) not in _SECRET_BYTES:
        raise InvalidInput(f"expected a secret of 16 to 64 bytes, got {len(secret)}; openssl rand -hex 32 makes one")
    return secret


def _modes(text: str) -> Mapping[str, Mode]:
    if not text.strip():
        return {}
    from defences.assembly import parse_modes  # compiles: BentoML's parent process imports this module and needs none of it

    return parse_modes(text)


def _whole(given: Mapping[str, str], name: str, default: int) -> int:
    if name not in given:
        return default
    try:
        value = int(given[name])
    except ValueError:
        value = 0
    if value < 1:
        raise InvalidInput(f"expected {name} to be a whole number, 1 or more, got {given[name]!r}")
    return value


def _seconds(given: Mapping[str, str], name: str, default: float) -> float:
    try:
        value = float(given.get(name, default))
    except ValueError:
        value = math.nan
    if not 0 < value <= 3600:
        raise InvalidInput(f"expected {name} to be a number of seconds above 0, 3600 at most, got {given[name]!r}")
    return value


def _drain(given: Mapping[str, str]) -> float:
    if given.get("HAUBERK_DRAIN_S") == "0":
        return 0.0
    seconds = _seconds(given, "HAUBERK_DRAIN_S", 3.0)
    if seconds > _DRAIN_AT_MOST_S:
        raise InvalidInput(f"expected HAUBERK_DRAIN_S to be {_DRAIN_AT_MOST_S:g} at most, got {seconds:g}")
    return seconds


def _port(given: Mapping[str, str]) -> int:
    port = _whole(given, "HAUBERK_METRICS_PORT", 9464)
    if port > 65535:
        raise InvalidInput(f"expected HAUBERK_METRICS_PORT to be a port, 65535 at most, got {port}")
    return port


def _switch(given: Mapping[str, str], name: str, default: bool) -> bool:
    value = given.get(name, "on" if default else "off").lower()
    if value not in ("on", "off", "1", "0", "true", "false"):
        raise InvalidInput(f"expected {name} to be on or off, got {given[name]!r}")
    return value in ("on", "1", "true")
