"""A gateway that means harm to whoever attacks it: it drips, never ends, asks to wait for ever or not at all, and has names that a
terminal would obey. Time-outs are short here; nothing is measured against a clock."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import numpy as np
import pytest

from attacks.gateway.http_client import BoundedHttpClient, retry_after_s
from attacks.gateway.remote import GatewayClassifier, GatewayGone
from models.errors import InvalidInput
from tests.unit.attacks.gateway.test_remote import SHAPE, described, documented, some

Sends = Callable[[socket.socket], None]
"""What the gateway does with a connection after a request for predictions."""

DESCRIPTION = {"/": json.dumps(described()).encode(), "/docs.json": json.dumps(documented()).encode()}


class Hostile:
    """A server on raw sockets: it describes itself as a gateway does, and answers predictions as it likes."""

    def __init__(self, sends: Sends) -> None:
        self.sends, self.predictions = sends, 0
        self.ended = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError), connection.makefile("rb") as incoming:
            while request := incoming.readline().decode():
                length = 0
                while (line := incoming.readline()) not in (b"\r\n", b""):
                    name, _, value = line.partition(b":")
                    length = int(value) if name.lower() == b"content-length" else length
                incoming.read(length)
                path = request.split()[1]
                if path in DESCRIPTION:
                    connection.sendall(answer(DESCRIPTION[path]))
                else:
                    self.predictions += 1
                    self.sends(connection)

    def close(self) -> None:
        self.ended.set()
        self._listening.close()


def answer(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *(f"{k.replace('_', '-')}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


@contextmanager
def hostile(sends: Sends) -> Iterator[Hostile]:
    server = Hostile(sends)
    try:
        yield server
    finally:
        server.close()


def repeatedly(before: bytes, part: bytes) -> Sends:
    """Sends this part again and again until the client hangs up: each read of the client ends in time."""

    def sends(connection: socket.socket) -> None:
        connection.sendall(before)
        while True:
            connection.sendall(part)
            threading.Event().wait(0.01)

    return sends


ENDLESS: dict[str, Sends] = {
    "dripped headers": repeatedly(b"HTTP/1.1 200 OK\r\nx-drip: ", b"d"),
    "early hints without end": repeatedly(b"", b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"),
    "100 Continue without end": repeatedly(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "a dripped body": repeatedly(b"HTTP/1.1 200 OK\r\ncontent-length: 60000\r\n\r\n", b" "),
    "a chunked body without end": repeatedly(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "trailers without end": repeatedly(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n", b"x-more: 1\r\n"),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_an_answer_that_never_ends_is_given_up_at_the_deadline(what: str) -> None:
    with hostile(ENDLESS[what]) as server:
        client = BoundedHttpClient(server.url, api_key=None, timeout_s=0.3)
        with pytest.raises(httpx.ReadTimeout, match="timed out"):
            client.post("/predict/npy", b"", "application/x-npy", bytes_at_most=1 << 20)
        client.close()
        assert server.predictions == 1


def test_a_description_that_never_ends_is_given_up_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(DESCRIPTION, "/docs.json")
    with hostile(ENDLESS["dripped headers"]) as server, pytest.raises(InvalidInput, match="timed out"):
        GatewayClassifier(server.url, timeout_s=0.3)


def test_an_exchange_leaves_no_clock_that_could_end_the_next() -> None:
    with hostile(lambda connection: connection.sendall(answer(b"{}"))) as server:
        client = BoundedHttpClient(server.url, api_key=None, timeout_s=60)
        for _ in range(3):
            assert client.post("/predict/npy", b"", "application/x-npy", bytes_at_most=10).status == 200
        client.close()
    left = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer) and not thread.finished.is_set()]
    assert left == []


@pytest.mark.parametrize("header", ["0", "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2015 07:28:00 +2359"])
@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
def test_a_gateway_that_asks_to_come_back_at_once_is_not_asked_without_end(status: str, header: str) -> None:
    with hostile(lambda connection: connection.sendall(answer(b"", status, retry_after=header))) as server:
        with (
            GatewayClassifier(server.url, patience_s=0.6) as remote,
            pytest.raises(GatewayGone, match=r"beyond a patience of 0\.6 s"),
        ):
            remote.predict(some(2))
        assert server.predictions == 2
        assert remote.traffic.waited_s == 0.5


HUGE_DATES = (
    "Wed, 21 Oct 2015 07:28:00 +99999999999",
    "1 Jan 999999999999999999999 00:00:00 GMT",
    "Wed, 21 Oct 9999 23:59:59 -2359",
    "Wed, 21 Oct 0001 00:00:00 +2359",
    "9" * 5000,
)


@pytest.mark.parametrize("header", HUGE_DATES)
def test_a_time_that_no_clock_has_is_no_traceback_and_no_wait_beyond_a_day(header: str) -> None:
    assert 0 <= (retry_after_s(header) or 0) <= 86_400


def test_time_lost_on_answers_that_were_not_completed_counts_against_the_patience() -> None:
    with hostile(ENDLESS["dripped headers"]) as server:
        with GatewayClassifier(server.url, patience_s=0.7) as remote:
            remote._client._deadline._seconds = 0.3
            with pytest.raises(GatewayGone, match=r"stopped answering \(timed out\).* beyond a patience of 0.7 s"):
                remote.predict(some(2))
        assert server.predictions == 1


@pytest.mark.parametrize(
    "predictions",
    [
        [{"abstained": False, "probabilities": [1e308, 0, 0]}],
        [{"abstained": False, "probabilities": ["1", [], {}]}],
        [{"abstained": False, "probabilities": {"a": 1}}],
        [None],
        {"a": 1},
        "abc",
    ],
)
def test_predictions_of_any_other_form_are_one_sentence(predictions: Any) -> None:
    body = answer(json.dumps({"predictions": predictions}).encode())
    with (
        hostile(lambda connection: connection.sendall(body)) as server,
        GatewayClassifier(server.url) as remote,
        pytest.raises(GatewayGone, match=r"expected .*predictions .* got something else"),
    ):
        remote.predict(np.ones((1, *SHAPE), np.float32))


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "m" * 10_000},
        {"defences": [{"name": "d", "mode": "enforce"}] * 1000},
        {"defences": [{"name": "d", "mode": "e" * 1000}]},
        {"input_shape": [1e308, 1, 1]},
    ],
)
def test_a_description_of_names_without_end_is_refused(monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]) -> None:
    monkeypatch.setitem(DESCRIPTION, "/", json.dumps(described(**changes)).encode())
    with hostile(ENDLESS["dripped headers"]) as server, pytest.raises(InvalidInput, match="its description"):
        GatewayClassifier(server.url)
