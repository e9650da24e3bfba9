"""What a setting is, and the kinds of values it can have: each a function that makes one of a variable's name and its text."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from models.engines.onnx import named_providers
from models.engines.remote.address import RemoteAddress
from models.errors import InvalidInput
from service.edge.accounts import Client, read_clients

if TYPE_CHECKING:
    from defences.defended_classifier import Mode

PREFIX = "HAUBERK_"
# BentoML kills a worker thirty seconds after it told it to end.
_DRAIN_AT_MOST_S = 20.0
_UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_SIZE = re.compile(r"(\d{1,18}) ?([KMG]iB)?")  # more digits are no size, and int() refuses thousands of them
_HOST_NAME = re.compile(r"[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]+\]")
_DIGEST = re.compile("[0-9a-f]{64}")

Reader = Callable[[str, str], Any]
"""Makes a value of a variable's name and text. Raises: InvalidInput, one sentence that names it."""


class Setting(NamedTuple):
    """A variable, as the documentation lists it; `default` is a text for people, `meaning` is Markdown."""

    name: str
    default: str
    meaning: str
    read: Reader


def set_by(name: str, read: Reader, default: Any, meaning: str, *, shown: str | None = None, secret: bool = False) -> Any:
    """A field that the variable HAUBERK_`name` sets.

    Args:
        default: a value, or a function that makes one.
        shown: the default in words; by default what an operator would write to get it.
        secret: leave it out where the settings are printed.
    """
    words = _written(default, read) if shown is None else shown
    setting = Setting(PREFIX + name, words, meaning, read)
    if callable(default):
        return field(default_factory=default, metadata={"setting": setting})
    return field(default=default, repr=not secret, metadata={"setting": setting})


def _written(value: Any, read: Reader) -> str:
    if value is None:
        return ""
    if read is size:
        return f"{value >> 20} MiB"
    if read is switch:
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def path(_: str, given: str) -> Path:
    """The name of a file or a directory."""
    return Path(given)


def text(_: str, given: str) -> str:
    """Any text."""
    return given


def providers(_: str, given: str) -> str:
    """What computes a graph, in order of preference."""
    named_providers(given)
    return given


def whole(name: str, given: str) -> int:
    """A whole number, 1 or more."""
    try:
        value = int(given)
    except ValueError:
        value = 0
    if value < 1:
        raise InvalidInput(f"expected {name} to be a whole number, 1 or more, got {given!r}")
    return value


def size(name: str, given: str) -> int:
    """A number of bytes, with a unit or without."""
    found = _SIZE.fullmatch(given.strip())
    value = int(found[1]) * _UNITS[found[2] or ""] if found else 0
    if value < 1:
        raise InvalidInput(f"expected {name} to be a number of bytes, 1 or more, such as 1000000, 512KiB or 64MiB, got {given!r}")
    return value


def seconds(name: str, given: str) -> float:
    """A time above 0, an hour at most."""
    try:
        value = float(given)
    except ValueError:
        value = math.nan
    if not 0 < value <= 3600:
        raise InvalidInput(f"expected {name} to be a number of seconds above 0, 3600 at most, got {given!r}")
    return value


def drain(name: str, given: str) -> float:
    """The seconds of a pause before the end, or 0."""
    value = 0.0 if given == "0" else seconds(name, given)
    if value > _DRAIN_AT_MOST_S:
        raise InvalidInput(f"expected {name} to be {_DRAIN_AT_MOST_S:g} at most, got {value:g}")
    return value


def sha256(name: str, given: str) -> str:
    """A digest as hex digits."""
    if not _DIGEST.fullmatch(given):
        raise InvalidInput(f"expected {name} to be 64 lower-case hex digits, got {given!r}")
    return given


def hosts(name: str, given: str) -> tuple[str, ...]:
    """Names of hosts with commas between."""
    names = tuple(each.strip() for each in given.split(","))
    wrong = next((each for each in names if not _HOST_NAME.fullmatch(each)), None)
    if wrong is not None:
        raise InvalidInput(f"expected {name} to be names without a port, such as gateway.example.com,gw, got {wrong!r}")
    return names


def port(name: str, given: str) -> int:
    """The number of a port."""
    value = whole(name, given)
    if value > 65535:
        raise InvalidInput(f"expected {name} to be a port, 65535 at most, got {value}")
    return value


def switch(name: str, given: str) -> bool:
    """On or off."""
    value = given.lower()
    if value not in ("on", "off", "1", "0", "true", "false"):
        raise InvalidInput(f"expected {name} to be on or off, got {given!r}")
    return value in ("on", "1", "true")


def modes(_: str, given: str) -> Mapping[str, Mode]:
    """Modes of defences by name."""
    if not given.strip():
        return {}
    from defences.assembly import parse_modes  # compiles: BentoML's parent process imports this module and needs none of it

    return parse_modes(given)


def remote(_: str, given: str) -> str:
    """Where a classifier is served."""
    return str(RemoteAddress.parse(given))


def clients(_: str, given: str) -> tuple[Client, ...]:
    """The clients that a file names."""
    return read_clients(Path(given))
