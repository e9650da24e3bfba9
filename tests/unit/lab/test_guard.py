"""Who comes into the lab."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from lab.guard import HEADERS
from lab.server import ServedLab
from tests.unit.lab.conftest import TOKEN, client, entered


def test_without_a_session_every_page_is_locked_and_says_how_to_get_in(make_lab: Callable[..., ServedLab]) -> None:
    async def check() -> None:
        async with client(make_lab()) as asking:
            for path in ("/", "/s/example", "/s/example/attack", "/jobs/0", "/nothing"):
                response = await asking.get(path)
                assert response.status_code == 401
                assert "?token=" in response.text
            assert (await asking.get("/static/lab.css")).status_code == 200
            assert (await asking.post("/bring", json={})).status_code == 401

    asyncio.run(check())


def test_the_token_begins_a_session_and_leaves_the_address(make_lab: Callable[..., ServedLab]) -> None:
    async def check() -> None:
        async with client(make_lab()) as asking:
            response = await asking.get("/s/example", params={"token": TOKEN, "a": "b"})
            assert (response.status_code, response.headers["location"]) == (303, "/s/example?a=b")
            cookie = response.headers["set-cookie"]
            assert cookie.startswith("hauberk_lab_3001=")
            assert {"HttpOnly", "SameSite=strict"} <= {part.strip() for part in cookie.split(";")}
            assert TOKEN not in cookie
            assert (await asking.get("/s/example")).status_code == 200

    asyncio.run(check())


@pytest.mark.parametrize("token", ["", "another", "the-toke", "the-token\u00e9"])
def test_another_token_does_not(make_lab: Callable[..., ServedLab], token: str) -> None:
    async def check() -> None:
        async with client(make_lab()) as asking:
            response = await asking.get("/", params={"token": token})
            assert response.status_code == 401
            assert "set-cookie" not in response.headers

    asyncio.run(check())


def test_the_address_after_the_token_is_never_that_of_another_server(make_lab: Callable[..., ServedLab]) -> None:
    async def check() -> None:
        async with client(make_lab()) as asking:
            response = await asking.get("http://127.0.0.1:3001//evil.example/", params={"token": TOKEN})
            assert response.headers["location"] == "/evil.example/"

    asyncio.run(check())


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "evil.example:3001"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:3000"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_other_sites_are_refused_even_with_token_and_cookie(make_lab: Callable[..., ServedLab], headers: dict[str, str]) -> None:
    async def check() -> None:
        async with entered(make_lab()) as asking:
            assert (await asking.get("/", headers=headers)).status_code == 403
            assert (await asking.get("/", params={"token": TOKEN}, headers=headers)).status_code == 403
            assert (await asking.post("/bring", json={}, headers=headers)).status_code == 403

    asyncio.run(check())


def test_every_answer_has_a_policy_that_allows_nothing_from_elsewhere_and_nothing_inline(
    make_lab: Callable[..., ServedLab],
) -> None:
    async def check() -> None:
        async with entered(make_lab()) as asking:
            for path in (
                "/",
                "/s/example",
                "/s/example/defend",
                "/s/nothing",
                "/static/lab.js",
                "/jobs/example-read/files/picture-0.png",
            ):
                response = await asking.get(path)
                assert all(response.headers[name] for name in HEADERS)
                policy = response.headers["content-security-policy"]
                assert "unsafe" not in policy
                assert "require-trusted-types-for 'script'" in policy
                if "html" in response.headers["content-type"]:
                    assert not any(
                        inline in response.text for inline in ("<script>", "style=", "onclick", "<style", "http://", "https://")
                    )

    asyncio.run(check())


def test_a_session_sees_its_own_only(make_lab: Callable[..., ServedLab], tmp_path: Any) -> None:
    async def check() -> None:
        lab = make_lab()
        async with entered(lab) as one, entered(lab) as other:
            brought = await one.post("/bring", json={"model": "/m/fine.onnx", "data": "/d/data.npz", "title": "mine"})
            path = brought.json()["location"]
            job = lab.state.jobs(lab.state.session(one.cookies["hauberk_lab_3001"]) or "", path.split("/")[-1])[0]
            assert (await one.get(path)).status_code == 200
            assert (await one.get(f"/jobs/{job.id}")).status_code == 200
            assert "mine" in (await one.get("/")).text
            for hidden in (
                path,
                f"{path}/attack",
                f"/jobs/{job.id}",
                f"/jobs/{job.id}.json",
                f"/jobs/{job.id}/files/result.json",
            ):
                assert (await other.get(hidden)).status_code == 404
            for acting in (f"{path}/drop", f"{path}/jobs/read", f"/jobs/{job.id}/cancel"):
                assert (await other.post(acting, json={})).status_code == 404
            assert "mine" not in (await other.get("/")).text

    asyncio.run(check())


def test_a_lab_has_its_directory_for_itself(make_lab: Callable[..., ServedLab]) -> None:
    lab = make_lab()
    with pytest.raises(Exception, match="another lab uses"):
        ServedLab(lab.plan)
    assert lab.plan.data.stat().st_mode & 0o077 == 0
    assert TOKEN not in repr(lab.plan)
