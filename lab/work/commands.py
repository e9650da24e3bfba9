"""The tasks that are commands of `hauberk`: calibrate, evaluate, scan; run as the command line runs them, to the same end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from lab.errors import Refused
from lab.offered import text
from lab.subject import Subject
from lab.work.brought import WITHOUT_DEFENCES, Bring, Commands, about
from lab.work.loop import Asked
from lab.work.reading import of_bundle
from lab.work.samples import write_clusters, write_samples
from lab.work.unpacking import unpacked
from models.archives import read_array
from models.bundle import read_bundle
from models.datasets import load_dataset

DETECTORS = ("auto", "strip", "strip,sentinet")  # the first unless another is chosen
BUNDLE = "bundle"


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
    bundle = request.subject.bundle
    if bundle is None:
        raise Refused("", WITHOUT_DEFENCES)
    options = {"bundle": bundle, **_data(request), "budget": "quick", "out": request.out}
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
    """Look for poison in the data, and write down all samples and the clusters of their classes."""
    model = unpacked(Path(request.subject.model_file), "model", request.progress)
    cluster = {name: request.options[name] for name in ("backend", "address") if name in request.options}
    options = {"classifier": model, **_data(request), **request.subject.declared, **cluster, "out": request.out}
    commands("scan", options, request.progress)
    report = json.loads((request.out / "report.json").read_text())
    with (request.out / "is_clean.npy").open("rb") as file:
        is_clean = read_array(file).astype(bool)
    brought = bring(request.subject, request.progress)
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
        **write_samples(brought, is_clean, request.out, request.progress),
        "clusters": write_clusters(brought, is_clean, report["methods"], request.out),
    }


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
