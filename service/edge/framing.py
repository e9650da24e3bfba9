"""What a head may say of itself beyond what the parser checks: its version, its Host, the framing of its body (RFC 9112).

Two programs that read one head in two ways is how requests are smuggled past a proxy: what can be read in two ways is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from service.errors import MalformedHttp, Problem, UnsupportedCoding, UnsupportedVersion

Header = tuple[bytes, bytes]

# uri-host [":" port] of RFC 3986, without the comma, by which proxies join two Hosts to one.
_HOST = re.compile(rb"[A-Za-z0-9\-._~%!$&'()*+;=:\[\]]{0,300}")


def complaint(version: str, headers: Iterable[Header]) -> Problem | None:
    """What is wrong with a head, its names in lower case; None when nothing is.

    505: another version. 400: Host missing, twice, or no host; a length beside chunks, chunks in HTTP/1.0, a last coding that is not
    chunked. 501: a coding before chunked.
    """
    if version != "1.1" and version != "1.0":
        return UnsupportedVersion()
    hosts = 0
    codings, length = b"", False
    for name, value in headers:
        if name == b"host":
            hosts += 1
            if not _HOST.fullmatch(value):
                return MalformedHttp()
        elif name == b"content-length":
            length = True
        elif name == b"transfer-encoding":
            codings += b"," + value
    if hosts > 1 or (hosts == 0 and version == "1.1"):
        return MalformedHttp()
    return _coding_complaint(version, codings, length) if codings else None


def _coding_complaint(version: str, codings: bytes, length: bool) -> Problem | None:
    names = [name.strip(b" \t").lower() for name in codings[1:].split(b",")]
    if length or version == "1.0" or names[-1] != b"chunked" or names.count(b"chunked") > 1:
        return MalformedHttp()
    return UnsupportedCoding() if len(names) > 1 else None


def declared_length(value: bytes) -> int:
    """The number in a Content-Length, of any number of digits; -1 for what is none."""
    if not value.isdigit():
        return -1
    digits = value.lstrip(b"0")
    return int(digits[:20] or b"0")  # int() refuses thousands of digits; twenty are more than any body has


def without_offer(method: bytes, url: bytes, version: str, headers: Iterable[Header]) -> bytes:
    """The head of a request that offers another protocol, as if it had not."""
    lines = [b"%s %s HTTP/%s" % (method, url, version.encode())]
    lines += [b"%s: %s" % (name, value) for name, value in headers if name != b"upgrade"]
    return b"\r\n".join([*lines, b"", b""])
