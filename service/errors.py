"""Everything a client can be refused with, each class one sentence saying when.

Problem                           an answer with a 4xx or 5xx status, as application/problem+json (RFC 9457)
├── MalformedHttp          400    the bytes are not HTTP/1.1, name no Host or several, or frame a body in a way that can be read in two
├── MalformedJson          400    the body is not one JSON text (RFC 8259), or names a key twice
├── MalformedNpy           400    the body is not one .npy file, or its header lies about its length
├── MalformedPicture       400    the body is not one whole PNG or JPEG image of the type it is declared to be
├── MalformedInference     400    the body is no inference request (Open Inference Protocol v2), or its sizes do not add up
├── Unauthorised           401    no key, or one that belongs to no client
├── Forbidden              403    the key is switched off
├── CrossSite              403    sent by a page of another site, or to a name that is none of this server's
├── NotFound               404    no such path
├── MethodNotAllowed       405    the path exists, the method does not
├── SlowHead               408    the head of a request did not arrive in time
├── SlowBody               408    the body did not arrive in time, or came too slowly
├── BodyTooLarge           413    the body is longer than the limit, as declared or as sent
├── UnsupportedMediaType   415    the body is declared to be something this path does not read
├── UnsupportedEncoding    415    the body is compressed
├── Unprocessable          422    well-formed, but not a batch of images; `errors` says where, five places at most
│   ├── WrongDocument             the root is no object with the one key "images"
│   ├── NoImages                  the batch is empty
│   ├── TooManyImages             the batch is larger than one request may be
│   ├── WrongShape                ragged, or of another shape than the classifier's input
│   ├── WrongType                 something among the numbers is none
│   ├── WrongDatatype             an array of numbers that cannot become float32 without loss, or of none
│   ├── WrongMode                 a picture that the classifier's channels cannot hold without loss
│   └── OutOfRange                a number is outside [0, 1]
├── OverBudget             429    the client has sent as many images as it may for now
├── HeadTooLarge           431    more bytes or header lines before the body than the limit
├── InternalError          500    a stage of the data path failed, or there is a mistake of ours
├── UnsupportedCoding      501    the body has another transfer coding than chunked
├── ClassifierFailed       502    the classifier's own server answered something that is no answer to these images
├── NotReady               503    still starting
├── ClassifierUnavailable  503    the classifier's own server cannot be reached, cannot answer now, or is not asked any more
├── QueueFull              503    more images wait than the queue takes, or more bytes of bodies are held than may be
├── TooManyConnections     503    more connections are open than the server takes, or serves of one address, and none is idle
├── Stalled                503    the worker has taken no step for a while although there is work, or has ended
├── Stopping               503    shutting down, no new work is taken
├── ClassifierTooSlow      504    the classifier's own server did not answer in time
├── DeadlineExceeded       504    not answered within the deadline
└── UnsupportedVersion     505    the request line names another version than HTTP/1.0 and HTTP/1.1

The texts are constants but for the limits of this server, and for sizes, counts and names of number types that came: no text that a
client sent comes back to it, and nothing of what the defences saw reaches it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import Any, ClassVar

import orjson

from models.errors import HauberkError

MEDIA_TYPE = b"application/problem+json"
PLACES_AT_MOST = 5

Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True)
class Place:
    """One thing that is wrong with a document: where, as a JSON pointer (RFC 6901), and what."""

    pointer: str
    detail: str


class Problem(HauberkError):
    """An answer with a 4xx or 5xx status, as application/problem+json (RFC 9457)."""

    status: ClassVar[int]
    code: ClassVar[str]
    about_transport: ClassVar[bool] = False
    """Whether it is the way a request was sent that is wrong: its framing, size or pace."""
    detail: str
    headers: Headers = ()
    places: Sequence[Place] = ()

    def document(self, request_id: str) -> dict[str, Any]:
        """The members of the problem document."""
        document = {**_members(self.status, self.code, self.detail), "request_id": request_id}
        if self.places:
            document["errors"] = [{"pointer": place.pointer, "detail": place.detail} for place in self.places]
        return document

    def body(self, request_id: str) -> bytes:
        """The problem document as it goes out. Under overload most answers are refusals: without places it is not built each time."""
        if self.places:
            return orjson.dumps(self.document(request_id))
        return b'%b,"request_id":%b}' % (_beginning(self.status, self.code, self.detail), orjson.dumps(request_id))

    def short_body(self) -> bytes:
        """The same as the Open Inference Protocol v2 says it."""
        return orjson.dumps({"error": self.detail})


def _members(status: int, code: str, detail: str) -> dict[str, Any]:
    return {
        "type": f"urn:hauberk:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
    }


@lru_cache(maxsize=128)
def _beginning(status: int, code: str, detail: str) -> bytes:
    """The document up to the brace that ends it."""
    return orjson.dumps(_members(status, code, detail))[:-1]


class MalformedHttp(Problem):
    """The bytes are not HTTP/1.1, name no Host or several, or frame a body in a way that can be read in two."""

    status, code = 400, "malformed_http"
    about_transport = True
    detail = "What came is not a request of HTTP/1.1 (RFC 9112) with one Host and a body of one framing."
    headers = ((b"connection", b"close"),)


class MalformedJson(Problem):
    """The body is not one JSON text (RFC 8259), or names a key twice."""

    status, code = 400, "malformed_json"
    detail = "The body is not one JSON text (RFC 8259): complete, in UTF-8, without NaN, Infinity or a repeated key."


class MalformedNpy(Problem):
    """The body is not one .npy file, or its header lies about its length."""

    status, code = 400, "malformed_npy"
    detail = "The body is not one .npy file: a header as numpy.save writes it, and then as many bytes as its shape takes."


class MalformedPicture(Problem):
    """The body is not one whole PNG or JPEG image of the type it is declared to be."""

    status, code = 400, "malformed_picture"
    detail = "The body is not one whole PNG or JPEG image of the type that Content-Type says."


class MalformedInference(Problem):
    """The body is no inference request (Open Inference Protocol v2), or its sizes do not add up."""

    status, code = 400, "malformed_inference"

    def __init__(self, detail: str) -> None:
        super().__init__(self.code)
        self.detail = detail


class Unauthorised(Problem):
    """No key, or one that belongs to no client."""

    status, code = 401, "unauthorised"
    detail = "This path takes requests with a key only: Authorization: Bearer <key>."
    headers = ((b"www-authenticate", b"Bearer"),)


class Forbidden(Problem):
    """The key is switched off."""

    status, code = 403, "forbidden"
    detail = "This key is switched off; ask the operator of this server."


class CrossSite(Problem):
    """Sent by a page of another site, or to a name that is none of this server's."""

    status, code = 403, "cross_site"
    detail = "This comes from a page of another site, or its Host is no name of this server (HAUBERK_HOSTS)."


