"""What is under deploy/, against the real tools: Prometheus, promtool, kubectl, hadolint, and a real gateway."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

import pytest

# A gateway of a test's own, and the classifier with a backdoor that it serves.
from tests.service.conftest import backdoored, digits, key, launch, new_server, server, triggered

__all__ = ["backdoored", "digits", "key", "launch", "new_server", "server", "triggered"]


@pytest.fixture(scope="session")
def tool() -> Callable[[str, str], str]:
    """Finds a program by its name and the Debian package it is in; CI must have it, elsewhere the test is skipped without."""

    def find(name: str, package: str) -> str:
        path = shutil.which(name)
        if path is None:
            if os.environ.get("CI"):
                pytest.fail(f"{name} is not installed; .ci/run should install {package}")
            pytest.skip(f"{name} is not installed; `apt-get install {package}` brings it")
        return path

    return find
