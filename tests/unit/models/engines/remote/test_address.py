"""Addresses of model servers: what they mean, and what is refused."""

from __future__ import annotations

import pytest

from models.engines.remote.address import RemoteAddress, is_remote
from models.errors import InvalidInput


@pytest.mark.parametrize(
    ("text", "authority", "path", "tls"),
    [
        ("v2://models.example.com/digits", "models.example.com", "/v2/models/digits", False),
        ("v2://models.example.com:8000/digits/versions/3", "models.example.com:8000", "/v2/models/digits/versions/3", False),
        ("v2s://models.example.com/digits", "models.example.com", "/v2/models/digits", True),
        ("v2s://10.0.0.7:8443/a.b-c_d", "10.0.0.7:8443", "/v2/models/a.b-c_d", True),
        ("v2://[::1]:8080/digits", "[::1]:8080", "/v2/models/digits", False),
        ("tfs://serving:8501/digits", "serving:8501", "/v1/models/digits", False),
        ("tfss://serving/digits/versions/7", "serving", "/v1/models/digits/versions/7", True),
    ],
)
def test_an_address_says_host_port_path_and_whether_it_is_encrypted(text: str, authority: str, path: str, tls: bool) -> None:
    address = RemoteAddress.parse(text)
    assert (address.authority, address.path, address.tls) == (authority, path, tls)
    assert str(address) == text
    assert RemoteAddress.parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "v2://",
        "v2:///digits",
        "v2://host",
        "v2://host/",
        "v2://host/a/b",
        "v2://host/a/versions/",
        "v2://host/../secret",
        "v2://host/a%2fb",
        "v2://host/a?token=b",
        "v2://host/a#b",
        "v2://host:0/a",
        "v2://host:99999/a",
        "v2://host:8x/a",
        "v2://ho st/a",
        "v2://host/a\r\nhost: other",
        "v2://hóst/a",
        "http://host/v2/models/a",
        "https://host/a",
        "file:///etc/passwd",
        "v2://[::1/a",
        "v2://host/" + "a" * 2000,
    ],
)
def test_anything_else_is_refused_in_one_printable_sentence(text: str) -> None:
    with pytest.raises(InvalidInput, match="expected a model server's address, v2://") as refused:
        RemoteAddress.parse(text)
    assert str(refused.value).isprintable()


def test_credentials_in_an_address_are_refused_without_repeating_them() -> None:
    with pytest.raises(InvalidInput, match="HAUBERK_REMOTE_TOKEN_FILE") as refused:
        RemoteAddress.parse("v2://user:secret@host/digits")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "remote"),
    [
        ("v2://host/a", True),
        ("V2S://host/a", True),
        ("http://host/a", True),
        ("v2:/host/a", True),
        ("models/v2.keras", False),
        ("C.onnx", False),
    ],
)
def test_a_classifier_that_begins_like_a_url_is_no_file(text: str, remote: bool) -> None:
    assert is_remote(text) is remote
