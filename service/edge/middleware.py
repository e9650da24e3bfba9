"""The ASGI middleware in front of everything: the rules that hold for every request, whatever its path.

    request id -> known path (404) -> method (405) -> media type, encoding (415) -> body cap (413) -> identity and budget (401, 403,
    429) -> endpoint -> log, metrics

Every answer carries X-Request-ID, every refusal is a problem document, no exception gets past, and a request whose client has
left is given up. What each path does is in `service/routes/`.
"""

from __future__ import annotations

import asyncio
import logging

from service.bentoml_hooks import step_in_front
from service.edge.asgi import App, Message, Receive, Scope, Send
from service.edge.exchange import ClientLeft, Exchange
from service.edge.site import Route, Site, Slot
from service.errors import InternalError, Problem, QueueFull

logger = logging.getLogger(__name__)


class Edge:
    """The ASGI middleware.

    Args:
        app: what BentoML puts behind it.
        slot: holds what to serve; a route's endpoint may hand a request on to `app`, see `pass_on`.
    """

    def __init__(self, app: App, *, slot: Slot) -> None:
        self.app, self._slot = app, slot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._serve(scope, receive, send)
        elif scope["type"] == "lifespan":
            step_in_front(scope.get("app"), self)
            await self.app(scope, receive, send)
        else:  # no server of ours opens a websocket, see connection.py
            await send({"type": "websocket.close", "code": 1000})

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        site = self._slot.site
        exchange = Exchange(scope, receive, send, site.bounds)
        scope["hauberk.app"] = self.app
        route = site.began(exchange)
        try:
            await _answer(site, exchange, route)
        finally:
            site.ended(exchange, route)


async def _answer(site: Site, exchange: Exchange, route: Route | None) -> None:
    """Let the endpoint answer, or refuse."""
    try:
        await site.checked(exchange, route)(exchange)
    except Problem as problem:
        if isinstance(problem, InternalError):
            logger.exception("a request failed", extra={"fields": {"request_id": exchange.request_id}})
        await _refuse(site, exchange, route, problem)
    except ClientLeft:
        return
    except Exception:
        logger.exception("a request failed", extra={"fields": {"request_id": exchange.request_id}})
        await _refuse(site, exchange, route, InternalError())


async def _refuse(site: Site, exchange: Exchange, route: Route | None, problem: Problem) -> None:
    if exchange.status:
        return  # the answer had begun: uvicorn closes the connection, so that the client sees it is cut
    site.refused(exchange, route, problem)
    if isinstance(problem, QueueFull) and (wait_s := exchange.refusal_waits_s()):
        exchange.let_go()
        _forget_frames(problem)
        await asyncio.sleep(wait_s)
    await exchange.refuse(problem)


def _forget_frames(failure: BaseException) -> None:
    """Let go of what the functions that it came through had in their hands: the body, and its images."""
    failure.__traceback__ = failure.__cause__ = failure.__context__ = None


async def pass_on(exchange: Exchange) -> None:
    """An endpoint that leaves the answer to BentoML and adds the request id to it."""

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            exchange.status = message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", exchange.id), *exchange.closing()]
        await exchange.send(message)

    app: App = exchange.scope["hauberk.app"]
    await app(exchange.scope, exchange.receive, send)
