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
from lab.work.brought import Bring, Brought, Commands, about, named
from lab.work.loop import Asked
from lab.work.pictures import write_png
from lab.work.reading import of_bundle
from lab.work.unpacking import unpacked
from models.archives import read_array
from models.bundle import read_bundle
from models.datasets import load_dataset

DETECTORS = ("auto", "strip", "strip,sentinet")
BUNDLE = "bundle"
_SUSPECTS = 40


def calibrate(commands: Commands, request: Asked) -> dict[str, Any]:
    """Fit the defences, and pack the bundle as a zip."""
    detectors = text(request.options, "detectors") or "strip"
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
        raise Refused("", "this is a model without defences yet: take the defended bundle away first, and try that one")
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
        "suspects": _suspects(bring(request.subject, request.progress), np.flatnonzero(~is_clean.astype(bool)), request.out),
    }


def _suspects(brought: Brought, rows: NDArray[np.int64], out: Path) -> list[dict[str, Any]]:
    """Pictures of suspicious samples, spread over all of them."""
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _SUSPECTS)).astype(int))] if len(rows) else rows
    if not len(chosen):
        return []
    images, labels = brought.data.images[chosen], brought.data.labels[chosen]
    answers = brought.classifier.predict(images).argmax(axis=1)
    names, found = brought.classifier.labels, []
    for number, (row, image) in enumerate(zip(chosen, images, strict=True)):
        write_png(image, out / f"suspect-{number}.png")
        said = {"label": named(names, int(labels[number])), "answer": named(names, int(answers[number]))}
        found.append({"row": int(row), "file": f"suspect-{number}.png", **said})
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
