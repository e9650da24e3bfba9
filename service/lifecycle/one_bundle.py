"""The bundle that a server is started with is the only one it serves, whichever of its processes reads it, and however late.

BentoML's parent process starts a worker again when one has ended, minutes or weeks after the start. The first process that reads the
bundle leaves its digest in the environment of those it starts; one that finds another bundle in the directory ends the server.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

from models.bundle import Bundle, read_bundle
from service.settings import Settings

PINNED = "HAUBERK_BUNDLE_SHA256"


def read_bundle_to_serve(settings: Settings, environment: MutableMapping[str, str] = os.environ) -> Bundle:
    """Read and pin it. Raises: InvalidBundle."""
    bundle = read_bundle(settings.bundle, digest=settings.bundle_sha256)
    environment[PINNED] = bundle.digest
    return bundle
