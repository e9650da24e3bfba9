"""Samples of a scan: any of them is seen and marked, marks are kept by the server, and are in the file that is downloaded."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lab.errors import Refused
from lab.scans import marks
from lab.scans.marks import is_clean, is_suspicious
from lab.server import ServedLab
from lab.work.samples import write_samples
from models.datasets import Dataset
from models.progress import silent
from tests.fakes import noise
from tests.unit.lab.conftest import entered, until_over
from tests.unit.lab.work.test_worker import SHAPE, brought

SAMPLES, POISON = 200, (3, 5, 150)
POINTS = [[3, -1.5, 0.5, False, True], [5, -1.0, 0.0, False, True], [0, 0.5, 1.0, True, False], [1, 1.0, -1.0, False, False]]


def write_scan(place: Path) -> NDArray[np.bool_]:
    """What a scan leaves that holds three of 200 samples for poison, in a class with a name of its own; which are clean."""
    subject, images = brought(images=SAMPLES), noise(SAMPLES, SHAPE, 1)
    labels = subject.data.labels.copy()
    clean = np.ones(SAMPLES, bool)
    clean[list(POISON)] = False
    labels[~clean] = 1
    subject.data = Dataset(images, labels)
    written = json.loads(json.dumps(write_samples(subject, clean, place, silent)).replace('"1"', '"<b>one</b>"'))
    np.save(place / "is_clean.npy", clean)
    (place / "clusters-1.json").write_text(
        json.dumps({"class": "<b>one</b>", "label": 1, "samples": 9, "method": "spectral_signatures", "points": POINTS})
    )
    verdict = {"name": "1", "verdict": "poison", "samples": 6, "reason": "so"}
    result = {
        "verdict": "poison",
        "suspicious": len(POISON),
        "samples": SAMPLES,
        "poisoned_classes": ["<b>one</b>"],
        "methods": [{"method": "spectral_signatures", "classes": [verdict]}],
        "clusters": [{"class": "<b>one</b>", "label": 1, "poisoned": True, "samples": 9}],
        **written,
    }
    (place / "result.json").write_text(json.dumps(result))
    return clean


async def scanned(asking: httpx.AsyncClient, lab: ServedLab) -> tuple[str, str]:
    """The page of a subject that was scanned, and the id of the scan."""
    page = (await asking.post("/bring", json={"model": "/m/fine.onnx", "data": "/d/data.npz"})).json()["location"]
    job: str = (await asking.post(f"{page}/jobs/scan", json={})).json()["job"]
    assert (await until_over(asking, job))["state"] == "done"
    write_scan(lab.queue.place(job))
    return page, job


async def downloaded(asking: httpx.AsyncClient, job: str) -> list[bool]:
    response = await asking.get(f"/jobs/{job}/is_clean.npy")
    assert response.headers["content-disposition"] == 'attachment; filename="is_clean.npy"'
    found: list[bool] = np.load(io.BytesIO(response.content), allow_pickle=False).tolist()
    return found


def without(*poison: int) -> list[bool]:
    """is_clean of the samples, in which these are poison."""
    return [row not in poison for row in range(SAMPLES)]


def test_marks_are_counted_kept_and_downloaded(make_lab: Callable[..., ServedLab]) -> None:
    lab = make_lab()

    async def check() -> None:
        async with lab.running(), entered(lab) as asking:
            page, job = await scanned(asking, lab)
            assert await downloaded(asking, job) == without(*POISON)
            for row, poison, told in ((0, True, (1, 4)), (5, False, (2, 3)), (3, True, (2, 3))):
                marked = (await asking.post(f"/jobs/{job}/mark", json={"row": row, "poison": poison})).json()
                assert (marked["marked"], marked["suspicious"]) == told
            assert await downloaded(asking, job) == without(0, 3, 150)
            shown = (await asking.get(f"{page}/poison")).text
            assert 'data-shows="marked">2<' in shown
            assert "<b>one" not in shown
            assert shown.count(" checked") == 3
            assert (await asking.get(f"/jobs/{job}/samples/0.json")).json()["poison"] is True
            again = (await asking.post(f"/jobs/{job}/mark", json={"row": 0, "poison": False})).json()
            assert again["marked"] == 1
            assert await downloaded(asking, job) == without(3, 150)
            await asking.post(f"{page}/drop", json={})
            assert lab.state.marks(job) == {}

    asyncio.run(check())


def test_any_sample_is_seen_by_its_row_and_by_its_page(make_lab: Callable[..., ServedLab]) -> None:
    lab = make_lab()

    async def check() -> None:
        async with lab.running(), entered(lab) as asking:
            page, job = await scanned(asking, lab)
            images = noise(SAMPLES, SHAPE, 1)
            for row in (0, 150, SAMPLES - 1):
                said = (await asking.get(f"/jobs/{job}/samples/{row}.json")).json()
                assert (said["row"], said["suspicious"], said["pictured"]) == (row, row in POISON, True)
                picture = await asking.get(f"/jobs/{job}/samples/{row}.png")
                assert picture.headers["content-type"] == "image/png"
                pixels = np.asarray(Image.open(io.BytesIO(picture.content)))
                assert np.array_equal(pixels, np.rint(images[row, ..., 0] * 255))
            seen: list[str] = []
            groups = json.loads((lab.queue.place(job) / "result.json").read_text())["groups"]
            for group in range(len(groups)):
                shown = (await asking.get(f"{page}/poison?group={group}")).text
                seen += re.findall(r'<li data-sample="(\d+)"', shown)
            assert sorted(map(int, seen)) == list(range(SAMPLES))
            assert (await asking.get(f"{page}/poison?group=99")).status_code == 404
            assert (await asking.get(f"{page}/poison?group=x&page=-1&class=%00")).status_code == 200
            for row in (SAMPLES, 99_999_999_999):
                assert (await asking.get(f"/jobs/{job}/samples/{row}.json")).status_code == 422
                assert (await asking.get(f"/jobs/{job}/samples/{row}.png")).status_code == 422
            async with entered(lab) as another:
                for path in ("0.json", "0.png"):
                    assert (await another.get(f"/jobs/{job}/samples/{path}")).status_code == 404

    asyncio.run(check())


def test_clusters_are_drawn_in_the_page_with_a_link_to_every_point(make_lab: Callable[..., ServedLab]) -> None:
    lab = make_lab()

    async def check() -> None:
        async with lab.running(), entered(lab) as asking:
            page, job = await scanned(asking, lab)
            shown = (await asking.get(f"{page}/poison")).text
            assert re.findall(r'<a class="point (\w+)" href="/jobs/\w+/samples/(\d+).png"', shown) == [
                ("first", "1"), ("second", "0"), ("suspicious", "3"), ("suspicious", "5"),
            ]  # fmt: skip
            assert "4 of 9 samples are drawn" in shown
            await asking.post(f"/jobs/{job}/mark", json={"row": 1, "poison": True})
            assert 'class="point first marked"' in (await asking.get(f"{page}/poison?class=1")).text
            assert 'class="point' not in (await asking.get(f"{page}/poison?class=2")).text  # none was drawn of it

    asyncio.run(check())


def test_marks_of_no_sample_or_by_somebody_else_are_refused(
    make_lab: Callable[..., ServedLab], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = make_lab()

    async def check() -> None:
        async with lab.running(), entered(lab) as asking:
            page, job = await scanned(asking, lab)
            for form in (
                {"row": SAMPLES, "poison": True},
                {"row": -1, "poison": True},
                {"row": 0, "poison": 1},
                {"row": "x"},
                {"row": 0.5},
            ):
                assert (await asking.post(f"/jobs/{job}/mark", json=form)).status_code == 422
            reading = lab.state.jobs(lab.state.session(asking.cookies["hauberk_lab_3001"]) or "", page.split("/")[-1])[-1].id
            assert (await asking.post(f"/jobs/{reading}/mark", json={"row": 0, "poison": True})).status_code == 422
            assert (await asking.get(f"/jobs/{reading}/is_clean.npy")).status_code == 422
            assert (await asking.get(f"/jobs/{reading}/samples/0.json")).status_code == 422
            async with entered(lab) as another:
                assert (await another.post(f"/jobs/{job}/mark", json={"row": 0, "poison": True})).status_code == 404
                assert (await another.get(f"/jobs/{job}/is_clean.npy")).status_code == 404
            assert lab.state.marks(job) == {}
            monkeypatch.setattr(marks, "MARKS_AT_MOST", 1)
            for row, status in ((0, 200), (1, 422), (0, 200)):
                assert (await asking.post(f"/jobs/{job}/mark", json={"row": row, "poison": True})).status_code == status

    asyncio.run(check())


def test_a_file_that_is_none_of_a_scan_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "numbers.npy", np.arange(4))
    np.save(tmp_path / "short.npy", np.array([True, False]))
    (tmp_path / "text.npy").write_bytes(b"no array")
    (tmp_path / "link.npy").symlink_to(tmp_path / "short.npy")
    for name in ("numbers", "text", "link", "nothing", "short"):
        with pytest.raises(Refused):
            is_clean(tmp_path / f"{name}.npy", {4: True})
        with pytest.raises(Refused):
            is_suspicious(tmp_path / f"{name}.npy", 4)
    assert is_clean(tmp_path / "short.npy", {}) == (tmp_path / "short.npy").read_bytes()
    assert [is_suspicious(tmp_path / "short.npy", row) for row in (0, 1)] == [False, True]
