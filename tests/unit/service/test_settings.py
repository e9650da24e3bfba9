"""What an operator can set, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.bundle import default_bundle_directory
from models.errors import InvalidInput
from service.settings import DEFAULTS, Settings, make_paths_absolute, read_settings

KEY = "0123456789abcdef"


def refused(environment: dict[str, str]) -> str:
    with pytest.raises(InvalidInput) as refusal:
        read_settings(environment)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_without_any_variable_the_defaults_hold() -> None:
    settings = read_settings({"HOME": "/root"})
    assert settings.bundle == default_bundle_directory()
    assert (settings.max_images, settings.batch_images, settings.queue_images, settings.deadline_s) == (64, 64, 1024, 10.0)
    assert settings.max_images_is_default
    assert settings.access_log
    assert not settings.announce
    assert 1 <= settings.threads <= 4


def test_every_setting_is_listed_once_and_says_what_it_means() -> None:
    assert len({default.name for default in DEFAULTS}) == len(DEFAULTS)
    assert all(default.name.startswith("HAUBERK_") and default.meaning for default in DEFAULTS)


def test_paths_are_made_absolute_and_what_is_not_set_stays_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    environment = {"HAUBERK_BUNDLE": "bundles/mine", "HAUBERK_SECRET_FILE": "/run/key", "HAUBERK_MODES": "strip=off"}
    make_paths_absolute(environment)
    mine = str(tmp_path / "bundles" / "mine")
    assert environment == {"HAUBERK_BUNDLE": mine, "HAUBERK_SECRET_FILE": "/run/key", "HAUBERK_MODES": "strip=off"}
    empty = {"HAUBERK_BUNDLE": ""}
    make_paths_absolute(empty)
    assert empty == {"HAUBERK_BUNDLE": ""}


def test_every_variable_is_read() -> None:
    settings = read_settings(
        {
            "HAUBERK_BUNDLE": "/models/fashion",
            "HAUBERK_SECRET": KEY,
            "HAUBERK_MODES": "strip=monitor, reverse_sigmoid=off",
            "HAUBERK_MAX_IMAGES": "8",
            "HAUBERK_MAX_BODY_BYTES": "1000",
            "HAUBERK_BATCH_IMAGES": "16",
            "HAUBERK_QUEUE_IMAGES": "32",
            "HAUBERK_DEADLINE_S": "2.5",
            "HAUBERK_THREADS": "3",
            "HAUBERK_ACCESS_LOG": "off",
            "HAUBERK_BANNER": "1",
        }
    )
    assert settings == Settings(
        bundle=Path("/models/fashion"),
        secret=KEY.encode(),
        modes={"strip": "monitor", "reverse_sigmoid": "off"},
        max_images=8,
        max_images_is_default=False,
        max_body_bytes=1000,
        batch_images=16,
        queue_images=32,
        deadline_s=2.5,
        threads=3,
        access_log=False,
        announce=True,
    )


def test_an_unknown_variable_is_refused_by_name() -> None:
    assert refused({"HAUBERK_MODE": "x"}).startswith("unknown setting HAUBERK_MODE; known are HAUBERK_ACCESS_LOG, ")


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
        ("HAUBERK_ACCESS_LOG", "perhaps"),
        ("HAUBERK_MODES", "strip"),
        ("HAUBERK_MODES", "strip=loud"),
        ("HAUBERK_MODES", "moat=off"),
    ],
)
def test_a_value_that_cannot_be_is_refused_and_named(name: str, value: str) -> None:
    message = refused({name: value})
    assert name in message or name == "HAUBERK_MODES"


@pytest.mark.parametrize("name", ["HAUBERK_BATCH_IMAGES", "HAUBERK_QUEUE_IMAGES"])
def test_the_largest_request_fits_in_a_batch_and_in_the_queue(name: str) -> None:
    assert f"expected {name} to be at least HAUBERK_MAX_IMAGES, got 10 and 64" == refused({name: "10"})


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
