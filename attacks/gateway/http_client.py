"""An HTTP client for servers that may be hostile: bounds on the size and the duration of an exchange; it follows no redirects."""

from __future__ import annotations

import email.utils
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
import orjson

from attacks.gateway.deadline import Deadline
from models.errors import InvalidInput
from models.printable import printable

_KEY_AT_MOST = 512
_A_DAY_S = 86_400.0
_REASON_AT_MOST = 200


@dataclass(frozen=True)
class Reply:
    """A response; `retry_after_s` is None without a readable Retry-After header."""

    status: int
    body: bytes
    retry_after_s: float | None


class BoundedHttpClient:
    """Keep-alive connections to one server.

    Redirects are not followed, and compression is not requested: a compressed response could exceed the bound once decoded.

    Args:
        url: http or https, with a path prefix where the server has one; without user, query or fragment.
        api_key: sent as `Authorization: Bearer`.
        timeout_s: seconds for a whole exchange, from connecting to the last byte of the answer, however the server spaces its bytes.

    Raises: InvalidInput on construction: an invalid URL or key.
    """

    def __init__(self, url: str, *, api_key: str | None, timeout_s: float) -> None:
        self.url = _checked(url)
        self._deadline = Deadline(timeout_s)
        headers = {"accept": "application/json", "accept-encoding": "identity", "user-agent": "hauberk-attack"}
        if api_key is not None:
            headers["authorization"] = f"Bearer {_checked_key(api_key)}"
        self._client = httpx.Client(headers=headers, timeout=timeout_s, follow_redirects=False)

    def close(self) -> None:
        self._client.close()

    def post(self, path: str, body: bytes, media_type: str, *, bytes_at_most: int) -> Reply:
        """POST `body`. Raises: httpx.HTTPError, also for a response beyond `bytes_at_most` or `timeout_s`."""
        return self._send("POST", path, body, {"content-type": media_type}, bytes_at_most)

    def json(self, path: str, *, bytes_at_most: int) -> Any:
        """The parsed JSON of a GET. Raises: InvalidInput: no connection, a status other than 200, no JSON."""
        try:
            reply = self._send("GET", path, None, {}, bytes_at_most)
        except (httpx.ConnectError, httpx.ConnectTimeout) as failure:
            raise InvalidInput(f"cannot reach {self.url} ({reason(failure)}); is the gateway running there?") from failure
        except httpx.HTTPError as failure:
            raise InvalidInput(self.no_gateway(reason(failure))) from failure
        if reply.status != 200:
            raise InvalidInput(self.no_gateway(f"status {reply.status} for {path}"))
        try:
            return orjson.loads(reply.body)
        except ValueError as failure:
            raise InvalidInput(self.no_gateway(f"no JSON at {path}")) from failure

    def no_gateway(self, why: str) -> str:
        """The error message for a server that is not a Hauberk gateway."""
        return f"expected a Hauberk gateway at {self.url}, got something else ({why}); give the URL of its root"

    def _send(self, method: str, path: str, body: bytes | None, headers: dict[str, str], bytes_at_most: int) -> Reply:
        with self._deadline as deadline:
            try:
                return self._exchange(method, path, body, headers, bytes_at_most)
            except httpx.HTTPError as failure:
                if deadline.passed:
                    raise httpx.ReadTimeout("timed out") from failure
                raise

    def _exchange(self, method: str, path: str, body: bytes | None, headers: dict[str, str], bytes_at_most: int) -> Reply:
        extensions = {"trace": self._deadline.trace}
        with self._client.stream(method, self.url + path, content=body, headers=headers, extensions=extensions) as response:
            received = bytearray()
            for part in response.iter_raw():
                received += part
                if len(received) > bytes_at_most:
                    raise httpx.DecodingError(f"an answer of more than {bytes_at_most} bytes")
                if self._deadline.passed:
                    raise httpx.ReadTimeout("timed out")
            return Reply(response.status_code, bytes(received), retry_after_s(response.headers.get("retry-after")))


def retry_after_s(header: str | None) -> float | None:
    """Seconds in a Retry-After header (RFC 9110, 10.2.3: a number or a date), from 0 to a day; None without one that can be parsed."""
    if header is None:
        return None
    if header.isascii() and header.strip().isdecimal():
        return min(float(header), _A_DAY_S)
    try:
        when = email.utils.parsedate_to_datetime(header)
        aware = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
        seconds = (aware - datetime.now(UTC)).total_seconds()
    except (ValueError, OverflowError):
        return None
    return min(max(0.0, seconds), _A_DAY_S)


def reason(failure: httpx.HTTPError) -> str:
    """The failure in one printable line of at most 200 characters."""
    return printable((str(failure) or type(failure).__name__).strip().rstrip(".").lower())[:_REASON_AT_MOST]


def _checked(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError) as failure:
        raise InvalidInput(f"expected the URL of a gateway, got {url!r}") from failure
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise InvalidInput(f"expected a URL that begins with http:// or https://, got {url!r}")
    if parsed.userinfo or parsed.query or parsed.fragment:
        raise InvalidInput("expected a URL of host, port and path only; a key comes from a file or from GATEWAY_API_KEY")
    return str(parsed).rstrip("/")


def _checked_key(key: str) -> str:
    if not key.isascii() or not key.isprintable() or " " in key or not 1 <= len(key) <= _KEY_AT_MOST:
        raise InvalidInput(f"expected an API key of 1 to {_KEY_AT_MOST} printable ASCII characters without spaces")
    return key
