"""python -m benchmarks real_sizes: a network of real size on its way through calibrate and serve, with time and memory.

MobileNetV2 at 224x224x3 with 1,000 classes, random weights behind statistics of pictures made from a seed (`textures.py`).
"""

from __future__ import annotations

import argparse
import io
import os
import re
import resource
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.harness.cells import LoadCell, Loader
from benchmarks.harness.peers import table
from benchmarks.harness.requests import http_request
from benchmarks.harness.servers import GATEWAY, ROOT, Contender, serving
from benchmarks.harness.wanted import Wanted
from models.bundle import Bundle, read_bundle

SIDE, CLASSES, CLEAN = 224, 1000, 1000
CELL_S = 60.0
_ROUNDS = 3
_SENT = 64
_MISLABELLED = 0.03
_SEED = 0
_MIB = 1 << 20
_OFF = "total_variation=off,strip=off,reverse_sigmoid=off"
_WANTED = {"minutes": 15.0, "calibrate_gb": 2.0, "ready_s": 30.0, "p50": 2.0}


@dataclass(frozen=True)
class Size:
    """What is tried: pictures of so many pixels a side and so many classes, so many of them to calibrate on."""

    side: int = SIDE
    classes: int = CLASSES
    clean: int = CLEAN
    width: float = 1.0

    @property
    def name(self) -> str:
        return f"MobileNetV2 (width {self.width:g}) at {self.side}x{self.side}x3 with {self.classes:,} classes"


@dataclass(frozen=True)
class Calibration:
    """One run of `hauberk calibrate`: seconds by the clock and of the processors, the most memory it held, and what it said."""

    clock_s: float
    processor_s: float
    peak_mib: float
    announced: str
    bundle: Bundle


@dataclass(frozen=True)
class ServedSize:
    """The two servers: seconds until each answered, MiB of each worker, and their cells under one client."""

    ready_s: tuple[float, float]
    worker_mib: tuple[float, float]
    cells: tuple[LoadCell, LoadCell]

    @property
    def p50_ratio(self) -> float:
        with_defences, without = self.cells
        return with_defences.percentile_ms(50) / without.percentile_ms(50)


def section(size: Size = Size(), cell_s: float = CELL_S) -> str:  # a frozen value
    """The page's section."""
    with TemporaryDirectory() as name:
        directory = Path(name)
        _make(size, directory)
        calibration = _calibrated(directory)
        served = _served(calibration.bundle, _requests(directory), directory, cell_s)
    return _text(size, calibration, served, cell_s)


def _make(size: Size, directory: Path) -> None:
    """Write model.keras, clean.npz and sent.npz, in a process of its own, whose memory is not that of what is measured."""
    options = ["--side", size.side, "--classes", size.classes, "--clean", size.clean, "--width", size.width, "--make", directory]
    subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.methods.real_sizes", *map(str, options)], cwd=ROOT, check=True
    )


def make(size: Size, directory: Path) -> None:
    """See `_make`. A few labels are wrong, as those of real data are."""
    from benchmarks.harness.textures import Textures, network

    textures, rng = Textures(size.side, size.classes, _SEED), np.random.default_rng(_SEED)
    network(textures, _SEED, size.width).save(directory / "model.keras")
    labels = rng.integers(0, size.classes, size.clean)
    given = np.where(rng.random(size.clean) < _MISLABELLED, rng.integers(0, size.classes, size.clean), labels)
    np.savez(directory / "clean.npz", images=textures.pictures(labels, _SEED + 10), labels=given)
    np.savez(directory / "sent.npz", images=textures.pictures(rng.integers(0, size.classes, _SENT), _SEED + 11))


def _calibrated(directory: Path) -> Calibration:
    """`hauberk calibrate` with its defaults, stderr in a file."""
    out, said = directory / "bundle", directory / "calibrate.txt"
    command = ["calibrate", "--classifier", directory / "model.keras", "--data", directory / "clean.npz", "--out", out]
    script = "from hauberk.main import main; main()"
    started = time.perf_counter()
    with said.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", script, *map(str, command)], cwd=ROOT, stdout=sys.stderr, stderr=stderr
        )
        _, status, used = os.wait4(process.pid, 0)
    clock_s = time.perf_counter() - started
    if status:
        raise RuntimeError(f"calibrate ended with {status}: {said.read_text()[-2000:]}")
    return Calibration(clock_s, used.ru_utime + used.ru_stime, _peak_mib(used), _announced(said.read_text()), read_bundle(out))


