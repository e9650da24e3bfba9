"""Every path of the server: a new one is a line here, or in the `routes` of a class named here."""

from __future__ import annotations

from service.edge.middleware import pass_on
from service.edge.origins import Hosts
from service.edge.site import Route
from service.routes.console import Console
from service.routes.health import Health
from service.routes.open_inference import OpenInference
from service.routes.predict import Predict
from service.serving import Serving


def public_routes(serving: Serving, body_at_most: int) -> dict[str, Route]:
    """The paths of the port for clients; a body may have so many bytes."""
    return {
        **Predict(serving).routes(body_at_most),
        **Health(serving).routes(),
        "/schema.json": Route(pass_on),
        **Console(serving).routes(),
        **OpenInference(serving).routes(body_at_most),
    }


def private_routes(serving: Serving, hosts: Hosts) -> dict[str, Route]:
    """The paths of the port for metrics, which browsers may reach by these names."""
    return Health(serving, hosts).private_routes()
