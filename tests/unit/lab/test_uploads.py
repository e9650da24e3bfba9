"""Uploads, and the forms that name them."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from lab.errors import Refused
from lab.server import ServedLab
from lab.uploads import PREFIX
from tests.unit.lab.conftest import entered


def test_an_upload_is_named_by_a_form_and_kept_under_a_safe_name(make_lab: Callable[..., ServedLab]) -> None:
    lab = make_lab()

    async def check() -> None:
        async with entered(lab) as asking:
            sent = await asking.put("/uploads/model", params={"name": "../../a b<script>.onnx"}, content=b"model")
            assert sent.status_code == 200
            assert sent.json()["name"] == "a_b_script_.onnx"
            data = (await asking.put("/uploads/data", params={"name": "d.npz"}, content=b"data")).json()["given"]
            brought = await asking.post("/bring", json={"model": sent.json()["given"], "data": data})
            page = await asking.get(brought.json()["location"] + "/take")
            assert "--classifier=a_b_script_.onnx" in page.text
            assert str(lab.plan.data) not in page.text
            [file] = (lab.plan.data / "uploads").rglob("*.onnx")
            assert file.read_bytes() == b"model"
            await asking.post(brought.json()["location"] + "/drop", json={})
            assert not list((lab.plan.data / "uploads").rglob("*.onnx"))

    asyncio.run(check())


@pytest.mark.parametrize(
    ("field", "name", "content", "sentence"),
    [
        ("model", "model.pkl", b"x", "Expected a file that ends in .keras"),
        ("model", "model", b"x", "Expected a file that ends in .keras"),
        ("data", "data.csv", b"x", "Expected a file that ends in .npz, .zip."),
        ("data", "data.npz", b"", "got an empty one"),
        ("data", "data.npz", b"x" * 2_000, "Expected a file of at most 0 MiB"),
        ("other", "data.npz", b"x", "Expected a model or data."),
    ],
)
def test_an_upload_that_cannot_be_taken_is_refused_beside_its_field(
    make_lab: Callable[..., ServedLab], field: str, name: str, content: bytes, sentence: str
) -> None:
    lab = make_lab(upload_bytes=1_000)

    async def check() -> None:
        async with entered(lab) as asking:
            sent = await asking.put(f"/uploads/{field}", params={"name": name}, content=content)
            assert sent.status_code == 422
            assert sentence in sent.json()["sentence"]
            assert sent.json()["field"] == (field if field != "other" else "")
            assert not [file for file in (lab.plan.data / "uploads").rglob("*") if file.is_file()]

    asyncio.run(check())


def test_all_uploads_of_a_session_together_are_bounded_and_ten_at_once_are_fine(make_lab: Callable[..., ServedLab]) -> None:
    lab = make_lab(session_bytes=10_000)

    async def check() -> None:
        async with entered(lab) as asking:
            sent = await asyncio.gather(
                *(asking.put("/uploads/data", params={"name": f"{at}.npz"}, content=b"x" * 900) for at in range(10))
            )
            assert {one.status_code for one in sent} == {200}
            more = await asking.put("/uploads/data", params={"name": "more.npz"}, content=b"x" * 2_000)
            assert more.status_code == 422
            assert "of a session in all" in more.json()["sentence"]

    asyncio.run(check())


def test_uploads_that_come_at_once_cannot_go_beyond_the_bound_together(make_lab: Callable[..., ServedLab]) -> None:
    lab = make_lab(session_bytes=10_000)

    async def slowly() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 100
            await asyncio.sleep(0)

    async def check() -> None:
        async with entered(lab) as asking:
            sent = await asyncio.gather(
                *(asking.put("/uploads/data", params={"name": f"{at}.npz"}, content=slowly()) for at in range(10))
            )
            taken = [one for one in sent if one.status_code == 200]
            assert len(taken) <= 5
            assert sum(file.stat().st_size for file in (lab.plan.data / "uploads").rglob("*.npz")) == 2000 * len(taken)

    asyncio.run(check())


def test_a_nearly_full_disk_is_said(make_lab: Callable[..., ServedLab]) -> None:
    lab = make_lab(disk_left_bytes=1 << 60)

    async def check() -> None:
        async with entered(lab) as asking:
            sent = await asking.put("/uploads/data", params={"name": "d.npz"}, content=b"x")
            assert sent.json() == {"field": "data", "sentence": "The disk is nearly full: delete something, and upload it again."}

    asyncio.run(check())


def test_uploads_of_another_session_cannot_be_named(make_lab: Callable[..., ServedLab]) -> None:
    lab = make_lab()

    async def check() -> None:
        async with entered(lab) as one, entered(lab) as other:
            given = (await one.put("/uploads/model", params={"name": "m.onnx"}, content=b"x")).json()["given"]
            for tried in (given, f"{PREFIX}../x", f"{PREFIX}0000000000000000", PREFIX):
                refused = await other.post("/bring", json={"model": tried, "data": "/d/data.npz"})
                assert refused.json()["field"] == "model"
                assert "uploaded in this session" in refused.json()["sentence"]

    asyncio.run(check())


def test_beyond_loopback_no_file_of_the_machine_can_be_named(make_lab: Callable[..., ServedLab]) -> None:
    lab = make_lab(host="0.0.0.0")  # noqa: S104  # nothing listens

    async def check() -> None:
        async with entered(lab) as asking:
            refused = await asking.post("/bring", json={"model": "/etc/passwd", "data": "/d/data.npz"})
            assert refused.json()["field"] == "model"
            assert "reads none of its own files" in refused.json()["sentence"]

    asyncio.run(check())


def test_an_upload_that_stands_still_is_ended_and_leaves_nothing(make_lab: Callable[..., ServedLab]) -> None:
    lab = make_lab(still_seconds=0.05)

    async def stuck() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.sleep(5)

    async def check() -> None:
        with pytest.raises(Refused, match="stood still"):
            await lab.bench.uploads.take("session", "data", "a.npz", stuck())
        assert not list((lab.plan.data / "uploads").rglob("*.npz"))

    asyncio.run(check())


def test_a_deletion_that_fails_does_not_end_those_after_it(
    make_lab: Callable[..., ServedLab], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lab, tried = make_lab(), []
    monkeypatch.setattr("lab.server._EXPIRE_S", 0.0)

    def expire() -> None:
        tried.append(1)
        raise PermissionError

    monkeypatch.setattr(lab.bench, "expire", expire)

    async def check() -> None:
        async with lab.running(), asyncio.timeout(5):
            while len(tried) < 3:
                await asyncio.sleep(0.01)

    asyncio.run(check())
    assert "could not be deleted" in caplog.text


def test_old_sessions_are_forgotten_with_their_uploads_and_results(make_lab: Callable[..., ServedLab]) -> None:
    lab = make_lab(keep_seconds=0.2)

    async def check() -> None:
        async with entered(lab) as asking:
            given = (await asking.put("/uploads/model", params={"name": "m.onnx"}, content=b"x")).json()["given"]
            await asking.post("/bring", json={"model": given, "data": "/d/data.npz"})
            assert list((lab.plan.data / "uploads").rglob("*.onnx"))
            time.sleep(0.3)
            lab.bench.expire()
            assert not list((lab.plan.data / "uploads").rglob("*.onnx"))
            assert (await asking.get("/")).status_code == 401

    asyncio.run(check())


@pytest.mark.parametrize(
    ("form", "field"),
    [
        ({}, "model"),
        ({"model": "/m/a.onnx"}, "data"),
        ({"model": "/m/a.onnx", "data": "/d.npz", "resize": "big"}, "resize"),
        ({"model": "/m/a.onnx", "data": "/d.npz", "channels": "cmyk"}, "channels"),
        ({"model": "/m/a.onnx", "data": "/d.npz", "split": "both"}, "split"),
        ({"model": "/m/a.onnx", "data": "/d.npz", "rows": "all"}, "rows"),
        ({"model": "/m/a.onnx", "data": "/d.npz", "order": "0,0"}, "order"),
        ({"model": "/m/a.onnx", "data": "/d.npz", "order": "one"}, "order"),
        ({"model": ["/m/a.onnx"], "data": "/d.npz"}, "model"),
        ({"model": "/m/a.onnx", "data": "/d.npz", "labels": "x" * 5000}, "labels"),
        ({"model": "/m/\0.onnx", "data": "/d.npz"}, "model"),
    ],
)
def test_a_form_is_refused_beside_the_field_it_is_about(
    make_lab: Callable[..., ServedLab], form: dict[str, object], field: str
) -> None:
    async def check() -> None:
        async with entered(make_lab()) as asking:
            refused = await asking.post("/bring", json=form)
            assert (refused.status_code, refused.json()["field"]) == (422, field)
            assert refused.json()["sentence"].endswith(".")

    asyncio.run(check())


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"a":' * 5000, b"x" * 100_000, b"\xff"])
def test_what_is_no_form_is_refused(make_lab: Callable[..., ServedLab], body: bytes) -> None:
    async def check() -> None:
        async with entered(make_lab()) as asking:
            for headers in ({"content-type": "application/json"}, {"content-type": "application/x-www-form-urlencoded"}):
                assert (await asking.post("/bring", content=body, headers=headers)).status_code == 422

    asyncio.run(check())


def test_the_state_is_readable_by_this_user_only(make_lab: Callable[..., ServedLab]) -> None:
    lab = make_lab()
    assert all(
        os.stat(place).st_mode & 0o077 == 0 for place in (lab.plan.data, *(lab.plan.data / one for one in ("uploads", "jobs")))
    )
    assert isinstance(lab.plan.data, Path)