class NotFound(Problem):
    """No such path."""

    status, code = 404, "not_found"
    detail = "There is nothing at this path; /docs.json lists what there is."


class MethodNotAllowed(Problem):
    """The path exists, the method does not."""

    status, code = 405, "method_not_allowed"
    detail = "This path does not take this method; the Allow header says which it takes."

    def __init__(self, allow: str) -> None:
        super().__init__(self.code)
        self.headers = ((b"allow", allow.encode()),)


class SlowHead(Problem):
    """The head of a request did not arrive in time."""

    status, code = 408, "slow_head"
    about_transport = True
    detail = "The head of the request did not arrive in time."
    headers = ((b"connection", b"close"),)


class SlowBody(Problem):
    """The body did not arrive in time, or came too slowly."""

    status, code = 408, "slow_body"
    about_transport = True
    detail = "The body did not arrive in time, or came too slowly."
    headers = ((b"connection", b"close"),)


class BodyTooLarge(Problem):
    """The body is longer than the limit, as declared or as sent."""

    status, code = 413, "body_too_large"
    about_transport = True
    detail = "The body is longer than this server takes; send fewer images per request, or numbers with fewer digits."
    headers = ((b"connection", b"close"),)


class UnsupportedMediaType(Problem):
    """The body is declared to be something this path does not read."""

    status, code = 415, "unsupported_media_type"
    detail = "This path does not read that media type; the Accept header says which it reads."

    def __init__(self, accept: str) -> None:
        super().__init__(self.code)
        self.headers = ((b"accept", accept.encode()),)


class UnsupportedEncoding(Problem):
    """The body is compressed."""

    status, code = 415, "unsupported_encoding"
    detail = "Send the body as it is, without Content-Encoding."
    headers = ((b"accept-encoding", b"identity"),)


class Unprocessable(Problem):
    """Well-formed, but not a batch of images; `errors` says where, five places at most."""

    status = 422

    def __init__(self, places: Sequence[Place] = (), *, detail: str = "") -> None:
        super().__init__(self.code)
        self.places = tuple(places[:PLACES_AT_MOST])
        if detail:
            self.detail = detail


class WrongDocument(Unprocessable):
    """The root is no object with the one key "images"."""

    code = "wrong_document"
    detail = 'Expected an object with the one key "images".'


class NoImages(Unprocessable):
    """The batch is empty."""

    code = "no_images"
    detail = 'Expected at least one image in "images".'


class TooManyImages(Unprocessable):
    """The batch is larger than one request may be."""

    code = "too_many_images"

    def __init__(self, images_at_most: int) -> None:
        images = f"{images_at_most} image{'s' * (images_at_most != 1)}"
        super().__init__(detail=f"One request may hold {images} at most; send the others in another request.")


class WrongShape(Unprocessable):
    """Ragged, or of another shape than the classifier's input."""

    code = "wrong_shape"
    detail = "The images do not have the shape that the classifier takes; /docs.json says which that is."


