"""Encrypted connections: the server's certificate is checked, and what comes of one that is not trusted."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from models.classifier import Images
from models.engines.remote.options import CA_FILE, TOKEN_FILE, RemoteOptions
from models.errors import InvalidInput, RemoteBadAnswer, RemoteUnreachable
from tests.model_server import Model, served
from tests.unit.models.engines.remote.conftest import Connect


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1, which signs itself, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    directory = tmp_path_factory.mktemp("tls")
    made, key = directory / "certificate.pem", directory / "key.pem"
    command = (
        f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {key} -out {made} -days 2 -subj /CN=test"
    )
    subprocess.run([openssl, *command.split(), "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    return made, key


@pytest.fixture
def context(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(*certificate)
    return made


def options(**rest: str) -> RemoteOptions:
    return RemoteOptions(timeout_s=2.0, attempts=2, first_pause_s=0.01, **rest)  # type: ignore[arg-type]


@pytest.mark.parametrize("scheme", ["v2s", "tfss"])
def test_a_trusted_server_is_asked_over_tls(
    model: Model, connect: Connect, images: Images, context: ssl.SSLContext, certificate: tuple[Path, Path], scheme: str
) -> None:
    with served(model, certificate=context) as server:
        classifier = connect(server, scheme, options=options(authorities=certificate[0].read_text()))
        assert len(classifier.predict(images)) == len(images)
        assert server.connections == 1


def test_a_server_whose_certificate_nobody_trusts_is_not_asked(model: Model, connect: Connect, context: ssl.SSLContext) -> None:
    with served(model, certificate=context, token="x") as server:  # noqa: S106
        with pytest.raises(RemoteUnreachable, match="its certificate is not trusted: self"):
            connect(server, "v2s", options=options(token="never sent"))  # noqa: S106
        assert not server.asked


def test_a_certificate_of_another_name_is_not_trusted(
    model: Model, connect: Connect, context: ssl.SSLContext, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(model, certificate=context) as server:
        monkeypatch.setattr(type(server), "address", lambda self, scheme, **_: f"{scheme}://localhost:{self.port}/animals")
        with pytest.raises(RemoteUnreachable, match="its certificate is not trusted: hostname mismatch"):
            connect(server, "v2s", options=options(authorities=certificate[0].read_text()))


def test_a_server_that_speaks_no_tls_and_one_that_speaks_only_tls_are_failures(
    model: Model, connect: Connect, context: ssl.SSLContext
) -> None:
    with served(model) as server, pytest.raises(RemoteUnreachable):
        connect(server, "v2s", options=options())
    with served(model, certificate=context) as server, pytest.raises((RemoteUnreachable, RemoteBadAnswer)):
        connect(server, "v2", options=options())


def test_token_and_authorities_come_from_files_that_the_environment_names(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    (tmp_path / "token").write_text("  abc.def  \n")
    found = RemoteOptions.for_commands({TOKEN_FILE: str(tmp_path / "token"), CA_FILE: str(certificate[0])})
    assert found.token == "abc.def"  # noqa: S105  # the test's own
    assert found.authorities == certificate[0].read_text()
    assert RemoteOptions.for_commands({}).token is None


@pytest.mark.parametrize("content", [b"", b"two words", b"line\nline", "tökén".encode(), b"\x00\x01", b"x" * (1 << 15)])
def test_a_file_that_holds_no_token_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(InvalidInput, match=TOKEN_FILE):
        RemoteOptions.for_commands({TOKEN_FILE: str(tmp_path / "token")})


def test_files_that_are_not_there_or_hold_no_certificates_are_refused(tmp_path: Path) -> None:
    (tmp_path / "ca").write_text("-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n")
    for name, path, sentence in (
        (TOKEN_FILE, "nothing", "cannot be read: No such file"),
        (CA_FILE, "nothing", "cannot be read: No such file"),
        (CA_FILE, "ca", "to hold certificates"),
    ):
        with pytest.raises(InvalidInput, match=f"{name}.*{sentence}"):
            RemoteOptions.for_commands({name: str(tmp_path / path)})
