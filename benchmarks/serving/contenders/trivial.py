"""The cheapest server there is: reads the body, answers a constant. What the load generator reaches on it is its own ceiling."""

from __future__ import annotations

from typing import Any

_ANSWER = b'{"predictions":[{"label":"7","probabilities":[' + b"0.10000000149011612," * 9 + b'0.1],"abstained":false}]}'
_HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(_ANSWER)).encode())]


async def app(scope: Any, receive: Any, send: Any) -> None:
    """ASGI."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": _ANSWER})
