"""How a model server is called: time, retries, TLS and the token, which come from who operates the gateway."""

from __future__ import annotations

import math
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from models.errors import InvalidInput
from models.files import read_file

TOKEN_FILE, CA_FILE = "HAUBERK_REMOTE_TOKEN_FILE", "HAUBERK_REMOTE_CA_FILE"
_TOKEN_AT_MOST, _CA_AT_MOST = 1 << 14, 4 << 20


@dataclass(frozen=True, kw_only=True)
class RemoteOptions:
    """How a model server is called.

    Attributes:
        timeout_s: of one call with its retries, from connecting to the last byte. total_s: of all calls that one `predict` makes.
        attempts: of a call that found nobody to answer it, in all; a call that was too slow, or answered badly, is not repeated.
        first_pause_s, longest_pause_s: the pause before the k-th retry is uniform in [0, first * 2 ** k), up to the longest.
        token: sent as `Authorization: Bearer`.
        authorities: certificates (PEM) that sign the server's; those of the system when none.
    """

    timeout_s: float = 60.0
    total_s: float = math.inf
    attempts: int = 8
    first_pause_s: float = 0.25
    longest_pause_s: float = 5.0
    token: str | None = field(default=None, repr=False)
    authorities: str | None = field(default=None, repr=False)

    @classmethod
    def for_commands(cls, environment: Mapping[str, str] = os.environ) -> RemoteOptions:
        """Of the command line: patient, with the token and the authorities that the environment names. Raises: InvalidInput."""
        token, authorities = environment.get(TOKEN_FILE), environment.get(CA_FILE)
        return cls(
            token=read_token(TOKEN_FILE, token) if token else None,
            authorities=read_authorities(CA_FILE, authorities) if authorities else None,
        )

    @classmethod
    def for_serving(cls, timeout_s: float, *, token: str | None = None, authorities: str | None = None) -> RemoteOptions:
        """Of a server whose requests have deadlines: one step's calls end within `timeout_s`, retries included."""
        return cls(
            timeout_s=timeout_s,
            total_s=timeout_s,
            attempts=3,
            first_pause_s=0.05,
            longest_pause_s=0.5,
            token=token,
            authorities=authorities,
        )


def read_token(name: str, path: str) -> str:
    """The token in a file that the variable `name` names. Raises: InvalidInput."""
    token = _text(name, path, _TOKEN_AT_MOST).strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidInput(f"expected the file that {name} names to hold one token of printable ASCII characters without spaces")
    return token


def read_authorities(name: str, path: str) -> str:
    """The certificates in a file that the variable `name` names. Raises: InvalidInput."""
    text = _text(name, path, _CA_AT_MOST)
    try:
        ssl.create_default_context(cadata=text)
    except (ssl.SSLError, ValueError) as failure:
        raise InvalidInput(f"expected the file that {name} names to hold certificates (PEM), got {path}") from failure
    return text


def _text(name: str, path: str, at_most: int) -> str:
    try:
        return read_file(Path(path), at_most=at_most).decode("ascii")
    except OSError as failure:
        raise InvalidInput(f"{name} {path} cannot be read: {failure.strerror}") from failure
    except UnicodeDecodeError as failure:
        raise InvalidInput(f"expected the file that {name} names to be ASCII text, got {path}") from failure
