"""Jobs: every end has a sentence, and the lab lives."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from lab.environment import NETWORK
from lab.jobs import NO_ROOM, ScanCluster, time_left
from lab.server import ServedLab
from lab.state import LOST, LabJob
from tests.unit.lab.conftest import entered, until_over


async def brought(asking: httpx.AsyncClient, lab: ServedLab, model: str) -> tuple[str, str]:
    """The path of a subject, and the id of the job that reads it."""
    response = await asking.post("/bring", json={"model": f"/m/{model}", "data": "/d/data.npz"})
    path = response.json()["location"]
    session = lab.state.session(asking.cookies["hauberk_lab_3001"])
    return path, lab.state.jobs(session or "", path.split("/")[-1])[0].id


def run(lab: ServedLab, model: str) -> dict[str, Any]:
    """The end of the job that reads this model."""

    async def check() -> dict[str, Any]:
        async with lab.running(), entered(lab) as asking:
            _, job = await brought(asking, lab, model)
            found = await until_over(asking, job)
            assert (await asking.get(f"/jobs/{job}")).status_code == 200
            return found

    return asyncio.run(check())


def test_a_job_runs_and_its_files_and_log_are_there(make_lab: Callable[..., ServedLab], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAUBERK_SECRET", "nobody's business")
    lab = make_lab()

    async def check() -> None:
        async with lab.running(), entered(lab) as asking:
            _, job = await brought(asking, lab, "fine.onnx")
            assert (await until_over(asking, job))["state"] == "done"
            assert "asked to read" in (await asking.get(f"/jobs/{job}")).text
            assert (await asking.get(f"/jobs/{job}/files/picture-0.png")).content == b"\x89PNG"
            (lab.queue.place(job) / "link.png").symlink_to(lab.plan.data / "lab.sqlite3")
            for name in ("link.png", "log.txt", "..%2flab.sqlite3", "../lab.sqlite3", "%2e%2e", "RESULT.json", ".hidden.png"):
                assert (await asking.get(f"/jobs/{job}/files/{name}")).status_code == 404
            result = lab.queue.result(job)
            assert result is not None
            assert "HAUBERK_SECRET" not in result["environment"]

    asyncio.run(check())


@pytest.mark.parametrize(
    ("model", "state", "sentence"),
    [
        ("dying.onnx", "failed", "The job ended: its process was ended by signal 9."),
        ("loud.onnx", "failed", "The job ended: it said more than a worker may say."),
        ("broken.onnx", "failed", "by a mistake of the lab"),
        ("wrong.onnx", "refused", "Expected a model, got something else."),
        ("odd.onnx", "done", ""),
    ],
)
def test_a_worker_that_misbehaves_ends_its_job_with_a_sentence(
    make_lab: Callable[..., ServedLab], model: str, state: str, sentence: str
) -> None:
    found = run(make_lab(), model)
    assert found["state"] == state
    assert sentence in found["sentence"]


def test_a_proposal_comes_with_the_refusal(make_lab: Callable[..., ServedLab]) -> None:
    found = run(make_lab(), "wrong.onnx")
    assert (found["field"], found["proposal"]) == ("model", {"input_range": "0,255"})


def test_a_job_that_takes_too_long_is_ended(make_lab: Callable[..., ServedLab]) -> None:
    found = run(make_lab(job_seconds=0.5), "slow.onnx")
    assert found["state"] == "failed"
    assert "longer than the 0 seconds" in found["sentence"]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is watched where /proc tells it")
def test_a_job_that_takes_too_much_memory_is_ended(make_lab: Callable[..., ServedLab]) -> None:
    found = run(make_lab(worker_bytes=150 << 20), "hungry.onnx")
    assert found["state"] == "failed"
    assert "150 MiB of memory" in found["sentence"]


def test_jobs_wait_for_one_another_and_can_be_cancelled_waiting_and_running(make_lab: Callable[..., ServedLab]) -> None:
    lab = make_lab()

    async def check() -> None:
        async with lab.running(), entered(lab) as asking:
            _, first = await brought(asking, lab, "slow.onnx")
            _, second = await brought(asking, lab, "slow.onnx")
            while not (running := (await asking.get(f"/jobs/{first}.json")).json())["progress"]:
                await asyncio.sleep(0.05)
            assert (running["state"], running["what"]) == ("running", "waiting")
            assert (await asking.get(f"/jobs/{second}.json")).json()["ahead"] == 1
            for job in (second, first):
                assert (await asking.post(f"/jobs/{job}/cancel", json={})).status_code == 200
                assert (await until_over(asking, job))["state"] == "cancelled"
            _, third = await brought(asking, lab, "fine.onnx")
            assert (await until_over(asking, third))["state"] == "done"

    asyncio.run(check())


def test_so_many_jobs_may_wait_and_no_more(make_lab: Callable[..., ServedLab]) -> None:
    lab = make_lab(queued=2)

    async def check() -> None:
        async with entered(lab) as asking:
            for _ in range(2):
                await brought(asking, lab, "fine.onnx")
            refused = await asking.post("/bring", json={"model": "/m/fine.onnx", "data": "/d/data.npz"})
            assert refused.status_code == 422
            assert refused.json() == {"field": "", "sentence": "2 jobs wait already; wait for one to end, or cancel it."}

    asyncio.run(check())


def test_a_restart_says_what_was_lost_and_goes_on_with_what_waited(make_lab: Callable[..., ServedLab]) -> None:
    lab = make_lab()

    async def interrupted() -> tuple[dict[str, str], str, str]:
        async with lab.running(), entered(lab) as asking:
            _, first = await brought(asking, lab, "slow.onnx")
            _, second = await brought(asking, lab, "fine.onnx")
            while not (await asking.get(f"/jobs/{first}.json")).json()["progress"]:
                await asyncio.sleep(0.05)
            return dict(asking.cookies), first, second

    cookies, first, second = asyncio.run(interrupted())
    again = make_lab()
    assert again.state.lost == 1

    async def after() -> None:
        async with again.running(), entered(again) as asking:
            asking.cookies.clear()
            asking.cookies.update(cookies)
            lost = (await asking.get(f"/jobs/{first}.json")).json()
            assert (lost["state"], lost["sentence"]) == ("lost", LOST)
            assert (await until_over(asking, second))["state"] == "done"

    asyncio.run(after())


def test_no_worker_is_left_when_the_lab_has_ended(make_lab: Callable[..., ServedLab]) -> None:
    lab = make_lab()

    async def check() -> int:
        async with lab.running(), entered(lab) as asking:
            _, job = await brought(asking, lab, "slow.onnx")
            while not (await asking.get(f"/jobs/{job}.json")).json()["progress"]:
                await asyncio.sleep(0.05)
            return next(iter(lab.queue._running.values())).pid

    pid = asyncio.run(check())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_worker_that_is_killed_from_outside_ends_its_job_and_the_next_one_runs(make_lab: Callable[..., ServedLab]) -> None:
    lab = make_lab()

    async def check() -> None:
        async with lab.running(), entered(lab) as asking:
            _, job = await brought(asking, lab, "slow.onnx")
            _, next_one = await brought(asking, lab, "fine.onnx")
            while not (await asking.get(f"/jobs/{job}.json")).json()["progress"]:
                await asyncio.sleep(0.05)
            os.kill(next(iter(lab.queue._running.values())).pid, signal.SIGKILL)
            found = await until_over(asking, job)
            assert (found["state"], found["sentence"]) == ("failed", "The job ended: its process was ended by signal 9.")
            assert (await until_over(asking, next_one))["state"] == "done"

    asyncio.run(check())


def test_files_of_a_job_are_there_when_it_is_over_and_not_before(make_lab: Callable[..., ServedLab]) -> None:
    lab = make_lab()

    async def check() -> None:
        async with lab.running(), entered(lab) as asking:
            _, job = await brought(asking, lab, "slow.onnx")
            while not (await asking.get(f"/jobs/{job}.json")).json()["progress"]:
                await asyncio.sleep(0.05)
            (lab.queue.place(job) / "picture-0.png").write_bytes(b"\x89PNG")
            assert (await asking.get(f"/jobs/{job}/files/picture-0.png")).status_code == 404
            await asking.post(f"/jobs/{job}/cancel", json={})
            assert (await asking.get(f"/jobs/{job}/files/picture-0.png")).status_code == 200

    asyncio.run(check())


def test_only_jobs_whose_commands_know_clusters_get_one_and_keep_the_network(make_lab: Callable[..., ServedLab]) -> None:
    lab = make_lab(cluster=ScanCluster("dask", "tcp://127.0.0.1:8786"))

    async def check() -> None:
        async with lab.running(), entered(lab) as asking:
            path, read = await brought(asking, lab, "fine.onnx")
            scan = (await asking.post(f"{path}/jobs/scan", json={"address": "tcp://10.0.0.1:1"})).json()["job"]
            for job, options in ((read, {}), (scan, {"backend": "dask", "address": "tcp://127.0.0.1:8786"})):
                assert (await until_over(asking, job))["state"] == "done"
                result = lab.queue.result(job)
                assert result is not None
                assert (result["options"], NETWORK in result["environment"]) == (options, bool(options))

    asyncio.run(check())


def test_a_full_disk_is_said_before_a_job_is_queued(make_lab: Callable[..., ServedLab], monkeypatch: pytest.MonkeyPatch) -> None:
    lab = make_lab()
    monkeypatch.setattr("lab.jobs._ROOM_LEFT", 1 << 60)

    async def check() -> None:
        async with entered(lab) as asking:
            refused = await asking.post("/bring", json={"model": "/m/fine.onnx", "data": "/d/data.npz"})
            assert (refused.status_code, refused.json()["sentence"]) == (422, NO_ROOM)

    asyncio.run(check())


def test_a_deleted_subject_takes_its_jobs_and_results_along(make_lab: Callable[..., ServedLab]) -> None:
    lab = make_lab()

    async def check() -> None:
        async with lab.running(), entered(lab) as asking:
            path, job = await brought(asking, lab, "fine.onnx")
            await until_over(asking, job)
            assert lab.queue.place(job).is_dir()
            assert (await asking.post(f"{path}/drop", json={})).json() == {"location": "/"}
            assert not lab.queue.place(job).exists()
            assert (await asking.get(path)).status_code == 404
            assert (await asking.post("/s/example/drop", json={})).status_code == 422

    asyncio.run(check())


def test_the_warm_worker_answers_again_after_it_was_killed_and_says_so_once(make_lab: Callable[..., ServedLab]) -> None:
    lab = make_lab(answer_seconds=5.0)

    async def check() -> None:
        async with lab.running(), entered(lab) as asking:
            dying, _ = await brought(asking, lab, "dying.onnx")
            fine, _ = await brought(asking, lab, "fine.onnx")
            refused = await asking.post(f"{dying}/ask/one", json={"attack": "fgm"})
            assert refused.status_code == 422
            assert "ended by signal 9" in refused.json()["sentence"]
            answer = await asking.post(f"{fine}/ask/one", json={"attack": "fgm"})
            assert answer.json()["options"] == {"attack": "fgm"}
            assert (await asking.post(f"{fine}/ask/shell", json={})).status_code == 422

    asyncio.run(check())


def test_the_time_that_is_left_follows_from_what_is_done() -> None:
    # Begun at 100 with 5 of 105 done, the 30th at 110: .4 s a step.
    progress = ("attacking", 30, 105, 100.0, 5, 110.0)
    job = LabJob("1", "", "", "attack", {}, "running", 0.0, started=90.0, progress=progress)
    assert time_left(job, 110.0) == pytest.approx(30.0)
    assert time_left(job, 115.0) == pytest.approx(25.0)  # a long step counts down, not up
    assert time_left(job, 200.0) == 0.0
    assert time_left(replace(job, progress=("attacking", 5, 105, 100.0, 5, 100.0)), 110.0) is None
    assert time_left(LabJob("1", "", "", "attack", {}, "queued", 0.0), 110.0) is None
