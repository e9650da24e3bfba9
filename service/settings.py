"""The settings: environment variables named HAUBERK_..., read once at the start.

A field of `Settings` says all there is to say of its variable: how its text is read, its default, what it means. `SETTINGS` is the
list that docs/settings.md shows; `python -m service.settings` prints it.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import defences  # noqa: F401  # so that `_modes` finds it: a Bento's parent process forgets the path once this is imported
from models.bundle import default_bundle_directory
from models.engines.onnx import named_providers
from models.engines.remote.address import RemoteAddress
from models.engines.remote.options import RemoteOptions, read_authorities, read_token
from models.errors import InvalidInput
from models.files import read_file
from models.machine import processors
from service.edge.accounts import Client, read_clients
from service.edge.addresses import Network, read_networks

if TYPE_CHECKING:
    from defences.defended_classifier import Mode

PREFIX = "HAUBERK_"
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
# The longest double as text, its comma and a space; brackets and the rest fit in the slack.
_BYTES_PER_NUMBER, _BODY_SLACK = 26, 1 << 14
_BODY_AT_MOST_BY_DEFAULT = 64 << 20
_HELD_BODIES, _HELD_AT_LEAST = 8, 64 << 20
_QUEUE_IMAGES, _QUEUE_BYTES, _BYTES_PER_FLOAT = 1024, 256 << 20, 4
# BentoML kills a worker thirty seconds after it told it to end.
_DRAIN_AT_MOST_S = 20.0
_SECRET_BYTES = range(16, 65)
_SECRET_FILE_BYTES = 1 << 12
_UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_SIZE = re.compile(r"(\d{1,18}) ?([KMG]iB)?")  # more digits are no size, and int() refuses thousands of them
_HOST_NAME = re.compile(r"[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]+\]")
_DIGEST = re.compile("[0-9a-f]{64}")
# Kubernetes puts these into every pod beside a Service that is called hauberk.
_KUBERNETES = re.compile(r"HAUBERK_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")

Reader = Callable[[str, str], Any]
"""Makes a value of a variable's name and text. Raises: InvalidInput, one sentence that names it."""


class Setting(NamedTuple):
    """A variable, as the documentation lists it; `default` is a text for people, `meaning` is Markdown."""

    name: str
    default: str
    meaning: str
    read: Reader


def _path(_: str, text: str) -> Path:
    return Path(text)


def _text(_: str, text: str) -> str:
    return text


def _providers(_: str, text: str) -> str:
    named_providers(text)
    return text


