"""The pages' templates: one Jinja environment for the reports of `hauberk evaluate` and `hauberk scan`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from evaluation.statistics.intervals import Share
from models.printable import printable

_TEMPLATES = Path(__file__).parent / "report_page"


def rendered(template: str, **values: Any) -> str:
    """A template of `report_page/` filled with these values. Every text is escaped and printable, and a missing value is an error."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    environment.filters |= {"percent": _percent, "interval": _interval, "count": _count, "words": _words}
    return environment.get_template(template).render(**values)


def _printable(value: Any) -> Any:
    """Markup is our own: pictures, which have lines."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _interval(found: Share) -> str:
    return f"{100 * found.low:.1f} to {100 * found.high:.1f}"


def _count(number: int) -> str:
    return f"{number:,}"


def _words(name: str) -> str:
    """Of total_variation, "total variation": a heading that can break between words."""
    return name.replace("_", " ")
