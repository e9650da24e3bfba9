"""A server serves the bundle it was started with, and none that takes its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.errors import InvalidBundle
from service.lifecycle.one_bundle import PINNED, read_bundle_to_serve
from service.settings import read_settings
from tests import bundles


def test_the_first_process_that_reads_the_bundle_pins_it_for_those_that_follow(tmp_path: Path) -> None:
    bundle = bundles.write(tmp_path)
    environment = {"HAUBERK_BUNDLE": str(tmp_path)}
    assert read_bundle_to_serve(read_settings(environment), environment).digest == environment[PINNED] == bundle.digest
    bundles.replace_file(tmp_path, "model.keras", b"another model")
    with pytest.raises(InvalidBundle, match=r"start it again to serve another"):
        read_bundle_to_serve(read_settings(environment), environment)


def test_an_operator_may_say_which_bundle_it_has_to_be(tmp_path: Path) -> None:
    bundles.write(tmp_path)
    environment = {"HAUBERK_BUNDLE": str(tmp_path), PINNED: "0" * 64}
    with pytest.raises(InvalidBundle, match="to have sha256 000000000000"):
        read_bundle_to_serve(read_settings(environment), environment)