class WrongType(Unprocessable):
    """Something among the numbers is none."""

    code = "wrong_type"
    detail = "Every pixel has to be a number: no strings, booleans or nulls."


class WrongDatatype(Unprocessable):
    """An array of numbers that cannot become float32 without loss, or of none."""

    code = "wrong_datatype"
    detail = "Expected float32 numbers in [0, 1], or uint8, where 0 to 255 mean the same."


class WrongMode(Unprocessable):
    """A picture that the classifier's channels cannot hold without loss."""

    code = "wrong_mode"
    detail = "Expected an opaque picture, grey for a classifier of one channel, grey or RGB for one of three."


class OutOfRange(Unprocessable):
    """A number is outside [0, 1]."""

    code = "out_of_range"
    detail = "Every pixel has to be in [0, 1]."


class OverBudget(Problem):
    """The client has sent as many images as it may for now."""

    status, code = 429, "budget_spent"
    detail = "This client has sent as many images as it may for now; the Retry-After header says when to go on."
    headers = ((b"retry-after", b"60"),)

    def __init__(self, retry_after_s: int = 60) -> None:
        super().__init__(self.code)
        self.headers = ((b"retry-after", str(retry_after_s).encode()),)


class HeadTooLarge(Problem):
    """More bytes or header lines before the body than the limit."""

    status, code = 431, "head_too_large"
    about_transport = True
    detail = "The request line and the headers are longer than this server takes, or there are too many of them."
    headers = ((b"connection", b"close"),)


class InternalError(Problem):
    """A stage of the data path failed, or there is a mistake of ours."""

    status, code = 500, "internal_error"
    detail = "The request failed inside the server; its log says why."


class UnsupportedCoding(Problem):
    """The body has another transfer coding than chunked."""

    status, code = 501, "unsupported_transfer_coding"
    about_transport = True
    detail = "Send the body with Content-Length, or with Transfer-Encoding: chunked and no other coding."
    headers = ((b"connection", b"close"),)


class ClassifierFailed(Problem):
    """The classifier's own server answered something that is no answer to these images."""

    status, code = 502, "classifier_failed"
    detail = "The server of the classifier behind this one gave no answer that can be used; try again."


class NotReady(Problem):
    """Still starting."""

    status, code = 503, "not_ready"
    detail = "The server is still starting; try again shortly."
    headers = ((b"retry-after", b"2"),)


class ClassifierUnavailable(Problem):
    """The classifier's own server cannot be reached, cannot answer now, or is not asked any more."""

    status, code = 503, "classifier_unavailable"
    detail = "The server of the classifier behind this one does not answer; try again shortly."
    headers = ((b"retry-after", b"1"),)

    def __init__(self, retry_after_s: float | None = None) -> None:
        super().__init__(self.code)
        self.headers = ((b"retry-after", str(max(1, math.ceil(retry_after_s or 1))).encode()),)


class QueueFull(Problem):
    """More images wait than the queue takes, or more bytes of bodies are held than may be."""

    status, code = 503, "queue_full"
    detail = "The server has as much work as it takes; try again shortly."
    headers = ((b"retry-after", b"1"),)


class TooManyConnections(Problem):
    """More connections are open than the server takes, or serves of one address, and none is idle."""

    status, code = 503, "too_many_connections"
    detail = "The server has as many connections as it takes, or serves of one address; try again shortly."
    headers = ((b"retry-after", b"1"), (b"connection", b"close"))


class Stalled(Problem):
    """The worker has taken no step for a while although there is work, or has ended."""

    status, code = 503, "stalled"
    detail = "The part of this server that decides on images is stuck; try again later, another server may answer."
    headers = ((b"retry-after", b"5"), (b"connection", b"close"))


class Stopping(Problem):
    """Shutting down, no new work is taken."""

    status, code = 503, "stopping"
    detail = "The server is shutting down; try again, another one may answer."
    headers = ((b"retry-after", b"1"), (b"connection", b"close"))


class ClassifierTooSlow(Problem):
    """The classifier's own server did not answer in time."""

    status, code = 504, "classifier_too_slow"
    detail = "The server of the classifier behind this one did not answer in time; try again, or send fewer images at once."


class DeadlineExceeded(Problem):
    """Not answered within the deadline."""

    status, code = 504, "deadline_exceeded"
    detail = "The request was not answered within the deadline; try again, or send fewer images at once."


class UnsupportedVersion(Problem):
    """The request line names another version than HTTP/1.0 and HTTP/1.1."""

    status, code = 505, "unsupported_version"
    about_transport = True
    detail = "This server speaks HTTP/1.1, and HTTP/1.0."
    headers = ((b"connection", b"close"),)


def every_problem(root: type[Problem] = Problem) -> Iterator[type[Problem]]:
    """All the classes a client can be refused with, in the order of the tree above."""
    for problem in root.__subclasses__():
        if "code" in vars(problem):
            yield problem
        yield from every_problem(problem)