def _whole(name: str, text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise InvalidInput(f"expected {name} to be a whole number, 1 or more, got {text!r}")
    return value


def _bytes(name: str, text: str) -> int:
    found = _SIZE.fullmatch(text.strip())
    size = int(found[1]) * _UNITS[found[2] or ""] if found else 0
    if size < 1:
        raise InvalidInput(f"expected {name} to be a number of bytes, 1 or more, such as 1000000, 512KiB or 64MiB, got {text!r}")
    return size


def _seconds(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 3600:
        raise InvalidInput(f"expected {name} to be a number of seconds above 0, 3600 at most, got {text!r}")
    return value


def _drain(name: str, text: str) -> float:
    seconds = 0.0 if text == "0" else _seconds(name, text)
    if seconds > _DRAIN_AT_MOST_S:
        raise InvalidInput(f"expected {name} to be {_DRAIN_AT_MOST_S:g} at most, got {seconds:g}")
    return seconds


def _sha256(name: str, text: str) -> str:
    if not _DIGEST.fullmatch(text):
        raise InvalidInput(f"expected {name} to be 64 lower-case hex digits, got {text!r}")
    return text


def _hosts(name: str, text: str) -> tuple[str, ...]:
    names = tuple(each.strip() for each in text.split(","))
    wrong = next((each for each in names if not _HOST_NAME.fullmatch(each)), None)
    if wrong is not None:
        raise InvalidInput(f"expected {name} to be names without a port, such as gateway.example.com,gw, got {wrong!r}")
    return names


def _port(name: str, text: str) -> int:
    port = _whole(name, text)
    if port > 65535:
        raise InvalidInput(f"expected {name} to be a port, 65535 at most, got {port}")
    return port


def _switch(name: str, text: str) -> bool:
    value = text.lower()
    if value not in ("on", "off", "1", "0", "true", "false"):
        raise InvalidInput(f"expected {name} to be on or off, got {text!r}")
    return value in ("on", "1", "true")


def _modes(_: str, text: str) -> Mapping[str, Mode]:
    if not text.strip():
        return {}
    from defences.assembly import parse_modes  # compiles: BentoML's parent process imports this module and needs none of it

    return parse_modes(text)


def _remote(_: str, text: str) -> str:
    return str(RemoteAddress.parse(text))


def _clients(_: str, text: str) -> tuple[Client, ...]:
    return read_clients(Path(text))


def _set_by(name: str, read: Reader, default: Any, meaning: str, *, shown: str | None = None, secret: bool = False) -> Any:
    """A field that the variable HAUBERK_`name` sets.

    Args:
        default: a value, or a function that makes one.
        shown: the default in words; by default what an operator would write to get it.
        secret: leave it out where the settings are printed.
    """
    text = _written(default, read) if shown is None else shown
    setting = Setting(PREFIX + name, text, meaning, read)
    if callable(default):
        return field(default_factory=default, metadata={"setting": setting})
    return field(default=default, repr=not secret, metadata={"setting": setting})


def _written(value: Any, read: Reader) -> str:
    if value is None:
        return ""
    if read is _bytes:
        return f"{value >> 20} MiB"
    if read is _switch:
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the service is started with. A field without a variable of its own follows from others."""

    bundle: Path = _set_by(  # noqa: RUF009  # it makes a field
        "BUNDLE",
        _path,
        default_bundle_directory,
        "directory of the bundle to serve",
        shown="the MNIST bundle that ships with the project",
    )
    bundle_sha256: str | None = _set_by(
        "BUNDLE_SHA256",
        _sha256,
        None,
        "digest the bundle has to have, as the start's banner shows it; a worker that takes another's place serves that one only",
        shown="that of the bundle found at the start",
    )
    secret: bytes = field(repr=False)
    secret_is_random: bool = False
    modes: Mapping[str, Mode] = _set_by(
        "MODES",
        _modes,
        dict,
        "replaces the bundle's modes: `strip=monitor,reverse_sigmoid=off` (enforce, monitor, off)",
        shown="",
    )
    clients: tuple[Client, ...] | None = _set_by(
        "CLIENTS_FILE",
        _clients,
        None,
        "file with the clients that may ask, read again when it changes, see [Clients](#clients); everybody may without",
    )
    clients_file: Path | None = None
    images_per_minute: int | None = _set_by(
        "IMAGES_PER_MINUTE",
        _whole,
        None,
        "images a minute of a client, or without `HAUBERK_CLIENTS_FILE` of an address; no limit without",
    )
    trusted_proxies: tuple[Network, ...] = _set_by(
        "TRUSTED_PROXIES",
        read_networks,
        (),
        "addresses and networks of the proxies in front, `10.0.0.7,10.1.0.0/16`: their `X-Forwarded-For` is believed, "
        "see [Behind a proxy](#behind-a-proxy)",
        shown="",
    )
    connections_per_address: int | None = _set_by(
        "CONNECTIONS_PER_ADDRESS",
        _whole,
        None,
        "connections of one address that are served at once, see [Connections](#connections); those of trusted proxies are not counted",
        shown="a quarter of what the process takes",
    )
    remote: str | None = _set_by(
        "REMOTE",
        _remote,
        None,
        "where the classifier of a bundle without a model is served, `v2://host:port/model`, see [remote.md](remote.md)",
        shown="where the bundle says",
    )
    remote_token: str | None = _set_by(
        "REMOTE_TOKEN_FILE",
        read_token,
        None,
        "file with the token that its server asks for, sent as `Authorization: Bearer`",
        secret=True,
    )
    remote_authorities: str | None = _set_by(
        "REMOTE_CA_FILE",
        read_authorities,
        None,
        "file with the certificates (PEM) that sign that server's, for `v2s://` and `tfss://`",
        shown="those of the system",
        secret=True,
    )
    remote_timeout_s: float | None = _set_by(
        "REMOTE_TIMEOUT_S",
        _seconds,
        None,
        "seconds that server may take for a step, retries included; at most half of `HAUBERK_DEADLINE_S`",
        shown="a quarter of the deadline",
    )
    remote_wait_s: float = _set_by(
        "REMOTE_WAIT_S", _seconds, 120.0, "seconds to wait at the start for a server that is not there yet"
    )
    max_images: int = _set_by(
        "MAX_IMAGES",
        _whole,
        64,
        "images per request, at most, see [Images per request](#images-per-request)",
        shown="what the bundle states, or 64",
    )
    max_images_is_default: bool = True
    max_model_calls: int | None = _set_by(
        "MAX_MODEL_CALLS",
        _whole,
        None,
        "model calls one request may cause, at most: its images are limited so that all of them with every probe of every detector "
        "stay within",
        shown="what the deadline allows",
    )
    max_body_bytes: int | None = _set_by(
        "MAX_BODY_BYTES",
        _bytes,
        None,
        "bytes per request body, at most",
        shown="26 bytes per number of the largest request + 16 KiB, at most 64 MiB",
    )
    held_bytes: int | None = _set_by(
        "HELD_BYTES",
        _bytes,
        None,
        "bytes of request bodies held at once, of all requests; beyond it 503 `queue_full` for who holds the most",
        shown="8 bodies of the largest size, at least 64 MiB",
    )
    batch_images: int = _set_by(
        "BATCH_IMAGES",
        _whole,
        64,
        "images of one client that the classifier works on at once, at most, and of all clients twice as many; not fewer than "
        "`HAUBERK_MAX_IMAGES`",
    )
    queue_images: int | None = _set_by(
        "QUEUE_IMAGES",
        _whole,
        None,
        "images that may wait; beyond it the newest requests of the client that has most get 503 `queue_full` with `Retry-After`",
        shown="1024, fewer if they would take over 256 MiB",
    )
    deadline_s: float = _set_by(
        "DEADLINE_S",
        _seconds,
        10.0,
        "seconds a head may take to arrive, a body, and from then on an answer; beyond it 408 and 504",
    )
    release_s: float | None = _set_by(
        "RELEASE_S",
        _seconds,
        None,
        "seconds of which an answer to images leaves at a multiple after they came, so that its time does not tell what was found, "
        "see [Times of answers](#times-of-answers); as soon as it is ready without",
    )
    drain_s: float = _set_by(
        "DRAIN_S", _drain, 3.0, "seconds between SIGTERM and closing the listener, 0 to 20, see [Stopping](#stopping)"
    )
    metrics_host: str = _set_by(
        "METRICS_HOST", _text, "", "where the port for metrics listens", shown="the address it listens on"
    )
    metrics_port: int | None = _set_by(
        "METRICS_PORT",
        _port,
        None,
        "port for metrics; open when the service listens on more than loopback, or when you set it: then the other port has none",
        shown=str(METRICS_PORT),
    )
    hosts: tuple[str, ...] = _set_by(
        "HOSTS",
        _hosts,
        (),
        "names by which browsers may reach the service, beside its own: `gateway.example.com,gw`, see [Console](#console)",
        shown="on loopback `localhost` and its address, else any",
    )
    threads: int = _set_by(
        "THREADS",
        _whole,
        lambda: max(1, min(4, processors() - 1)),
        "threads of the classifier and of the purifier",
        shown="the processors less one, between 1 and 4",
    )
    onnx_providers: str = _set_by(
        "ONNX_PROVIDERS",
        _providers,
        "cpu",
        "what computes a model.onnx, the first of these that is there, with commas between: cpu, cuda, tensorrt, openvino",
    )
    access_log: bool = _set_by("ACCESS_LOG", _switch, True, "a line of JSON per request on stderr: on or off")
    audit_file: Path | None = _set_by(  # noqa: RUF009  # it makes a field
        "AUDIT_FILE", _path, None, "file with a line of JSON per decision, see [events.md](events.md); none without"
    )
    audit_bytes: int = _set_by(
        "AUDIT_BYTES", _bytes, 64 << 20, "bytes of that file, at most; then it is renamed to `NAME.1` and a new one begun"
    )
    audit_files: int = _set_by("AUDIT_FILES", _whole, 16, "files kept of it, at most, the one being written included")
    tracing: bool = _set_by(
        "TRACING",
        _switch,
        False,
        "send OpenTelemetry spans to where `OTEL_EXPORTER_OTLP_ENDPOINT` says, see [Tracing](#tracing): on or off",
    )
    announce: bool = _set_by(
        "BANNER", _switch, False, "print what is served to stdout once it is ready; `hauberk serve` switches it on"
    )

    def for_bundle(self, images_per_request: int | None) -> Settings:
        """These settings, where the operator left the limit of images open, with the one that a bundle states."""
        if images_per_request is None or not self.max_images_is_default:
            return self
        fitting = [self.batch_images] + ([] if self.queue_images is None else [self.queue_images])
        return replace(self, max_images=min(images_per_request, *fitting))

    @property
    def remote_options(self) -> RemoteOptions:
        """How the server of a remote classifier is called."""
        timeout_s = self.remote_timeout_s or self.deadline_s / 4
        return RemoteOptions.for_serving(timeout_s, token=self.remote_token, authorities=self.remote_authorities)

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


_SECRETS = (
    Setting(
        "HAUBERK_SECRET_FILE",
        "",
        "file with 16 to 64 bytes that key the defences' randomness; give every replica the same",
        _text,
    ),
    Setting(
        "HAUBERK_SECRET",
        "",
        "the same as text, where no file can be mounted; with neither, a random secret is drawn at start and the log says so",
        _text,
    ),
)
_SET: Mapping[str, Setting] = {each.name: each.metadata["setting"] for each in fields(Settings) if "setting" in each.metadata}

_BUNDLE = ("bundle", "bundle_sha256")
SETTINGS = (*(_SET[name] for name in _BUNDLE), *_SECRETS, *(setting for name, setting in _SET.items() if name not in _BUNDLE))
"""Every variable, in the order of the documentation."""


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Settings from HAUBERK_... variables. Raises: InvalidInput, one sentence: an unknown name, or a value that cannot be."""
    known = {setting.name for setting in SETTINGS}
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in known and not _KUBERNETES.fullmatch(name):
            raise InvalidInput(_unknown(name, sorted(known)))
    given = {name: environment[name] for name in known if environment.get(name)}
    secret = _secret(given)
    settings = Settings(
        secret=secret or secrets.token_bytes(32),
        secret_is_random=secret is None,
        max_images_is_default="HAUBERK_MAX_IMAGES" not in given,
        clients_file=Path(given["HAUBERK_CLIENTS_FILE"]) if "HAUBERK_CLIENTS_FILE" in given else None,
        **{name: setting.read(setting.name, given[setting.name]) for name, setting in _SET.items() if setting.name in given},
    )
    _check_together(settings)
    return settings


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
    for name, images in (("HAUBERK_BATCH_IMAGES", settings.batch_images), ("HAUBERK_QUEUE_IMAGES", settings.queue_images)):
        if images is not None and images < most:
            raise InvalidInput(f"expected {name} to be at least HAUBERK_MAX_IMAGES, got {images} and {most}")
    if settings.remote_timeout_s is not None and settings.remote_timeout_s > settings.deadline_s / 2:
        raise InvalidInput(
            "expected HAUBERK_REMOTE_TIMEOUT_S to be at most half of HAUBERK_DEADLINE_S, so that a request outlives a step that failed, "
            f"got {settings.remote_timeout_s:g} and {settings.deadline_s:g}"
        )
    if settings.release_s is not None and settings.release_s > settings.deadline_s:
        raise InvalidInput(
            f"expected HAUBERK_RELEASE_S to be at most HAUBERK_DEADLINE_S, got {settings.release_s:g} and {settings.deadline_s:g}"
        )


def _secret(given: Mapping[str, str]) -> bytes | None:
    if "HAUBERK_SECRET" in given and "HAUBERK_SECRET_FILE" in given:
        raise InvalidInput("expected HAUBERK_SECRET or HAUBERK_SECRET_FILE, got both")
    if "HAUBERK_SECRET_FILE" in given:
        path = Path(given["HAUBERK_SECRET_FILE"])
        try:
            secret = read_file(path, at_most=_SECRET_FILE_BYTES).rstrip(b"\r\n")
        except OSError as failure:
            raise InvalidInput(f"HAUBERK_SECRET_FILE {path} cannot be read: {failure.strerror}") from failure
    elif "HAUBERK_SECRET" in given:
        secret = os.fsencode(given["HAUBERK_SECRET"])
    else:
        return None
    if len(secret) not in _SECRET_BYTES:
        raise InvalidInput(f"expected a secret of 16 to 64 bytes, got {len(secret)}; openssl rand -hex 32 makes one")
    return secret


def _table() -> Iterator[str]:
    yield from ("| variable | default | meaning |", "| --- | --- | --- |")
    for name, default, meaning, _ in SETTINGS:
        yield f"| `{name}` | {default} | {meaning} |".replace("|  |", "| |")


def table() -> str:
    """The list of settings, as docs/settings.md shows it."""
    return "\n".join(_table()) + "\n"


if __name__ == "__main__":
    print(table(), end="")
