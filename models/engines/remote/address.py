"""Where a model is served: `v2://host[:port]/model[/versions/N]`, with TLS `v2s://`; `tfs://` and `tfss://` for TensorFlow Serving.

An address comes from who operates the gateway, on the command line, in a setting or in the bundle, and never from a client. It holds no
credentials: a token comes from a file (`models/engines/remote/options.py`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from models.errors import InvalidInput
from models.printable import printable

Protocol = Literal["v2", "tfs"]

_SCHEMES: dict[str, tuple[Protocol, bool]] = {
    "v2": ("v2", False),
    "v2s": ("v2", True),
    "tfs": ("tfs", False),
    "tfss": ("tfs", True),
}
_REMOTE = re.compile(r"[a-z][a-z0-9+.-]*:/", re.IGNORECASE)
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|[0-9A-Fa-f:.]{2,45}")  # a name, or an IPv6 address, which stands in brackets
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,127}")
_AT_MOST = 1024


@dataclass(frozen=True)
class RemoteAddress:
    """The address of a served model.

    Attributes:
        protocol: "v2", the Open Inference Protocol; "tfs", TensorFlow Serving's REST interface.
        tls: whether the connection is encrypted, and the server's certificate checked.
        version: of the model; the one that the server takes for current when none.
    """

    protocol: Protocol
    host: str
    port: int
    model: str
    version: str | None = None
    tls: bool = False

    @classmethod
    def parse(cls, text: str) -> RemoteAddress:
        """Raises: InvalidInput: an address of another form, or one with credentials in it."""
        parts = _split(text)
        if parts.scheme not in _SCHEMES:
            raise _wrong(text)
        if "@" in parts.netloc:
            raise InvalidInput(
                "expected a model server's address without a user or a password; a token comes from the file that "
                "HAUBERK_REMOTE_TOKEN_FILE names"
            )
        protocol, tls = _SCHEMES[parts.scheme]
        words = parts.path.split("/")[1:]
        named = len(words) == 1 or (len(words) == 3 and words[1] == "versions")
        if parts.query or parts.fragment or not named or not all(map(_WORD.fullmatch, words)):
            raise _wrong(text)
        try:
            port = parts.port
        except ValueError:
            raise _wrong(text) from None
        host = parts.hostname or ""
        if not _HOST.fullmatch(host) or port == 0:
            raise _wrong(text)
        return cls(protocol, host, port or (443 if tls else 80), words[0], words[2] if len(words) == 3 else None, tls)

    @property
    def path(self) -> str:
        """The model's path on its server."""
        version = "" if self.version is None else f"/versions/{self.version}"
        return f"/{'v2' if self.protocol == 'v2' else 'v1'}/models/{self.model}{version}"

    @property
    def authority(self) -> str:
        """Host and port, as the Host header says them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    def __str__(self) -> str:
        version = "" if self.version is None else f"/versions/{self.version}"
        return f"{self.protocol}{'s' * self.tls}://{self.authority}/{self.model}{version}"


def is_remote(text: str) -> bool:
    """Whether a `--classifier` means a model server and no file: it begins like a URL."""
    return _REMOTE.match(text) is not None


def _split(text: str) -> SplitResult:
    if len(text) > _AT_MOST or not text.isascii() or not text.isprintable() or " " in text:
        raise _wrong(text)
    try:
        return urlsplit(text)
    except ValueError:
        raise _wrong(text) from None


def _wrong(text: str) -> InvalidInput:
    return InvalidInput(
        "expected a model server's address, v2://host[:port]/model[/versions/N] (v2s:// with TLS, tfs:// and tfss:// for TensorFlow "
        f"Serving), got {printable(text[:200])!r}"
    )
