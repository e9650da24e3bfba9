"""The console: the bundle and its defences, as a page for people and as JSON for programs.

    GET /                  the page where the client asks for text/html by name, else the JSON that the page is filled from
    GET /console/{file}    the page's parts, each a path of its own, and example.json, the bundle's own request to try

The files lie beside this module, the example in the bundle; all are read once, at the start, and nothing a client sends becomes part of a
file name. What is said here an attacker reads too: the defences' names and modes, never a parameter, a threshold or a score.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import orjson

from defences.defence import Stage
from defences.table import of_stage
from models.bundle import EXAMPLE
from service.edge.exchange import Exchange
from service.edge.page_headers import ANSWER_HEADERS, PAGE_HEADERS
from service.edge.site import Route
from service.formats.answers import JSON
from service.serving import Serving

FILES = Path(__file__).parent / "console_page"
PAGE = "page.html"
# The names of classes beyond it are in /docs.json; the page calls them by number.
LABELS_AT_MOST = 1000
MEDIA_TYPES = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
    ".json": JSON,
}

# A page and a script of two versions do not work together: ask each time.
_FRESH = {"cache-control": "no-cache"}
_HEADERS, _FILE_HEADERS = (
    tuple((name.encode(), value.encode()) for name, value in {**headers, **_FRESH}.items())
    for headers in (ANSWER_HEADERS, PAGE_HEADERS)
)
_VARY = (b"vary", b"Accept")


class Console:
    """The page, its parts, and the facts it shows.

    Args:
        serving: whose state it shows.
    """

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._files = {path.name: path.read_bytes() for path in sorted(FILES.iterdir()) if path.suffix in MEDIA_TYPES}
        self._files |= {EXAMPLE: serving.bundle.read(EXAMPLE)} if serving.bundle.holds(EXAMPLE) else {}

    def routes(self) -> dict[str, Route]:
        """The paths. Metrics know all the parts under one name."""
        parts: dict[str, Callable[[Exchange], Any]] = {
            f"/console/{name}": partial(self._part, name) for name in self._files if name != PAGE
        }
        return {
            "/": Route(self.index),
            **{path: Route(part, logged=False, label="/console/{file}") for path, part in parts.items()},
        }

    async def index(self, exchange: Exchange) -> None:
        """GET /: the page, or the JSON that fills it."""
        self._serving.hosts.check_host(exchange.scope)
        accept = b",".join(value for name, value in exchange.scope["headers"] if name == b"accept")
        if prefers_html(accept):
            await exchange.respond(200, MEDIA_TYPES[".html"], self._files[PAGE], (*_FILE_HEADERS, _VARY))
        else:
            on_loopback = self._serving.shows_metrics(exchange)
            await exchange.respond(200, JSON, orjson.dumps(self.facts(on_loopback)), (*_HEADERS, _VARY))

    async def _part(self, name: str, exchange: Exchange) -> None:
        self._serving.hosts.check_host(exchange.scope)
        await exchange.respond(200, MEDIA_TYPES[Path(name).suffix], self._files[name], _FILE_HEADERS)

    def facts(self, shows_metrics: bool) -> dict[str, Any]:
        """The bundle, its defences with their modes, and links."""
        serving = self._serving
        bundle = serving.bundle
        links = {"predict": "/predict", "docs": "/docs.json", "schema": "/schema.json", "ready": "/readyz"}
        links |= {"metrics": "/metrics"} if shows_metrics else {}
        links |= {"example": f"/console/{EXAMPLE}"} if EXAMPLE in self._files else {}
        return {
            "model": bundle.name,
            "model_version": bundle.version,
            "software": serving.software,
            "state": serving.state,
            "input_shape": bundle.input_shape,
            "classes": len(bundle.labels),
            "labels": bundle.labels[:LABELS_AT_MOST],
            "defences": self._defences(),
            "links": links | {"open_inference": "/v2", "open_inference_model": f"/v2/models/{bundle.name}"},
        }

    def _defences(self) -> list[dict[str, str]]:
        """Those the bundle declares, in the order of the data path, with the modes they are in here."""
        modes = {defence["name"]: defence["mode"] for defence in self._serving.bundle.settings["defences"]}
        modes |= {name: mode for name, mode in self._serving.modes.items() if name in modes}
        records = [
            (name, defence.record) for stage in get_args(Stage) for name, defence in of_stage(stage).items() if name in modes
        ]
        return [
            {"name": name, "mode": modes[name], "title": record.title, "stage": record.stage, "summary": record.summary}
            for name, record in records
        ]


def prefers_html(accept: bytes) -> bool:
    """Whether an Accept header (RFC 9110, 12.5.1) names text/html, and JSON not above it; a wildcard names nothing."""
    weights = {b"text/html": 0.0, b"application/json": 0.0}
    for item in accept.lower().split(b","):
        media_type, *parameters = (part.strip() for part in item.split(b";"))
        if media_type in weights:
            weights[media_type] = _weight(parameters)
    return weights[b"text/html"] > 0 and weights[b"text/html"] >= weights[b"application/json"]


def _weight(parameters: list[bytes]) -> float:
    """The q among a media type's parameters: 1 when there is none, 0 when it is no number."""
    for parameter in parameters:
        name, _, value = parameter.partition(b"=")
        if name == b"q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
