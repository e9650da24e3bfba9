"""Labs on directories of their own, with the quick worker of tests/lab_worker.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from lab.access import WorkerUser
from lab.jobs import ScanCluster
from lab.limits import LabLimits
from lab.server import LabPlan, ServedLab

TOKEN = "the-token"  # noqa: S105  # of no lab but these
BASE = "http://127.0.0.1:3001"


@pytest.fixture
def make_lab(tmp_path: Path) -> Iterator[Callable[..., ServedLab]]:
    """Labs in one directory, one after the other."""
    made: list[ServedLab] = []

    def make(
        *,
        host: str = "127.0.0.1",
        data: Path | None = None,
        user: WorkerUser | None = None,
        cluster: ScanCluster | None = None,
        **limits: Any,
    ) -> ServedLab:
        while made:
            made.pop().close()
        plan = LabPlan(
            data=data or tmp_path / "lab",
            worker="tests.lab_worker",
            host=host,
            token=TOKEN,
            limits=LabLimits(**limits),
            user=user,
            cluster=cluster,
        )
        made.append(ServedLab(plan))
        return made[-1]

    yield make
    while made:
        made.pop().close()


def client(lab: ServedLab, **options: Any) -> httpx.AsyncClient:
    """Asks a lab in this process."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(lab), base_url=BASE, **options)


@asynccontextmanager
async def entered(lab: ServedLab) -> AsyncIterator[httpx.AsyncClient]:
    """A client with a session."""
    async with client(lab) as found:
        response = await found.get("/", params={"token": TOKEN})
        assert response.status_code == 303
        yield found


async def until_over(asking: httpx.AsyncClient, job: str) -> dict[str, Any]:
    """A job as it ends."""
    for _ in range(400):
        found: dict[str, Any] = (await asking.get(f"/jobs/{job}.json")).json()
        if found["over"]:
            return found
        await asyncio.sleep(0.05)
    raise AssertionError(found)
