"""What an operator can set, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from models.bundle import default_bundle_directory
from models.errors import InvalidInput
from service.edge.accounts import Client
from service.settings import SETTINGS, Settings, make_paths_absolute, read_settings

KEY = "0123456789abcdef"


def refused(environment: dict[str, str]) -> str:
    with pytest.raises(InvalidInput) as refusal:
        read_settings(environment)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_without_any_variable_the_defaults_hold() -> None:
    settings = read_settings({"HOME": "/root"})
    assert settings.bundle == default_bundle_directory()
    assert (settings.max_images, settings.batch_images, settings.deadline_s, settings.drain_s) == (64, 64, 10.0, 3.0)
    assert (settings.clients, settings.images_per_minute, settings.max_model_calls) == (None, None, None)
    assert settings.max_images_is_default
    assert settings.access_log
    assert (settings.audit_file, settings.tracing) == (None, False)
    assert not settings.announce
    assert 1 <= settings.threads <= 4


def test_every_setting_is_listed_once_and_says_what_it_means() -> None:
    assert len({setting.name for setting in SETTINGS}) == len(SETTINGS)
    assert all(setting.name.startswith("HAUBERK_") and setting.meaning for setting in SETTINGS)


def test_paths_are_made_absolute_and_what_is_not_set_stays_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    environment = {"HAUBERK_BUNDLE": "bundles/mine", "HAUBERK_SECRET_FILE": "/run/key", "HAUBERK_MODES": "strip=off"}
    make_paths_absolute(environment)
    mine = str(tmp_path / "bundles" / "mine")
    assert environment == {"HAUBERK_BUNDLE": mine, "HAUBERK_SECRET_FILE": "/run/key", "HAUBERK_MODES": "strip=off"}
    empty = {"HAUBERK_BUNDLE": ""}
    make_paths_absolute(empty)
    assert empty == {"HAUBERK_BUNDLE": ""}


def test_every_variable_is_read(tmp_path: Path) -> None:
    clients = tmp_path / "clients.toml"
    clients.write_text(f'[clients.ward]\nkey_sha256 = "{"0" * 64}"\n')
    settings = read_settings(
        {
            "HAUBERK_BUNDLE": "/models/fashion",
            "HAUBERK_BUNDLE_SHA256": "0123456789abcdef" * 4,
            "HAUBERK_SECRET": KEY,
            "HAUBERK_MODES": "strip=monitor, reverse_sigmoid=off",
            "HAUBERK_MAX_IMAGES": "8",
            "HAUBERK_CLIENTS_FILE": str(clients),
            "HAUBERK_IMAGES_PER_MINUTE": "600",
            "HAUBERK_MAX_MODEL_CALLS": "800",
            "HAUBERK_MAX_BODY_BYTES": "1000",
            "HAUBERK_HELD_BYTES": "9000",
            "HAUBERK_DRAIN_S": "0",
            "HAUBERK_METRICS_HOST": "10.0.0.1",
            "HAUBERK_METRICS_PORT": "9100",
            "HAUBERK_HOSTS": "gateway.example.com, [2001:db8::1]",
            "HAUBERK_BATCH_IMAGES": "16",
            "HAUBERK_QUEUE_IMAGES": "32",
            "HAUBERK_DEADLINE_S": "2.5",
            "HAUBERK_RELEASE_S": "0.05",
            "HAUBERK_THREADS": "3",
            "HAUBERK_ACCESS_LOG": "off",
            "HAUBERK_AUDIT_FILE": "/var/log/hauberk/audit.jsonl",
            "HAUBERK_AUDIT_BYTES": "1000000",
            "HAUBERK_AUDIT_FILES": "4",
            "HAUBERK_TRACING": "on",
            "HAUBERK_BANNER": "1",
        }
    )
    assert settings == Settings(
        bundle=Path("/models/fashion"),
        bundle_sha256="0123456789abcdef" * 4,
        secret=KEY.encode(),
        modes={"strip": "monitor", "reverse_sigmoid": "off"},
        max_images=8,
        max_images_is_default=False,
        clients=(Client("ward", "0" * 64),),
        clients_file=clients,
        images_per_minute=600,
        max_model_calls=800,
        max_body_bytes=1000,
        held_bytes=9000,
        drain_s=0.0,
        metrics_host="10.0.0.1",
        metrics_port=9100,
        hosts=("gateway.example.com", "[2001:db8::1]"),
        batch_images=16,
        queue_images=32,
        deadline_s=2.5,
        release_s=0.05,
        threads=3,
        access_log=False,
        audit_file=Path("/var/log/hauberk/audit.jsonl"),
        audit_bytes=1_000_000,
        audit_files=4,
        tracing=True,
        announce=True,
    )


def test_an_unknown_variable_is_refused_by_name() -> None:
    message = refused({"HAUBERK_MODE": "x"})
    assert message.startswith("unknown setting HAUBERK_MODE; did you mean HAUBERK_MODES? Known are HAUBERK_ACCESS_LOG, ")
    assert refused({"HAUBERK_QQQ": "x"}).startswith("unknown setting HAUBERK_QQQ; known are HAUBERK_ACCESS_LOG, ")


@pytest.mark.parametrize(
    ("text", "size"),
    [("1000", 1000), ("512KiB", 512 << 10), ("64MiB", 64 << 20), ("64 MiB", 64 << 20), ("2GiB", 2 << 30), (" 7 ", 7)],
)
def test_a_size_is_a_number_of_bytes_or_has_the_unit_that_the_documents_write(text: str, size: int) -> None:
    assert read_settings({"HAUBERK_AUDIT_BYTES": text}).audit_bytes == size


@pytest.mark.parametrize("text", ["64MB", "64M", "1.5MiB", "MiB", "0KiB", "-1MiB", "64mib", "64  MiB", "1e9", "9" * 5000])
def test_a_size_in_any_other_unit_is_refused_with_the_ones_that_are_read(text: str) -> None:
    assert refused({"HAUBERK_MAX_BODY_BYTES": text}).endswith(f"such as 1000000, 512KiB or 64MiB, got {text!r}")


@pytest.mark.parametrize(
    "name",
    ["SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", "PORT_3000_TCP", "PORT_3000_TCP_ADDR", "PORT_3000_TCP_PROTO"],
)
def test_what_kubernetes_says_about_a_service_called_hauberk_is_no_setting(name: str) -> None:
    assert read_settings({f"HAUBERK_{name}": "tcp://10.0.0.1:3000"}).max_images == 64


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HAUBERK_MAX_IMAGES", "0"),
        ("HAUBERK_MAX_IMAGES", "many"),
        ("HAUBERK_MAX_BODY_BYTES", "-1"),
        ("HAUBERK_THREADS", "1.5"),
        ("HAUBERK_DEADLINE_S", "0"),
        ("HAUBERK_DEADLINE_S", "nan"),
        ("HAUBERK_DEADLINE_S", "inf"),
        ("HAUBERK_DEADLINE_S", "soon"),
        ("HAUBERK_DRAIN_S", "21"),
        ("HAUBERK_DRAIN_S", "-1"),
        ("HAUBERK_METRICS_PORT", "65536"),
        ("HAUBERK_BUNDLE_SHA256", "0123"),
        ("HAUBERK_HOSTS", "gateway:3000"),
        ("HAUBERK_HOSTS", "http://gateway"),
        ("HAUBERK_HOSTS", "a,,b"),
        ("HAUBERK_IMAGES_PER_MINUTE", "0"),
        ("HAUBERK_MAX_MODEL_CALLS", "few"),
        ("HAUBERK_HELD_BYTES", "1e9"),
        ("HAUBERK_CLIENTS_FILE", "/nowhere"),
        ("HAUBERK_ACCESS_LOG", "perhaps"),
        ("HAUBERK_MODES", "strip"),
        ("HAUBERK_MODES", "strip=loud"),
        ("HAUBERK_MODES", "moat=off"),
    ],
)
def test_a_value_that_cannot_be_is_refused_and_named(name: str, value: str) -> None:
    message = refused({name: value})
    assert name in message or name == "HAUBERK_MODES"


ROOM = pytest.mark.parametrize("name", ["HAUBERK_BATCH_IMAGES", "HAUBERK_QUEUE_IMAGES"])


@ROOM
def test_a_largest_request_that_was_asked_for_fits_in_a_batch_and_in_the_queue(name: str) -> None:
    assert refused({name: "10", "HAUBERK_MAX_IMAGES": "20"}) == (
        f"expected {name} to be at least HAUBERK_MAX_IMAGES, got 10 and 20; raise {name} to 20 or lower HAUBERK_MAX_IMAGES to 10"
    )
    for advised in ({name: "20", "HAUBERK_MAX_IMAGES": "20"}, {name: "10", "HAUBERK_MAX_IMAGES": "10"}):
        assert read_settings(advised).max_images == int(advised["HAUBERK_MAX_IMAGES"])
    assert "got 64 and 80" in refused({"HAUBERK_MAX_IMAGES": "80"})  # a batch's own default


@ROOM
@pytest.mark.parametrize(("stated", "most"), [(7, 7), (10, 10), (64, 10), (None, 10)])
def test_where_none_was_asked_for_the_smaller_of_the_bundles_limit_and_the_room_holds(
    name: str, stated: int | None, most: int
) -> None:
    settings = read_settings({name: "10"})
    assert settings.max_images == 10
    served = settings.for_bundle(stated)
    assert served.max_images == most
    assert min(served.batch_images, served.queue_at_most((28, 28, 1))) >= most


def test_answers_leave_before_their_deadline() -> None:
    assert "at most HAUBERK_DEADLINE_S, got 3 and 2" in refused({"HAUBERK_RELEASE_S": "3", "HAUBERK_DEADLINE_S": "2"})


def test_a_secret_comes_from_a_file_without_its_line_end(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b"\x00" + b"s" * 31 + b"\n")
    settings = read_settings({"HAUBERK_SECRET_FILE": str(file)})
    assert settings.secret == b"\x00" + b"s" * 31
    assert not settings.secret_is_random


def test_without_a_secret_each_start_draws_its_own() -> None:
    one, two = read_settings({}), read_settings({})
    assert one.secret_is_random
    assert len(one.secret) == 32
    assert one.secret != two.secret


def test_a_secret_never_shows() -> None:
    assert KEY not in repr(read_settings({"HAUBERK_SECRET": KEY}))


def test_a_secret_that_cannot_be_is_refused_without_being_shown(tmp_path: Path) -> None:
    assert refused({"HAUBERK_SECRET": "short"}).startswith("expected a secret of 16 to 64 bytes, got 5")
    assert refused({"HAUBERK_SECRET": "x" * 65}).startswith("expected a secret of 16 to 64 bytes, got 65")
    assert "got both" in refused({"HAUBERK_SECRET": KEY, "HAUBERK_SECRET_FILE": "/x"})
    assert "cannot be read: No such file" in refused({"HAUBERK_SECRET_FILE": str(tmp_path / "none")})


def test_the_body_limit_follows_the_input_shape_up_to_a_bound() -> None:
    settings = read_settings({})
    assert settings.body_at_most((28, 28, 1)) == 26 * 64 * 784 + 16384
    assert settings.body_at_most((224, 224, 3)) == 64 << 20
    assert read_settings({"HAUBERK_MAX_BODY_BYTES": "1000"}).body_at_most((28, 28, 1)) == 1000


def test_the_queue_and_the_bodies_held_follow_the_input_shape() -> None:
    settings = read_settings({})
    assert settings.queue_at_most((28, 28, 1)) == 1024
    assert settings.queue_at_most((224, 224, 3)) == (256 << 20) // (4 * 224 * 224 * 3)
    assert settings.queue_at_most((4096, 4096, 3)) == settings.max_images
    assert settings.held_at_most((28, 28, 1)) == 64 << 20
    assert settings.held_at_most((224, 224, 3)) == 512 << 20
    given = read_settings({"HAUBERK_QUEUE_IMAGES": "100", "HAUBERK_HELD_BYTES": "1000"})
    assert (given.queue_at_most((28, 28, 1)), given.held_at_most((28, 28, 1))) == (100, 1000)


@pytest.mark.parametrize("name", ["HAUBERK_SECRET_FILE", "HAUBERK_CLIENTS_FILE"])
def test_what_is_no_file_is_refused_and_not_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path / "pipe", "a named pipe"), (tmp_path, "a directory"), (Path("/dev/zero"), "a device")):
        assert refused({name: str(path)}) == f"{name} {path} cannot be read: it is {kind}, expected a file"
