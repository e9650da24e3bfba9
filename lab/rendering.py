"""Pages from templates, in which every text is escaped and printable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import service
from lab.offered import DEFENCES
from models.printable import printable

FILES = Path(__file__).parent / "pages"
SHARED = tuple(Path(service.__file__).parent / "routes" / "console_page" / name for name in ("theme.css", "icon.svg", "mail.svg"))
"""Parts of the console's page that are the lab's too."""
MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class Pages:
    """The templates of `pages/`, and the parts of pages beside them, read once."""

    def __init__(self) -> None:
        self._environment = Environment(
            loader=FileSystemLoader(FILES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_printable,
        )
        self._environment.filters |= {
            "percent": _percent,
            "interval": _interval,
            "count": _count,
            "words": _words,
            "duration": duration,
        }
        own = (path for path in sorted(FILES.iterdir()) if path.suffix in MEDIA_TYPES)
        self.parts = {path.name: path.read_bytes() for path in (*SHARED, *own)}

    def render(self, template: str, **values: Any) -> str:
        """A page; a missing value is an error."""
        return self._environment.get_template(template).render(**values)


def _printable(value: Any) -> Any:
    return printable(value) if type(value) is str else value  # what Jinja escaped or joined is of a class of its own


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _interval(found: dict[str, Any]) -> str:
    return f"{100 * found['low']:.1f} to {100 * found['high']:.1f}"


def _count(number: int) -> str:
    return f"{number:,}"


def _words(name: str) -> str:
    return DEFENCES.get(name, name.replace("_", " "))


def duration(seconds: float | None) -> str:
    """A time for people.

    >>> duration(75.0)
    '1 min 15 s'
    """
    if seconds is None:
        return ""
    whole = max(0, round(seconds))
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60} s"
