"""A lab whose scans are worked on by a Dask cluster: as elsewhere, and a sentence when there is none any more."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from models.bundle import standard_bundle_directory
from models.datasets import MNIST, load_dataset
from tests.service.test_lab import free_port, start

PATIENT_S = 180.0


def until_over(asking: httpx.Client, job: str) -> dict[str, Any]:
    ends = time.monotonic() + PATIENT_S
    while time.monotonic() < ends:
        found: dict[str, Any] = asking.get(f"/jobs/{job}.json").json()
        if found["over"]:
            return found
        time.sleep(0.2)
    raise AssertionError(found)


@pytest.mark.skipif(find_spec("distributed") is None, reason="needs hauberk[cluster]")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore:Sending large graph:UserWarning")
def test_a_scan_goes_to_the_cluster_and_says_so_when_it_is_gone(tmp_path: Path) -> None:
    from distributed import LocalCluster

    data = load_dataset(MNIST, split="train").take(slice(0, 600))
    np.savez(tmp_path / "data.npz", images=data.images, labels=data.labels)
    cluster = LocalCluster(  # type: ignore[no-untyped-call,unused-ignore]
        n_workers=1, threads_per_worker=2, processes=False, protocol="tcp://", host="127.0.0.1", dashboard_address=None
    )
    address = re.sub(r"/+$", "", cluster.scheduler_address)
    lab = start(tmp_path / "lab", free_port(), "--backend", "dask", "--address", address)
    try:
        with httpx.Client(base_url=lab.base, follow_redirects=True) as asking:
            asking.get(lab.address)
            form = {"model": str(standard_bundle_directory() / "model.onnx"), "data": str(tmp_path / "data.npz")}
            path = asking.post("/bring", json=form).json()["location"]
            scanned = until_over(asking, asking.post(f"{path}/jobs/scan", json={}).json()["job"])
            assert scanned["state"] == "done", scanned
            assert cluster.scheduler is not None
            assert cluster.scheduler.transition_counter > 0
            cluster.close()
            refused = until_over(asking, asking.post(f"{path}/jobs/scan", json={}).json()["job"])
            assert refused["state"] == "refused"
            assert refused["sentence"].startswith(f"Expected a Dask scheduler at {address}, but cannot reach it")
            assert asking.get("/").status_code == 200
    finally:
        cluster.close()
        lab.end()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--backend", "dask"], "expected --backend dask with --address tcp://HOST:PORT"),
        (["--address", "tcp://127.0.0.1:8786"], "expected --backend dask with --address tcp://HOST:PORT"),
        (["--backend", "dask", "--address", "somewhere"], "expected --backend dask with --address tcp://HOST:PORT"),
        (["--user", "no-such-user"], "expected --user "),
    ],
)
def test_options_that_cannot_be_used_are_one_sentence_and_code_2(tmp_path: Path, options: list[str], sentence: str) -> None:
    command = [sys.executable, "-c", "from hauberk.main import main; main()", "lab", "--port", str(free_port())]
    ran = subprocess.run([*command, "--data", str(tmp_path / "lab"), *options], capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert sentence in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