def _peak_mib(used: resource.struct_rusage) -> float:
    return used.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / _MIB


def _announced(said: str) -> str:
    """The announcement without what the machine's speed says of it."""
    found = re.search(r"(?m)^calibrating takes .*$", said)
    return found[0] if found else ""


def _requests(directory: Path) -> list[bytes]:
    with np.load(directory / "sent.npz") as sent:
        return [http_request("/predict/image", "image/jpeg", _jpeg(picture)) for picture in sent["images"]]


def _jpeg(picture: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=95)
    return file.getvalue()


def _served(bundle: Bundle, requests: list[bytes], directory: Path, cell_s: float) -> ServedSize:
    settings = {"HAUBERK_BUNDLE": str(bundle.directory), "HAUBERK_SECRET": "0123456789abcdef" * 2}
    contenders = (
        Contender("defences on", GATEWAY, settings),
        Contender("defences off", GATEWAY, settings | {"HAUBERK_MODES": _OFF}),
    )
    with ExitStack() as stack:
        servers = [stack.enter_context(serving(one, directory / one.name, requests[0])) for one in contenders]
        loader = Loader(directory, cell_s, _ROUNDS)
        cells = loader.alternate(servers, loader.prepare(requests))
        memory = [server.memory().worker for server in servers]
    return ServedSize((servers[0].ready_s, servers[1].ready_s), (memory[0], memory[1]), (cells[0], cells[1]))


def _text(size: Size, calibration: Calibration, served: ServedSize, cell_s: float) -> str:
    card, bundle = calibration.bundle.card, calibration.bundle
    usual = card["measured"]["calibration_images"]["mean_model_calls"]
    rows = [
        [
            name,
            f"{ready:.1f}",
            f"{memory:,.0f}",
            f"{cell.percentile_ms(50):.1f}",
            f"{cell.percentile_ms(99):.1f}",
            f"{cell.rate:.1f}",
        ]
        for name, ready, memory, cell in zip(("on", "off"), served.ready_s, served.worker_mib, served.cells, strict=True)
    ]
    header = ("defences", "first answer after s", "worker MiB", "p50 ms", "p99 ms", "requests/s")
    wanted = [
        Wanted("minutes of calibrate", _WANTED["minutes"], calibration.clock_s / 60, at_most=True),
        Wanted("GB of calibrate", _WANTED["calibrate_gb"], calibration.peak_mib * _MIB / 1e9, at_most=True),
        Wanted("seconds until the first answer", _WANTED["ready_s"], served.ready_s[0], at_most=True),
        Wanted("p50 with defences to without", _WANTED["p50"], served.p50_ratio, at_most=True),
    ]
    limits = [[one.what, f"<= {one.bound:g}", f"**{one.measured:.3g}**", "yes" if one.met else "no"] for one in wanted]
    return (
        f"## Real sizes\n\n`python -m benchmarks real_sizes`: {size.name}, random weights behind the statistics of pictures made "
        f"from a seed, {size.clean:,} of them to calibrate on; default settings; {cell_s:g} s a cell, in turns, one client that sends "
        "JPEG pictures. "
        f"`hauberk calibrate` took {calibration.clock_s / 60:.1f} minutes ({calibration.processor_s / 60:.1f} of processors) and "
        f"{calibration.peak_mib:,.0f} MiB at most. It announced: *{calibration.announced}*. A model call took "
        f"{1000 * card['speed']['seconds_per_call']:.1f} ms there; a clean image takes {usual:.1f} calls on average, and a request may "
        f"hold {bundle.images_per_request} images.\n\n{table(header, rows)}\n"
        + table(("wanted", "limit", "measured", "met"), limits)
    )


def main() -> None:
    """Print the section, or only make the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=SIDE)
    parser.add_argument("--classes", type=int, default=CLASSES)
    parser.add_argument("--clean", type=int, default=CLEAN)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--cell-seconds", type=float, default=CELL_S)
    parser.add_argument("--make", type=Path, help="only make the network and the pictures, in this directory")
    asked = parser.parse_args()
    size = Size(asked.side, asked.classes, asked.clean, asked.width)
    if asked.make is not None:
        make(size, asked.make)
    else:
        print(section(size, asked.cell_seconds))


if __name__ == "__main__":
    main()
