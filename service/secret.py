"""The secret that keys the defences' randomness: from a file, or from the environment where no file can be mounted."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from models.errors import InvalidInput
from models.files import read_file
from service import kinds
from service.kinds import Setting

_FILE, _TEXT = "HAUBERK_SECRET_FILE", "HAUBERK_SECRET"
_SECRET_BYTES = range(16, 65)
_SECRET_FILE_BYTES = 1 << 12

SECRETS = (
    Setting(
        _FILE,
        "",
        "file with 16 to 64 bytes that key the defences' randomness; give every replica the same",
        kinds.text,
    ),
    Setting(
        _TEXT,
        "",
        "the same as text, where no file can be mounted; with neither, a random secret is drawn at start and the log says so",
        kinds.text,
    ),
)


def secret_of(given: Mapping[str, str]) -> bytes | None:
    """The secret that these variables give; None where neither does. Raises: InvalidInput, without the secret."""
    if _TEXT in given and _FILE in given:
        raise InvalidInput(f"expected {_TEXT} or {_FILE}, got both")
    if _FILE in given:
        path = Path(given[_FILE])
        try:
            secret = read_file(path, at_most=_SECRET_FILE_BYTES).rstrip(b"\r\n")
        except OSError as failure:
            raise InvalidInput(f"{_FILE} {path} cannot be read: {failure.strerror}") from failure
    elif _TEXT in given:
        secret = os.fsencode(given[_TEXT])
    else:
        return None
    if len(secret) not in _SECRET_BYTES:
        raise InvalidInput(f"expected a secret of 16 to 64 bytes, got {len(secret)}; openssl rand -hex 32 makes one")
    return secret
