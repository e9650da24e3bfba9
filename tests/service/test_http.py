"""HTTP as the world speaks it, and those who hold what they were lent. Raw sockets and real clients, real servers.

Loopback has as many addresses as a test needs: 127.0.0.2 is another client than 127.0.0.3.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from models.bundle import Bundle
from tests.service.conftest import Server, end, start, wait_until_ready


def body_of(images: int) -> bytes:
    return json.dumps({"images": np.zeros((images, 28, 28)).tolist()}).encode()


BODY = body_of(1)
POST = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
REQUEST = POST + b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
FILES, FOR_OTHERS = 200, 128
SHARE = (FILES - FOR_OTHERS) // 4
PROXY, GREEDY, HONEST = "127.0.0.3", "127.0.0.4", "127.0.0.5"
BUDGET = 40
HELD = 3 << 20


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, backdoored: Bundle, few_files: Callable[[], Any]) -> Iterator[Server]:
    """A server with few files and little memory for bodies, behind a proxy at `PROXY`, with a budget for each address."""
    with few_files():
        running = start(
            tmp_path_factory.mktemp("small"),
            HAUBERK_BUNDLE=str(backdoored.directory),
            HAUBERK_DEADLINE_S="5",
            HAUBERK_TRUSTED_PROXIES=PROXY,
            HAUBERK_IMAGES_PER_MINUTE=str(BUDGET),
            HAUBERK_HELD_BYTES=str(HELD),
        )
    try:
        wait_until_ready(running)
        yield running
    finally:
        end(running)


def connect(server: Server, address: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=30, source_address=(address, 0))


def answer(connection: socket.socket) -> tuple[int, bytes]:
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, response.read()


def ask(server: Server, address: str, images: int = 1, **headers: str) -> httpx.Response:
    """Good images from this address."""
    headers = {"content-type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    with httpx.Client(transport=httpx.HTTPTransport(local_address=address), timeout=30) as client:
        return client.post(f"{server.url}/predict", content=body_of(images), headers=headers)


@contextlib.contextmanager
def connections(server: Server, address: str, count: int, sends: bytes = b"") -> Iterator[list[socket.socket]]:
    """So many from this address, each of which has sent this."""
    opened = []
    try:
        for _ in range(count):
            opened.append(connect(server, address))
            opened[-1].sendall(sends)
        yield opened
    finally:
        for connection in opened:
            connection.close()


def test_curl_gets_its_prediction_when_it_offers_http2(server: Server) -> None:
    if shutil.which("curl") is None or "HTTP2" not in subprocess.check_output(["curl", "--version"], text=True):
        pytest.skip("needs a curl with HTTP/2")
    command = ["curl", "-s", "--http2", "-H", "Content-Type: application/json", "--data-binary", "@-", f"{server.url}/predict"]
    answered = subprocess.run(command, input=BODY, capture_output=True, check=True, timeout=60).stdout
    assert len(json.loads(answered)["predictions"]) == 1


JAVA = """
import java.net.URI;
import java.net.http.*;
import java.nio.file.Path;

