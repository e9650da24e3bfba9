"""Keys are added and revoked while the server runs."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from service.edge.accounts import Clients, read_clients
from service.edge.client_file import ClientFile
from service.errors import Forbidden, OverBudget, Problem, Unauthorised


def entry(name: str, rest: str = "") -> str:
    return f'[clients.{name}]\nkey_sha256 = "{hashlib.sha256(f"key-of-{name}".encode()).hexdigest()}"\n{rest}\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "clients.toml"
    file.write_text(entry("ward", "images_per_minute = 10") + entry("lab"))
    return file


def write(path: Path, text: str) -> None:
    """As an operator does: beside it, then in its place; its time may be the same as before."""
    (path.parent / "new").write_text(text)
    os.utime(path.parent / "new", ns=(0, 0))
    os.replace(path.parent / "new", path)


def asked(clients: Clients, name: str, images: int = 1) -> type[Problem] | None:
    try:
        clients.account(f"Bearer key-of-{name}".encode(), "10.0.0.1").spend(images)
    except Problem as problem:
        return type(problem)
    return None


Watch = Callable[[str], None]


@pytest.fixture
def clients(path: Path) -> Clients:
    return Clients(read_clients(path), clock=lambda: 100.0)


@pytest.fixture
def change(path: Path, clients: Clients) -> Watch:
    """Writes the file anew and looks."""
    watched = ClientFile(path, clients)
    asyncio.run(watched.look())

    def changed(text: str) -> None:
        write(path, text)
        asyncio.run(watched.look())

    return changed


def test_a_key_that_is_removed_or_switched_off_is_refused_and_a_new_one_taken(clients: Clients, change: Watch) -> None:
    assert [asked(clients, name) for name in ("ward", "lab", "new")] == [None, None, Unauthorised]
    change(entry("ward", "enabled = false") + entry("new"))
    assert [asked(clients, name) for name in ("ward", "lab", "new")] == [Forbidden, Unauthorised, None]


def test_who_stays_keeps_what_is_left_of_the_budget_under_a_new_key_too(clients: Clients, change: Watch) -> None:
    assert asked(clients, "ward", 7) is None
    change(entry("ward", "images_per_minute = 10") + entry("new"))
    assert asked(clients, "ward", 4) is OverBudget  # which costs one
    other = hashlib.sha256(b"key-of-other").hexdigest()
    change(f'[clients.ward]\nkey_sha256 = "{other}"\nimages_per_minute = 10\n')
    assert [asked(clients, "ward"), asked(clients, "other", 3), asked(clients, "other")] == [Unauthorised, OverBudget, None]


def test_another_budget_holds_at_once_and_what_was_spent_stays_spent(clients: Clients, change: Watch) -> None:
    assert asked(clients, "ward", 5) is None
    change(entry("ward", "images_per_minute = 3"))
    assert [asked(clients, "ward", 3), asked(clients, "ward")] == [None, OverBudget]
    change(entry("ward"))
    assert asked(clients, "ward", 1000) is None
    change(entry("ward", "images_per_minute = 3"))
    assert [asked(clients, "ward", 3), asked(clients, "ward")] == [None, OverBudget]


@pytest.mark.parametrize("text", ["", "[clients.ward]\nkey = 1\n", "[clients", None])
def test_a_file_that_cannot_be_used_changes_nothing_and_is_told_of_once(
    path: Path, clients: Clients, text: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    watched = ClientFile(path, clients)
    asyncio.run(watched.look())
    if text is None:
        path.unlink()
        os.mkfifo(path)
    else:
        write(path, text)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            asyncio.run(watched.look())
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert caplog.messages[0].startswith("the clients stay as they were: ")
    assert [asked(clients, name) for name in ("ward", "lab", "new")] == [None, None, Unauthorised]
    path.unlink()
    write(path, entry("new"))
    asyncio.run(watched.look())
    assert [asked(clients, name) for name in ("lab", "new")] == [Unauthorised, None]


def test_what_was_written_between_the_start_and_the_first_look_is_seen(path: Path, clients: Clients) -> None:
    write(path, entry("lab"))
    asyncio.run(ClientFile(path, clients).look())
    assert asked(clients, "ward") is Unauthorised
