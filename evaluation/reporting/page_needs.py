"""The packages that only HTML reports need, asked for before the work and not after it."""

from __future__ import annotations

from importlib.util import find_spec

from models.errors import InvalidInput

_PACKAGES = ("matplotlib", "jinja2")


def check_page_can_be_drawn() -> None:
    """Raises: InvalidInput: a package that report.html needs is not installed."""
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise InvalidInput(f"report.html needs {' and '.join(missing)}; install hauberk[report]")
