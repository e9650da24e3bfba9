"""Keys, and budgets of images a minute."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import pytest

from models.errors import InvalidInput
from service.edge.accounts import (
    READ_AT_ONCE_S,
    READ_BYTES_PER_S,
    REFUSED_AT_ONCE_S,
    REFUSED_BYTES_PER_S,
    Account,
    Client,
    Clients,
    read_clients,
)
from service.errors import Forbidden, OverBudget, Unauthorised

KEY = "the-key-of-the-ward"
DIGEST = hashlib.sha256(KEY.encode()).hexdigest()


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def retry_after(spend: OverBudget) -> int:
    return int(dict(spend.headers)[b"retry-after"])


def test_a_budget_is_spent_and_fills_evenly() -> None:
    clock = Clock()
    account = Account("ward", 60.0, clock)
    account.spend(50)
    account.spend(10)
    with pytest.raises(OverBudget) as spent:
        account.spend(5)
    assert retry_after(spent.value) == 5
    clock.now += 5
    account.spend(5)
    clock.now += 1000
    account.spend(60)
    with pytest.raises(OverBudget):
        account.spend(1)


def test_who_asks_for_more_than_a_minute_holds_waits_for_a_full_one_and_pays_later() -> None:
    clock = Clock()
    account = Account("ward", 60.0, clock)
    account.spend(90)
    with pytest.raises(OverBudget) as spent:
        account.spend(90)
    assert retry_after(spent.value) == 90
    clock.now += 90
    account.spend(90)


def test_what_the_server_failed_is_given_back() -> None:
    account = Account("ward", 60.0, Clock())
    account.spend(60)
    account.give_back(60)
    account.spend(60)


def test_to_ask_for_more_than_is_left_costs_one_image_and_who_waits_as_long_as_told_is_served() -> None:
    clock = Clock()
    account = Account("ward", 60.0, clock)
    account.spend(57)
    for left in (2, 1, 0, 0):
        with pytest.raises(OverBudget) as spent:
            account.spend(10)
        assert retry_after(spent.value) == 10 - left
    clock.now += 10
    account.spend(10)


def test_a_body_that_was_refused_costs_what_is_left_at_most() -> None:
    clock = Clock()
    account = Account("ward", 60.0, clock)
    account.charge(20)
    account.spend(40)
    clock.now += 5
    account.check()
    account.charge(64)
    with pytest.raises(OverBudget) as spent:
        account.check()
    assert retry_after(spent.value) == 1
    clock.now += 60
    account.spend(90)  # in debt
    account.charge(64)
    clock.now += 31
    account.check()


def test_without_a_budget_nothing_is_counted_and_each_address_is_an_account() -> None:
    clients = Clients()
    for i in range(3):
        clients.account(b"", f"10.0.0.{i}").spend(10**9)
    assert clients.account(b"", "10.0.0.1") is clients.account(b"", "::ffff:10.0.0.1")
    assert clients.account(b"", "10.0.0.1") is not clients.account(b"", "10.0.0.2")


def test_without_keys_each_address_has_a_budget_and_a_household_of_ipv6_one() -> None:
    clients = Clients(images_per_minute=10, clock=Clock())
    clients.account(b"", "10.0.0.1").spend(10)
    with pytest.raises(OverBudget):
        clients.account(b"", "10.0.0.1")
    with pytest.raises(OverBudget):
        clients.account(b"", "::ffff:10.0.0.1")
    clients.account(b"", "10.0.0.2").spend(10)
    clients.account(b"", "2001:db8::1").spend(10)
    with pytest.raises(OverBudget):
        clients.account(b"", "2001:db8::2")
    clients.account(b"", "2001:db8:0:1::1").spend(10)


def test_the_table_of_addresses_is_bounded_and_forgets_who_was_away_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.edge.accounts._ADDRESSES_AT_MOST", 3)
    clients = Clients(images_per_minute=10, clock=Clock())
    for last in (1, 2, 3, 1, 4):  # 2 goes
        clients.account(b"", f"10.0.0.{last}").spend(5)
    with pytest.raises(OverBudget):
        clients.account(b"", "10.0.0.1").spend(6)
    clients.account(b"", "10.0.0.2").spend(10)


@pytest.mark.parametrize(
    "authorization",
    [b"", b"Bearer", b"Bearer ", b"Basic " + KEY.encode(), b"Bearer wrong", KEY.encode(), b"Bearer " + b"x" * 600],
)
def test_a_request_without_a_known_key_is_nobodys(authorization: bytes) -> None:
    with pytest.raises(Unauthorised):
        Clients([Client("ward", DIGEST)]).account(authorization, "10.0.0.1")


def test_a_key_leads_to_its_client_with_its_own_budget_or_the_common_one() -> None:
    other = hashlib.sha256(b"other").hexdigest()
    clients = Clients([Client("ward", DIGEST, 5), Client("lab", other)], images_per_minute=7, clock=Clock())
    ward, lab = clients.account(b"Bearer " + KEY.encode(), "10.0.0.1"), clients.account(b"bearer other", "10.0.0.1")
    assert [(ward.name, ward.per_minute), (lab.name, lab.per_minute)] == [("ward", 5.0), ("lab", 7.0)]
    ward.spend(5)
    with pytest.raises(OverBudget):
        clients.account(b"Bearer " + KEY.encode(), "10.9.9.9")


def test_a_key_that_is_switched_off_is_forbidden() -> None:
    with pytest.raises(Forbidden):
        Clients([Client("ward", DIGEST, enabled=False)]).account(b"Bearer " + KEY.encode(), "")


def test_a_file_of_clients_is_read(tmp_path: Path) -> None:
    file = tmp_path / "clients.toml"
    file.write_text(
        f'[clients.ward]\nkey_sha256 = "{DIGEST}"\nimages_per_minute = 5\n[clients.lab]\nkey_sha256 = "{"0" * 64}"\nenabled = false\n'
    )
    assert read_clients(file) == (Client("ward", DIGEST, 5), Client("lab", "0" * 64, None, False))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected tables"),
        ("clients = 3", "expected tables"),
        ("[clients.a\n", "to be TOML"),
        ("[other.a]\n", "expected tables"),
        ("[clients.a]\n", "key_sha256"),
        ('[clients.a]\nkey_sha256 = "abc"\n', "64 lower-case hex digits"),
        (f'[clients.a]\nkey_sha256 = "{DIGEST}"\nkey = "x"\n', "got something else"),
        (f'[clients.a]\nkey_sha256 = "{DIGEST}"\nimages_per_minute = 0\n', "whole number"),
        (f'[clients.a]\nkey_sha256 = "{DIGEST}"\nenabled = 1\n', "true or false"),
        (f'[clients.a]\nkey_sha256 = "{DIGEST}"\n[clients.b]\nkey_sha256 = "{DIGEST}"\n', "got one twice"),
    ],
)
def test_a_file_that_cannot_be_is_refused_with_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "clients.toml"
    file.write_text(text)
    with pytest.raises(InvalidInput, match=says):
        read_clients(file)


def test_refusals_of_an_account_go_out_as_fast_as_their_bytes_may_after_a_burst_and_never_wait_longer_than_asked() -> None:
    clock = Clock()
    account, second = Account("", math.inf, clock), REFUSED_BYTES_PER_S
    assert account.refusal_waits_s(int(REFUSED_AT_ONCE_S * second), 10.0) == 0.0
    assert [account.refusal_waits_s(second // 2, 10.0) for _ in range(3)] == [0.5, 1.0, 1.5]
    clock.now += 1.0
    assert account.refusal_waits_s(second // 2, 10.0) == 1.0
    assert account.refusal_waits_s(100 * second, 10.0) == 10.0
    assert account.refusal_waits_s(100 * second, 10.0) == 10.0
    clock.now += 100.0
    assert account.refusal_waits_s(second, 10.0) == 0.0  # a burst again, and no longer one for having waited longer
    assert account.refusal_waits_s(second, 10.0) == 1.0


def test_a_refusal_without_a_body_waits_for_its_turn_too() -> None:
    account = Account("", math.inf, Clock())
    waits = [account.refusal_waits_s(0, 10.0) for _ in range(10_000)]
    assert waits[0] == 0.0
    assert waits[-1] > 0.0


def test_bodies_of_an_account_are_read_as_fast_as_their_bytes_may_and_one_that_would_wait_for_long_is_refused() -> None:
    clock = Clock()
    account, second = Account("", math.inf, clock), READ_BYTES_PER_S
    assert account.reading_waits_s(second) == 0.0
    assert account.reading_waits_s(second // 2) == pytest.approx(1.0 - READ_AT_ONCE_S)
    account.reading_took(-second // 2)  # it was shorter than its client had said
    assert account.reading_waits_s(second) == pytest.approx(1.0 - READ_AT_ONCE_S)
    assert account.reading_waits_s(second) == pytest.approx(2.0 - READ_AT_ONCE_S)
    assert account.reading_waits_s(1) is None
    clock.now += 1.0
    assert account.reading_waits_s(second) == pytest.approx(2.0 - READ_AT_ONCE_S)  # the one that was refused is not paid for
    clock.now += 100.0
    assert account.reading_waits_s(1) == 0.0
