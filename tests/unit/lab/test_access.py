"""Workers under another user, as root: what they reach of the lab, and what they do not."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from lab.access import Access, WorkerUser
from lab.limits import LabLimits
from lab.server import ServedLab
from lab.uploads import Uploads
from models.errors import InvalidInput
from tests.unit.lab.conftest import entered, until_over
from tests.unit.lab.test_jobs import brought

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run workers as another user")
NOBODY = "nobody"


@pytest.fixture
def data() -> Iterator[Path]:
    """A directory that every user may enter, unlike pytest's."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        yield Path(made) / "lab"


@as_root
def test_a_worker_is_another_user_that_writes_into_its_folder_and_nowhere_else(
    make_lab: Callable[..., ServedLab], data: Path
) -> None:
    user = WorkerUser.named(NOBODY)
    lab = make_lab(data=data, user=user)

    async def check() -> None:
        async with lab.running(), entered(lab) as asking:
            path, job = await brought(asking, lab, "who.onnx")
            assert (await until_over(asking, job))["state"] == "done", lab.queue.log(job)
            found = lab.queue.result(job)
            assert found == {"uid": user.uid, "gid": user.gid, "groups": [], "could": []}
            assert (await asking.get(f"/jobs/{job}/files/picture-0.png")).content == b"\x89PNG"
            answer = (await asking.post(f"{path}/ask/one", json={})).json()
            assert (answer["uid"], answer["could"]) == (user.uid, [])

    asyncio.run(check())


@as_root
def test_an_upload_is_read_by_workers_and_only_its_folder_is_written(data: Path) -> None:
    user = WorkerUser.named(NOBODY)
    access = Access(user)
    for place in (data, data / "uploads"):
        access.passage(place)
    uploads = Uploads(data / "uploads", limits=LabLimits(), access=access)

    async def chunks() -> AsyncIterator[bytes]:
        yield b"model"

    given, name = asyncio.run(uploads.take("session", "model", "m.onnx", chunks()))
    path = uploads.path("session", "model", given)
    assert (name, os.stat(path).st_uid, os.stat(path).st_gid, os.stat(path).st_mode & 0o777) == ("m.onnx", 0, user.gid, 0o640)
    assert os.stat(path.parent).st_mode & 0o7777 == 0o1770
    for place in (data, data / "uploads", path.parents[1]):
        assert (os.stat(place).st_uid, os.stat(place).st_mode & 0o7777) == (0, 0o710)


@as_root
def test_a_link_that_a_worker_left_in_a_bundle_stays_a_link(data: Path) -> None:
    access = Access(WorkerUser.named(NOBODY))
    for place in (data, data / "uploads", data / "bundle"):
        access.passage(place)
    (data / "secret").write_text("root's")
    (data / "bundle" / "card.json").symlink_to(data / "secret")
    kept = Uploads(data / "uploads", limits=LabLimits(), access=access).keep("session", data / "bundle")
    assert (kept / "card.json").is_symlink()
    assert os.stat(data / "secret").st_gid != access.user.gid  # type: ignore[union-attr]  # there is one


@as_root
def test_a_user_that_may_not_enter_the_lab_s_directory_is_refused(data: Path) -> None:
    data.mkdir(mode=0o700)
    with pytest.raises(InvalidInput, match=f"directories that {NOBODY} may enter, got "):
        WorkerUser.named(NOBODY).check_enters(data)


@as_root
@pytest.mark.parametrize(
    ("name", "sentence"), [("no-such-user", "a user of this machine"), ("root", "other than root"), ("\0", "a user of")]
)
def test_a_user_that_is_none_is_refused(name: str, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        WorkerUser.named(name)
