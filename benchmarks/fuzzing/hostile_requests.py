"""Valid requests mutated at random.

A mutation damages one of three layers: the body (with its true length declared), the head (with a valid framing), or the framing. Each
attempt depends only on the seed and its number, so that one attempt can be repeated without the others.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from benchmarks.fuzzing.damaged_bodies import BODIES, cut_out, flipped, inserted, repeated, truncated
from benchmarks.fuzzing.valid_requests import Header, WireRequest

FOREIGN_PAGE = "foreign page"
"""The kind of requests of which none may be answered with 200."""


@dataclass(frozen=True)
class Attempt:
    """The bytes sent over one connection.

    Args:
        number, kind: its number, and the kind of mutation.
        wire: the bytes.
        methods: of the requests in order; an answer to HEAD has no body.
        framed: whether the bytes are whole requests, each of which must be answered.
        leaves: whether the client closes the connection without waiting for an answer.
        ends: whether the client ends its side once all is sent, and waits for the answer.
    """

    number: int
    kind: str
    wire: bytes
    methods: tuple[bytes, ...]
    framed: bool = True
    leaves: bool = False
    ends: bool = False


def attempt(requests: Sequence[WireRequest], seed: int, number: int) -> Attempt:
    """The attempt of this number: a valid request, mutated at random."""
    rng = random.Random(f"{seed}/{number}")  # noqa: S311  # repeatable, not secret
    request = rng.choice(requests)
    kind = rng.choices(list(_SHARES), list(_SHARES.values()))[0]
    if kind in BODIES:
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            request = replace(request, body=BODIES[kind](rng, request.body))
        return Attempt(number, kind, request.wire(), (request.method,))
    if kind in _HEAD:
        request = _HEAD[kind](rng, request)
        return Attempt(number, kind, request.wire(), (request.method,))
    if kind == "pipelined":
        several = [request, *rng.choices(requests, k=rng.randint(1, 4))]
        return Attempt(number, kind, b"".join(one.wire() for one in several), tuple(one.method for one in several))
    if kind in ("valid", "half-closed"):
        return Attempt(number, kind, request.wire(), (request.method,), ends=kind == "half-closed")
    wire = _FRAMING[kind](rng, request)
    return Attempt(number, kind, wire, (request.method,), framed=False, leaves=kind == "left early")


# ------------------------------------------------------------------------------------------------------------------- heads


def _other_method(rng: random.Random, request: WireRequest) -> WireRequest:
    methods = (b"GET", b"HEAD", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE", b"PROPFIND", b"POST", b"QUERY", b"M-SEARCH")
    return replace(request, method=rng.choice(methods))


def _other_target(rng: random.Random, request: WireRequest) -> WireRequest:
    target = request.target
    at = rng.randrange(1, len(target) + 1)
    morsel = rng.choice(
        (b"%00", b"%2e%2e/", b"/../", b"//", b"%", b"%ff", b"%C3%28", b";x=1", b"?q=%s", b"#f", b"\\", b"%2F", b"a" * 5000)
    )
    targets = (
        target[:at] + morsel + target[at:],
        target + b"?" + rng.randbytes(20).hex().encode(),
        b"http://other" + target,
        target.upper(),
    )
    return replace(request, target=rng.choice(targets))


def _other_headers(rng: random.Random, request: WireRequest) -> WireRequest:
    headers = list(request.headers)
    for _ in range(rng.randint(1, 3)):
        headers.insert(rng.randrange(len(headers) + 1), rng.choice(_HEADERS))
    return replace(request, headers=tuple(headers))


_HEADERS: tuple[Header, ...] = (
    *(
        (b"Content-Type", value)
        for value in (b"", b"text/plain", b"application/vnd.bentoml+pickle", b"multipart/form-data; boundary=x")
    ),
    *(
        (b"Content-Type", value)
        for value in (b"application/json; charset=utf-16", b"image/png", b"application/x-npy", b"\xff\xfe", b";;;")
    ),
    *((b"Content-Encoding", value) for value in (b"gzip", b"br", b"identity", b"", b"gzip, identity", b"\xff")),
    *(
        (b"X-Request-ID", value)
        for value in (b"", b"a" * 128, b"a" * 129, b"../../x", b"\xff\xff", b"a b", b"<script>", b"%0d%0aX: y")
    ),
    *((b"Inference-Header-Content-Length", value) for value in (b"", b"0", b"-1", b"9" * 30, b"1e3", b"\xb2", b"100", b" 7")),
    *((b"Accept", b"text/html"), (b"Accept-Encoding", b"gzip"), (b"Expect", b"100-continue"), (b"Connection", b"close")),
    *(
        (b"Range", b"bytes=0-0"),
        (b"If-None-Match", b"*"),
        (b"Origin", b"http://evil"),
        (b"Cookie", b"x=" + b"y" * 3000),
        (b"Host", b""),
    ),
    *(
        (b"Forwarded", b"for=127.0.0.1"),
        (b"X-Forwarded-For", b"127.0.0.1, \xff"),
        (b"X-Forwarded-For", b"name-" + b"x" * 8000),
        (b"X-Forwarded-For", b"fe80::1%" + b"x" * 3000),
        (b"X-Forwarded-For", b"127.0.0.1," * 800),
        (b"traceparent", b"00-" + b"f" * 32 + b"-x-01"),
    ),
    *((b"X-HTTP-Method-Override", b"DELETE"), (b"Authorization", b"Bearer x"), (b"Args", b"pickle"), (b"Bentoml-Payload", b"1")),
)


def _fewer_headers(rng: random.Random, request: WireRequest) -> WireRequest:
    kept = [header for header in request.headers if rng.random() < 0.4]
    return replace(request, headers=tuple(kept))


def _doubled_headers(rng: random.Random, request: WireRequest) -> WireRequest:
    return replace(request, headers=request.headers + tuple(rng.choices(_HEADERS, k=2)) + request.headers)


def _foreign_page(rng: random.Random, request: WireRequest) -> WireRequest:
    """Images from a page of another site, or a look at the metrics through a proxy or from such a page; none may get a 200."""
    page = rng.choice(_FOREIGN_PAGES)
    if request.method != b"POST":
        return replace(request, target=b"/metrics", headers=(*request.headers, rng.choice((page, *_FORWARDED))))
    headers = [*request.headers, page, *rng.choices(_FORWARDED, k=rng.randint(0, 2))]
    rng.shuffle(headers)
    return replace(request, headers=tuple(headers))


_FOREIGN_PAGES: tuple[Header, ...] = (
    *(
        (b"Origin", value)
        for value in (b"http://evil.example", b"null", b"http://127.0.0.1.evil.example", b"", b"\xff", b"file://")
    ),
    *((b"Sec-Fetch-Site", value) for value in (b"cross-site", b"same-site", b"", b"same-origin, cross-site", b"\xff")),
)
_FORWARDED: tuple[Header, ...] = (
    *((b"X-Forwarded-For", b"127.0.0.1"), (b"Forwarded", b"for=127.0.0.1;host=localhost"), (b"Via", b"1.1 proxy")),
    *((b"X-Forwarded-Host", b"localhost"), (b"X-Real-IP", b"\xff"), (b"X-Envoy-Internal", b"true")),
)


def _chunked(rng: random.Random, request: WireRequest) -> WireRequest:
    """A valid request: the same body in chunks of random sizes."""
    at = 0
    parts: list[bytes] = []
    while at < len(request.body) and len(parts) < 40:
        size = rng.choice((1, 2, 3, 7, 100, 1000, 65_536))
        parts.append(request.body[at : at + size])
        at += size
    parts.append(request.body[at:])
    extension = rng.choice((b"", b"", b";x=y"))
    trailer = rng.choice((b"", b"", b"Content-Encoding: gzip\r\n", b"Content-Type: text/plain\r\nX-Request-ID: \xff\r\n"))
    chunks = [b"%x%s\r\n%s\r\n" % (len(part), extension, part) for part in parts if part]
    return replace(
        request,
        headers=(*request.headers, (b"Transfer-Encoding", b"chunked")),
        body=b"".join([*chunks, b"0\r\n", trailer, b"\r\n"]),
    )


def _upgraded(rng: random.Random, request: WireRequest) -> WireRequest:
    """A valid request that offers another protocol, as clients do that would rather speak HTTP/2."""
    settings = (b"HTTP2-Settings", b"AAMAAABkAAQCAAAAAAIAAAAA")
    key = (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ==")
    offers: tuple[tuple[Header, ...], ...] = (
        ((b"Connection", b"Upgrade, HTTP2-Settings"), (b"Upgrade", b"h2c"), settings),
        ((b"Upgrade", rng.choice((b"websocket", b"TLS/1.3", b"\xff"))), (b"Connection", b"Upgrade"), key),
    )
    framed = _chunked(rng, request) if request.body and rng.random() < 0.5 else request
    return replace(framed, headers=(*rng.choice(offers), *framed.headers))


# ----------------------------------------------------------------------------------------------------------------- framing


def _wrong_length(rng: random.Random, request: WireRequest) -> bytes:
    size = len(request.body)
    said = rng.choice(
        (b"%d" % rng.randint(0, size), b"%d" % (size + rng.randint(1, 1000)), b"-1", b"0", b"9" * 25, b"1e3", b"0x10", b"")
    )
    return replace(request, headers=(*request.headers, (b"Content-Length", said))).wire()


def _two_lengths(rng: random.Random, request: WireRequest) -> bytes:
    more = rng.choice(((b"Content-Length", b"5"), (b"Transfer-Encoding", b"chunked"), (b"Transfer-Encoding", b"gzip, chunked")))
    return replace(request, headers=(*request.headers, (b"Content-Length", b"%d" % len(request.body)), more)).wire()


def _bad_chunks(rng: random.Random, request: WireRequest) -> bytes:
    chunked = _chunked(rng, request)
    return chunked.head() + inserted(rng, flipped(rng, chunked.body)[: rng.randrange(len(chunked.body) + 1)])


def _bad_head(rng: random.Random, request: WireRequest) -> bytes:
    damage = rng.choice((flipped, flipped, inserted, cut_out, repeated))
    return damage(rng, request.head()) + request.body


def _cut_short(rng: random.Random, request: WireRequest) -> bytes:
    return truncated(rng, request.wire())


def _unfinished(rng: random.Random, request: WireRequest) -> bytes:
    return request.wire()[:-1]


_HOST_LINE = b"Host: 127.0.0.1\r\n"


def _two_readings(rng: random.Random, request: WireRequest) -> bytes:
    """What RFC 9112 lets a server refuse because another could read it in another way."""
    zeros = b"0" * rng.choice((1, 20, 5000))
    length = (b"Content-Length", zeros + b"%d" % len(request.body))
    before = (b"gzip, chunked", b"deflate, chunked", b"br, gzip, chunked", b"identity, chunked")
    codings = (b"chunked, gzip", b"identity", b"chunked, chunked", b"xchunked", b" Chunked")
    wires = (
        request.wire().replace(_HOST_LINE, b"", 1),
        request.wire().replace(_HOST_LINE, _HOST_LINE + rng.choice((b"Host: 127.0.0.1", b"Host: other", b"host:")) + b"\r\n", 1),
        request.wire().replace(_HOST_LINE, rng.choice((b"Host: a b", b"Host: a, b", b"Host: \xff", b"Host: a/b")) + b"\r\n", 1),
        request.wire().replace(b"HTTP/1.1", rng.choice((b"HTTP/2.0", b"HTTP/0.9", b"HTTP/1.2", b"HTTP/1.0")), 1),
        replace(request, headers=(*request.headers, length)).wire(),
        _coded(rng, request, before),
        _coded(rng, request, codings),
        _chunked(rng, request).wire().replace(b"HTTP/1.1", b"HTTP/1.0", 1),
    )
    return rng.choice(wires)


def _coded(rng: random.Random, request: WireRequest, codings: Sequence[bytes]) -> bytes:
    """A chunked request that names another coding."""
    return _chunked(rng, request).wire().replace(b"Transfer-Encoding: chunked", b"Transfer-Encoding: " + rng.choice(codings), 1)


def _garbage(rng: random.Random, request: WireRequest) -> bytes:
    garbage = (rng.randbytes(rng.randint(1, 500)), b"\x16\x03\x01\x02\x00\x01", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\r\n" * 50)
    return rng.choice(garbage) + b"\r\n\r\n"


_HEAD: dict[str, Callable[[random.Random, WireRequest], WireRequest]] = {
    "other method": _other_method,
    "other path": _other_target,
    "other headers": _other_headers,
    "headers removed": _fewer_headers,
    "headers doubled": _doubled_headers,
    FOREIGN_PAGE: _foreign_page,
    "chunked": _chunked,
    "upgrade": _upgraded,
}
_FRAMING: dict[str, Callable[[random.Random, WireRequest], bytes]] = {
    "wrong length": _wrong_length,
    "two lengths": _two_lengths,
    "broken chunks": _bad_chunks,
    "broken head": _bad_head,
    "left early": _cut_short,
    "unfinished": _unfinished,
    "two readings": _two_readings,
    "garbage": _garbage,
}
# Long bodies cost the client as much time as the server, and truncated ones make it wait: fewer of them are sent.
_RARE = {
    "too long": 0.2,
    "many small values": 0.5,
    "deep nesting": 1.0,
    "wrong length": 1.0,
    "broken chunks": 1.0,
    "unfinished": 0.5,
}
_SHARES = {kind: _RARE.get(kind, 2.0) for kind in (*BODIES, *_HEAD, *_FRAMING, "pipelined", "half-closed", "valid")}
