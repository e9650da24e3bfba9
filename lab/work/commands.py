"""The tasks that are commands of `hauberk`: calibrate, evaluate, scan; run as the command line runs them, to the same end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lab.errors import Refused
from lab.offered import text
from lab.subject import Subject
from lab.work.brought import WITHOUT_DEFENCES, Bring, Brought, Commands, about, named
from lab.work.loop import Asked
from lab.work.pictures import write_png
from lab.work.reading import of_bundle
from lab.work.unpacking import unpacked
from models.archives import read_array
from models.bundle import read_bundle
from models.datasets import load_dataset

DETECTORS = ("auto", "strip", "strip,sentinet")  # the first unless another is chosen
BUNDLE = "bundle"
_SUSPECTS, _OTHERS = 48, 12
_PICTURES_AT_MOST = 240


def calibrate(commands: Commands, request: Asked) -> dict[str, Any]:
    """Fit the defences, and pack the bundle as a zip."""
    detectors = text(request.options, "detectors") or DETECTORS[0]
    if detectors not in DETECTORS:
        raise Refused("detectors", f"expected {', or '.join(DETECTORS)}")
    out = request.out / BUNDLE
    options = {
        "classifier": str(unpacked(Path(request.subject.model_file), "model", request.progress)),
        **_data(request),
        **request.subject.declared,
        "detectors": detectors,
        "name": text(request.options, "name") or None,
        "out": out,
    }
    with about("name" if options["name"] else ""):
        commands("calibrate", options, request.progress)
    shutil.make_archive(str(out), "zip", root_dir=request.out, base_dir=BUNDLE)
    bundle = read_bundle(out)
    measured = bundle.card.get("calibration", {})
    return {
        "bundle": of_bundle(bundle),
        "measured": measured.get("measured", {}),
        "bytes": (request.out / f"{BUNDLE}.zip").stat().st_size,
    }


def evaluate(commands: Commands, request: Asked) -> dict[str, Any]:
    """Every attacker against the bundle without, with each and with all of its defences."""
    if not request.subject.is_bundle:
        raise Refused("", WITHOUT_DEFENCES)
    options = {"bundle": Path(request.subject.model), **_data(request), "budget": "quick", "out": request.out}
    commands("evaluate", options, request.progress)
    report = json.loads((request.out / "report.json").read_text())
    return {
        "variants": [row["variant"] for row in report["benign"]],
        "benign": report["benign"],
        "evasion": report["evasion"],
        "worst_case": report["worst_case"],
        "radii": report["radii"],
        "warnings": report["warnings"],
    }


def scan(commands: Commands, bring: Bring, request: Asked) -> dict[str, Any]:
    """Look for poison in the data, and show some of what is suspicious."""
    model = unpacked(Path(request.subject.model_file), "model", request.progress)
    cluster = {name: request.options[name] for name in ("backend", "address") if name in request.options}
    options = {"classifier": model, **_data(request), **request.subject.declared, **cluster, "out": request.out}
    commands("scan", options, request.progress)
    report = json.loads((request.out / "report.json").read_text())
    with (request.out / "is_clean.npy").open("rb") as file:
        is_clean = read_array(file)
    return {
        "verdict": report["verdict"],
        "suspicious": report["suspicious_samples"],
        "samples": len(is_clean),
        "poisoned_classes": report["poisoned_classes"],
        "methods": [
            {
                "method": method["method"],
                "classes": [{name: one[name] for name in ("name", "verdict", "samples", "reason")} for one in method["classes"]],
            }
            for method in report["methods"]
        ],
        "groups": groups(bring(request.subject, request.progress), is_clean.astype(bool), request.out),
    }


def groups(brought: Brought, is_clean: NDArray[np.bool_], out: Path) -> list[dict[str, Any]]:
    """Pictures of each class: of what is suspicious in it, and of the others; poisoned classes first, 240 pictures at most.

    Args:
        is_clean: bool [n], of every image that was brought.
    """
    data, names = brought.data, brought.classifier.labels
    poisoned = np.unique(data.labels[~is_clean])
    found, left = [], _PICTURES_AT_MOST
    for label in [*poisoned, *np.setdiff1d(data.labels, poisoned)]:
        for suspicious, most in ((True, _SUSPECTS), (False, _OTHERS)):
            rows = np.flatnonzero((data.labels == label) & (is_clean != suspicious))
            if chosen := _spread(rows, min(most, left)):
                left -= len(chosen)
                pictures = _written(brought, chosen, out)
                found.append(
                    {"class": named(names, int(label)), "suspicious": suspicious, "samples": len(rows), "pictures": pictures}
                )
    return found


def _spread(rows: NDArray[np.int64], most: int) -> list[int]:
    """So many of these rows at most, from the first to the last."""
    return [int(row) for row in rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(int))]]


def _written(brought: Brought, rows: list[int], out: Path) -> list[dict[str, Any]]:
    """These images as files, and what the classifier answers."""
    images = brought.data.images[np.array(rows)]
    answers = brought.classifier.predict(images).argmax(axis=1)
    found = []
    for row, image, answer in zip(rows, images, answers, strict=True):
        write_png(image, out / f"sample-{row}.png")
        found.append({"row": row, "file": f"sample-{row}.png", "answer": named(brought.classifier.labels, int(answer))})
    return found


def _relabelled(data: Path, subject: Subject, out: Path) -> Path:
    """The data with the labels of the model's classes, as a file: no command takes an order. Raises: Refused."""
    if data.is_dir():
        raise Refused("labels", "expected names of classes for pictures, which say their order too")
    with about("order"):
        given = load_dataset(data, split=subject.split)  # type: ignore[arg-type]  # one of its words
    start, _, stop = (subject.rows or ":").partition(":")
    rows = slice(int(start or 0), int(stop or len(given)))
    path = out / "relabelled.npz"
    np.savez(path, images=given.images[rows], labels=np.array(subject.classes)[given.labels[rows]])
    return path


def _data(request: Asked) -> dict[str, Any]:
    subject = request.subject
    data = unpacked(Path(subject.data), "data", request.progress)
    if subject.order:
        return {"data": _relabelled(data, subject, request.out)}
    return {
        "data": data,
        "split": subject.split,
        "rows": subject.rows or None,
        "resize": subject.resize or None,
        "colours": subject.colours or None,
    }
