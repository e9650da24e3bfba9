"""Who asks: this machine, a page of another site, or another machine through a proxy."""

from __future__ import annotations

from typing import Any

import pytest

from service.edge.middleware import Edge
from service.edge.origins import Hosts
from service.edge.site import Route, Site
from service.errors import CrossSite
from tests.unit.service.edge.asking import JSON, Reply, ask, echo, serving

LOCAL, PUBLIC = Hosts.of("127.0.0.1"), Hosts.of("")
HERE = (b"host", b"127.0.0.1:3000")


def scope(*headers: tuple[bytes, bytes], server: Any = ("127.0.0.1", 3000), **more: Any) -> dict[str, Any]:
    return {"headers": headers, "server": server, "client": ("127.0.0.1", 50_000), "http_version": "1.1"} | more


@pytest.mark.parametrize("host", [b"127.0.0.1:3000", b"localhost:3000", b"LocalHost:3000", b"[::1]:3000"])
def test_a_program_on_this_machine_is_from_here_by_every_address_of_it(host: bytes) -> None:
    assert LOCAL.from_here(scope((b"host", host), (b"user-agent", b"curl/8.5.0"), (b"accept", b"*/*")))


def test_the_address_served_and_the_port_of_http_are_known() -> None:
    assert Hosts.of("127.0.0.2").from_here(scope((b"host", b"127.0.0.2:3000")))
    assert not LOCAL.from_here(scope((b"host", b"127.0.0.2:3000")))
    assert Hosts.of("::1").from_here(scope((b"host", b"[::1]"), server=("::1", 80)))
    assert LOCAL.from_here(scope((b"host", b"localhost"), server=("127.0.0.1", 80)))


def test_the_page_of_this_server_is_from_here() -> None:
    assert LOCAL.from_here(scope(HERE, (b"sec-fetch-site", b"same-origin")))
    assert LOCAL.from_here(scope(HERE, (b"sec-fetch-site", b"none")))
    assert LOCAL.from_here(scope(HERE, (b"origin", b"http://127.0.0.1:3000")))


FOREIGN_HOSTS = (
    b"evil.example:3000", b"127.0.0.1.evil.example:3000", b"127.0.0.1:3001", b"127.0.0.1", b"127.1:3000", b"localhost.:3000", b"",
    b"x@127.0.0.1:3000", b"0.0.0.0:3000", b"127.0.0.1:3000, evil.example",
)  # fmt: skip


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
def test_no_other_host_is_from_here(host: bytes) -> None:
    assert not LOCAL.from_here(scope((b"host", host)))


def test_no_host_and_two_are_not_from_here() -> None:
    assert not LOCAL.from_here(scope())
    assert not LOCAL.from_here(scope(HERE, HERE))


FOREIGN = (
    (b"origin", b"http://evil.example:3000"), (b"origin", b"null"), (b"origin", b"http://127.0.0.1:8080"), (b"origin", b""),
    (b"sec-fetch-site", b"cross-site"), (b"sec-fetch-site", b"same-site"), (b"sec-fetch-site", b""),
)  # fmt: skip
FORWARDED = (
    (b"x-forwarded-for", b"127.0.0.1"), (b"x-forwarded-host", b"127.0.0.1"), (b"x-forwarded-proto", b"https"), (b"forwarded", b"for=_x"),
    (b"via", b"1.1 proxy"), (b"x-real-ip", b"10.0.0.1"), (b"x-envoy-external-address", b"10.0.0.1"), (b"cf-connecting-ip", b"10.0.0.1"),
)  # fmt: skip


@pytest.mark.parametrize("header", [*FOREIGN, *FORWARDED])
def test_a_page_of_another_site_and_a_proxy_are_not_from_here(header: tuple[bytes, bytes]) -> None:
    assert not LOCAL.from_here(scope(HERE, header))
    assert not LOCAL.from_here(scope(header, HERE))


def test_two_origins_of_which_one_is_ours_are_not_from_here() -> None:
    for name, ours, other in (
        (b"origin", b"http://127.0.0.1:3000", b"http://evil.example"),
        (b"sec-fetch-site", b"same-origin", b"cross-site"),
    ):
        assert not LOCAL.from_here(scope(HERE, (name, ours), (name, other)))


def test_another_client_another_server_and_http_1_0_are_not_from_here() -> None:
    assert not LOCAL.from_here(scope(HERE, client=("10.0.0.7", 50_000)))
    assert not LOCAL.from_here(scope(HERE, server=("10.0.0.7", 3000)))
    assert not LOCAL.from_here(scope(HERE, server=None, client=None))
    assert not LOCAL.from_here(scope(HERE, http_version="1.0"))


@pytest.fixture
def local() -> Edge:
    return serving(Site(routes={"/echo": Route(echo, frozenset(("POST",)), frozenset((b"application/json",)), 10)}, hosts=LOCAL))


def posted(edge: Edge, *headers: tuple[bytes, bytes]) -> Reply:
    return ask(edge, headers=[*JSON, *headers], parts=[b"x"])


def test_programs_may_send_images_under_any_host(local: Edge) -> None:
    for headers in (
        [HERE],
        [(b"host", b"gateway.example")],
        [(b"host", b"gateway.example"), (b"x-forwarded-for", b"10.0.0.1")],
        [],
    ):
        assert posted(local, *headers).status == 200


def test_the_page_of_this_server_may_send_images(local: Edge) -> None:
    assert posted(local, HERE, (b"origin", b"http://127.0.0.1:3000"), (b"sec-fetch-site", b"same-origin")).status == 200
    assert posted(local, (b"host", b"localhost:8000"), (b"origin", b"http://localhost:8000")).status == 200  # through a tunnel


@pytest.mark.parametrize("header", FOREIGN)
def test_a_page_of_another_site_may_not(local: Edge, header: tuple[bytes, bytes]) -> None:
    posted(local, HERE, header).problem(403, "cross_site")
    posted(
        serving(Site(routes={"/echo": Route(echo, frozenset(("POST",)), frozenset((b"application/json",)), 10)}, hosts=PUBLIC)),
        HERE,
        header,
    ).problem(403, "cross_site")


def test_a_page_whose_name_was_made_to_lead_here_may_not(local: Edge) -> None:
    rebound = ((b"host", b"evil.example:3000"), (b"origin", b"http://evil.example:3000"))
    posted(local, *rebound).problem(403, "cross_site")
    posted(local, *rebound, (b"sec-fetch-site", b"same-origin"), (b"x-forwarded-for", b"10.0.0.1")).problem(403, "cross_site")


def test_beyond_loopback_every_name_is_ours_until_the_operator_says_which_are() -> None:
    page = scope((b"host", b"gateway.example"), (b"origin", b"https://gateway.example"))
    other = scope((b"host", b"evil.example"), (b"origin", b"http://evil.example"))
    for one in (page, other):
        PUBLIC.check_host(one)
        PUBLIC.check_browser(one)
    named = Hosts.of("10.0.0.7", ("Gateway.Example",))
    named.check_browser(page)
    for check in (named.check_host, named.check_browser):
        with pytest.raises(CrossSite):
            check(other)


def test_behind_a_proxy_on_this_machine_a_name_can_be_added_and_is_still_not_from_here() -> None:
    added, page = (
        Hosts.of("127.0.0.1", ("gateway.example",)),
        scope((b"host", b"gateway.example"), (b"origin", b"https://gateway.example")),
    )
    added.check_browser(page)
    with pytest.raises(CrossSite):
        LOCAL.check_host(page)
    assert not added.from_here(scope((b"host", b"gateway.example:3000")))