class Ask {
    public static void main(String[] arguments) throws Exception {
        var client = HttpClient.newHttpClient();
        for (int i = 0; i < 3; i++) {
            var request = HttpRequest.newBuilder(URI.create(arguments[0])).header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofFile(Path.of(arguments[1]))).build();
            var response = client.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(response.statusCode() + " " + response.body().contains("predictions"));
        }
    }
}
"""


def test_the_http_client_of_the_jdk_gets_its_predictions(server: Server, tmp_path: Path) -> None:
    if shutil.which("java") is None:
        pytest.skip("needs a JDK")
    (tmp_path / "Ask.java").write_text(JAVA)
    (tmp_path / "body").write_bytes(BODY)
    command = ["java", str(tmp_path / "Ask.java"), f"{server.url}/predict", str(tmp_path / "body")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if "not found" in ran.stderr:
        pytest.skip("needs a JDK 11 or newer with its compiler")
    assert ran.stdout.splitlines() == ["200 true"] * 3, ran.stderr


def test_a_client_that_ends_its_side_after_a_whole_request_is_answered(server: Server) -> None:
    with connect(server) as connection:
        connection.sendall(REQUEST)
        connection.shutdown(socket.SHUT_WR)
        status, body = answer(connection)
        assert (status, len(json.loads(body)["predictions"])) == (200, 1)
        assert connection.recv(1) == b""


@pytest.mark.parametrize("chunked", [False, True])
def test_an_upload_of_40_mib_gets_its_413_although_it_reads_late(server: Server, chunked: bool) -> None:
    size = 40 << 20
    with connect(server) as connection:
        if chunked:
            connection.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n")
            for _ in range(40):
                connection.sendall(b"%x\r\n%s\r\n" % (size // 40, bytes(size // 40)))
        else:
            connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % size)
            connection.sendall(bytes(size))
        status, body = answer(connection)
        assert (status, json.loads(body)["code"]) == (413, "body_too_large")
        assert connection.recv(1) == b""


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (POST + b"Content-Length: " + b"0" * 5000 + b"%d\r\n\r\n%s" % (len(BODY), BODY), 200),
        (REQUEST.replace(b"Host: x\r\n", b""), 400),
        (REQUEST.replace(b"Host: x", b"Host: x\r\nHost: y"), 400),
        (POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (REQUEST.replace(b"HTTP/1.1", b"HTTP/2.0"), 505),
    ],
)
def test_a_head_has_one_reading_or_is_refused_in_a_word(server: Server, request_: bytes, status: int) -> None:
    response: Any = server.send_raw(request_)
    assert response.status == status
    if status != 200:
        document = json.loads(response.body)
        assert (document["status"], document["request_id"]) == (status, response.headers["x-request-id"])
        assert response.headers["connection"] == "close"


def test_idle_connections_of_one_address_take_nothing_from_others_and_are_closed_for_its_own(small: Server) -> None:
    with connections(small, GREEDY, SHARE) as idle:
        assert ask(small, GREEDY).status_code == 200
        assert idle[0].recv(1) == b""
        with connections(small, GREEDY, FILES):  # more than there are
            for _ in range(5):
                assert ask(small, HONEST).status_code == 200


def test_an_address_whose_connections_are_all_at_work_is_503_and_its_neighbour_is_not(small: Server) -> None:
    begun = small.metric("hauberk_requests_in_flight")
    with (
        connections(small, GREEDY, SHARE, POST + b"Content-Length: 100000\r\n\r\n") as working,
        connect(small, GREEDY) as newcomer,
    ):
        while small.metric("hauberk_requests_in_flight") < begun + SHARE:
            pass
        newcomer.sendall(REQUEST)
        assert ask(small, HONEST).status_code == 200
        status, body = answer(newcomer)  # those at work are given up as slow at about the same time
        assert (status, json.loads(body).get("code")) in ((503, "too_many_connections"), (200, None))
        assert {answer(connection)[0] for connection in working} == {408}


def test_bodies_that_lack_their_last_byte_turn_nobody_else_away(small: Server) -> None:
    large = (1 << 20) + (1 << 18)
    head = POST + b"Content-Length: %d\r\n\r\n" % large
    with connections(small, GREEDY, 2 * (HELD // large), head + b" " * (large - 1)) as stalled:
        for _ in range(5):
            assert ask(small, HONEST).status_code == 200
        refused = [answer(connection)[0] for connection in stalled]
    assert 503 in refused  # whoever filled it, when it was full
    assert set(refused) <= {503, 408}  # and the others when their time was over


def test_a_budget_is_that_of_the_address_which_the_proxy_saw(small: Server) -> None:
    def statuses(address: str, *forwarded: str) -> list[int]:
        return [ask(small, address, images=BUDGET, x_forwarded_for=each).status_code for each in forwarded]

    assert statuses(PROXY, "1.2.3.1, 198.51.100.1", "1.2.3.2, 198.51.100.1", "198.51.100.2") == [200, 429, 200]
    assert statuses("127.0.0.6", "198.51.100.3", "198.51.100.4") == [200, 429]
