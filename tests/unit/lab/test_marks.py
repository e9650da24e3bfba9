"""Samples of a scan that a person marks: kept by the server, bounded to what was shown, and in the file that is downloaded."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from lab.errors import Refused
from lab.marks import is_clean, suspicions
from lab.server import ServedLab
from lab.work.commands import groups
from models.accuracy import judge
from models.datasets import Dataset
from tests.fakes import linear, noise
from tests.unit.lab.conftest import entered, until_over
from tests.unit.lab.work.test_worker import SHAPE, brought

CLEAN = np.array([True, False, True, True, False, True])


def scan_result() -> dict[str, Any]:
    """A scan that holds two of six samples for poison, and shows four."""
    sides = {True: (1, 4), False: (0, 2)}
    return {
        "verdict": "poison",
        "suspicious": 2,
        "samples": 6,
        "poisoned_classes": ["<b>one</b>"],
        "methods": [
            {"method": "spectral_signatures", "classes": [{"name": "1", "verdict": "poison", "samples": 6, "reason": "so"}]}
        ],
        "groups": [
            {
                "class": "<b>one</b>",
                "suspicious": side,
                "samples": 3,
                "pictures": [{"row": row, "file": f"sample-{row}.png", "answer": "two"} for row in rows],
            }
            for side, rows in sides.items()
        ],
    }


async def scanned(asking: httpx.AsyncClient, lab: ServedLab) -> tuple[str, str]:
    """The page of a subject that was scanned, and the id of the scan."""
    page = (await asking.post("/bring", json={"model": "/m/fine.onnx", "data": "/d/data.npz"})).json()["location"]
    job: str = (await asking.post(f"{page}/jobs/scan", json={})).json()["job"]
    assert (await until_over(asking, job))["state"] == "done"
    (lab.queue.place(job) / "result.json").write_text(json.dumps(scan_result()))
    np.save(lab.queue.place(job) / "is_clean.npy", CLEAN)
    return page, job


async def downloaded(asking: httpx.AsyncClient, job: str) -> list[bool]:
    response = await asking.get(f"/jobs/{job}/is_clean.npy")
    assert response.headers["content-disposition"] == 'attachment; filename="is_clean.npy"'
    found: list[bool] = np.load(io.BytesIO(response.content), allow_pickle=False).tolist()
    return found


def test_marks_are_counted_kept_and_downloaded(make_lab: Callable[..., ServedLab]) -> None:
    lab = make_lab()

    async def check() -> None:
        async with lab.running(), entered(lab) as asking:
            page, job = await scanned(asking, lab)
            assert await downloaded(asking, job) == CLEAN.tolist()
            for row, poison, told in ((0, True, (1, 3)), (4, False, (2, 2)), (1, True, (2, 2))):
                marked = (await asking.post(f"/jobs/{job}/mark", json={"row": row, "poison": poison})).json()
                assert (marked["marked"], marked["suspicious"]) == told
            assert await downloaded(asking, job) == [False, False, True, True, True, True]
            shown = (await asking.get(f"{page}/poison")).text
            assert 'data-shows="marked">2<' in shown
            assert "&lt;b&gt;one&lt;/b&gt;" in shown
            assert shown.count(" checked") == 2
            again = (await asking.post(f"/jobs/{job}/mark", json={"row": 0, "poison": False})).json()
            assert again["marked"] == 1
            assert await downloaded(asking, job) == [True, False, True, True, True, True]
            await asking.post(f"{page}/drop", json={})
            assert lab.state.marks(job) == {}

    asyncio.run(check())


def test_marks_of_what_was_not_shown_or_by_somebody_else_are_refused(make_lab: Callable[..., ServedLab]) -> None:
    lab = make_lab()

    async def check() -> None:
        async with lab.running(), entered(lab) as asking:
            page, job = await scanned(asking, lab)
            for form in (
                {"row": 3, "poison": True},
                {"row": -1, "poison": True},
                {"row": 0, "poison": 1},
                {"row": "x"},
                {"row": 0.5},
            ):
                assert (await asking.post(f"/jobs/{job}/mark", json=form)).status_code == 422
            reading = lab.state.jobs(lab.state.session(asking.cookies["hauberk_lab_3001"]) or "", page.split("/")[-1])[-1].id
            assert (await asking.post(f"/jobs/{reading}/mark", json={"row": 0, "poison": True})).status_code == 422
            assert (await asking.get(f"/jobs/{reading}/is_clean.npy")).status_code == 422
            async with entered(lab) as another:
                assert (await another.post(f"/jobs/{job}/mark", json={"row": 0, "poison": True})).status_code == 404
                assert (await another.get(f"/jobs/{job}/is_clean.npy")).status_code == 404
            assert lab.state.marks(job) == {}

    asyncio.run(check())


def test_a_file_that_is_none_of_a_scan_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "numbers.npy", np.arange(4))
    np.save(tmp_path / "short.npy", CLEAN[:2])
    (tmp_path / "text.npy").write_bytes(b"no array")
    (tmp_path / "link.npy").symlink_to(tmp_path / "short.npy")
    for name in ("numbers", "text", "link", "nothing", "short"):
        with pytest.raises(Refused):
            is_clean(tmp_path / f"{name}.npy", {4: True})
    assert is_clean(tmp_path / "short.npy", {}) == (tmp_path / "short.npy").read_bytes()


def test_pictures_of_a_scan_are_of_both_sides_of_every_class_and_so_many(tmp_path: Path) -> None:
    clean = np.ones(60, bool)
    subject = brought()
    clean[np.flatnonzero(subject.data.labels == 2)[:3]] = False
    found = groups(subject, clean, tmp_path)
    assert [(one["class"], one["suspicious"]) for one in found][:2] == [("2", True), ("2", False)]
    assert all((tmp_path / one["file"]).is_file() for group in found for one in group["pictures"])
    said = suspicions({"groups": found})
    assert [row for row, poison in said.items() if poison] == np.flatnonzero(~clean).tolist()
    assert all(len(group["pictures"]) == min(12, group["samples"]) for group in found if not group["suspicious"])


def test_pictures_of_many_classes_are_bounded(tmp_path: Path) -> None:
    classifier, data = linear(SHAPE, 40), Dataset(noise(800, SHAPE, 1), np.arange(800) % 40)
    subject = brought()
    subject.classifier, subject.data, subject.accuracy = classifier, data, judge(classifier, data, advice=None)
    found = groups(subject, np.arange(800) % 2 == 0, tmp_path)
    assert sum(len(group["pictures"]) for group in found) == len(list(tmp_path.iterdir())) == 240
