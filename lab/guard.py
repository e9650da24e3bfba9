"""Who may ask: those who hold the token that was printed at the start, from this machine's own pages, by a name of this server.

    GET /...?token=TOKEN     begins a session, and leads to the same page without the token
    everything else          needs the session's cookie, which no script can read and no page of another site can send

The parts of pages (/static/) need no session: the page that says how to get in is made of them.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from http import HTTPStatus
from urllib.parse import parse_qsl, urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lab.errors import Refused
from lab.state import State
from service.edge.origins import Hosts
from service.edge.page_headers import PAGE_HEADERS
from service.errors import CrossSite

HEADERS = {**PAGE_HEADERS, "cache-control": "no-store"}
OPEN = "/static/"

RefusalPage = Callable[[int, str, str], Response]
"""(status, title, sentence) -> a page."""

HOW_IN = "Open the address that hauberk lab printed when it started: it ends in ?token= and the token."


class Guard:
    """Stands in front of the application.

    Args:
        token: what the first address has to end in.
        cookie: the cookie's name, one for each port.
        page: what a refusal looks like.
    """

    def __init__(self, app: ASGIApp, *, token: str, hosts: Hosts, state: State, cookie: str, page: RefusalPage) -> None:
        self._app, self._token, self._hosts, self._state, self._cookie, self._page = app, token, hosts, state, cookie, page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        refused = self._checked(scope)
        await (refused or self._app)(scope, receive, _with_headers(send))

    def _checked(self, scope: Scope) -> Response | None:
        """What a request that does not come in is answered; its session is put into the scope of one that does."""
        try:
            self._hosts.check_host(scope)
            self._hosts.check_browser(scope)
        except CrossSite:
            return self._page(
                HTTPStatus.FORBIDDEN, "Not from here", "This lab answers its own pages only, by the address it printed."
            )
        request = Request(scope)
        given = request.query_params.get("token")
        session = self._state.session(request.cookies.get(self._cookie, ""))
        if given is not None:
            return self._entered(request, given, session)
        if session is None and not scope["path"].startswith(OPEN):
            return self._page(HTTPStatus.UNAUTHORIZED, "Locked", HOW_IN)
        scope["session"] = session
        return None

    def _entered(self, request: Request, given: str, session: str | None) -> Response:
        if not hmac.compare_digest(given.encode(), self._token.encode()):
            return self._page(HTTPStatus.UNAUTHORIZED, "Another token", f"This is not the token of this start. {HOW_IN}")
        rest = urlencode([(name, value) for name, value in parse_qsl(request.url.query) if name != "token"])
        path = "/" + request.url.path.lstrip("/\\")  # never the address of another server
        response = RedirectResponse(path + ("?" + rest if rest else ""), HTTPStatus.SEE_OTHER)
        if session is None:
            try:
                secret = self._state.begin_session()
            except Refused as full:
                return self._page(HTTPStatus.SERVICE_UNAVAILABLE, "Too many sessions", f"{full}.".capitalize())
            response.set_cookie(self._cookie, secret, httponly=True, samesite="strict", path="/")
        return response


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = {name for name, _ in message["headers"]}
            more = [(name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in given]
            message = {**message, "headers": [*message["headers"], *more]}
        await send(message)

    return sending
