"""What the lab's workers run: `python -m hauberk.commands.lab_worker`. It gives the lab's tasks what stands above them, the opening of
files as every command opens them, and the commands themselves. With the names of tasks it writes the results that the first visit shows.
"""

from __future__ import annotations

# Before anything else is imported: a thread of NumPy's would keep the process in the network.
from lab.work import confined

if __name__ == "__main__":
    confined.confine()

import json
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import typer

import lab
from hauberk.commands.classifier_options import how_it_reads, open_servable
from hauberk.commands.data import AsPictures, class_names, read_samples
from hauberk.commands.declaration import Declaration
from hauberk.commands.opened_judged import ReadsOtherwise
from hauberk.commands.options import reporting_to
from lab.errors import Refused
from lab.subject import DECLARED, Subject
from lab.work import attacking, backdooring, commands, defending, loop, reading, stealing
from lab.work.brought import Brought, Kept, about
from lab.work.unpacking import unpacked
from models.accuracy import judge
from models.bundle import CARD, MODEL, Bundle, read_bundle, standard_bundle_directory
from models.classifier import Classifier
from models.datasets import MNIST
from models.engines.bundle_classifier import classifier_of, keras_classifier_of
from models.engines.remote.address import is_remote
from models.engines.twins.twin_file import own_program, with_gradients
from models.errors import InvalidInput
from models.image_rows import Samples
from models.machine import processors
from models.progress import Progress, silent

_COMPARED = 64
_FIELD_OF = ("labels", "layout", "preset", "input_range", "mean", "std", "channels", "outputs", "output")


def bring(subject: Subject, progress: Progress) -> Brought:
    """Open what a subject names; see `lab.work.brought.Bring`."""
    declared = _declared(subject)
    path = unpacked(Path(subject.model), "model", progress)
    bundle = read_bundle_of(path)
    with reporting_to(progress):
        data, names = _samples(subject, declared, bundle, progress)
        progress("opening the model", 0, 1)
        if bundle is not None:
            return _bundled(bundle, data)
        return _opened(path, data, declared, names)


def read_bundle_of(path: Path) -> Bundle | None:
    """The bundle in a directory; None of anything else. Raises: Refused."""
    with about("model"):
        return read_bundle(path) if (path / CARD).is_file() else None


def run(name: str, options: dict[str, Any], progress: Progress) -> None:
    """Run a command as the command line does; see `lab.work.brought.Commands`."""
    command = getattr(import_module(f"hauberk.commands.{name}"), name)
    try:
        with reporting_to(progress):
            command(**{option: value for option, value in options.items() if value is not None})
    except typer.Exit:  # a finding, which the command has written down
        return


def _samples(
    subject: Subject, declared: Declaration, bundle: Bundle | None, progress: Progress
) -> tuple[Samples, tuple[str, ...] | None]:
    """The images, and the names of their classes where they are folders."""
    path = unpacked(Path(subject.data), "data", progress)
    with about("resize" if subject.resize else "data"):
        labels = declared.names() if bundle is None else bundle.labels
        colours = subject.colours or None
        pictures = AsPictures(subject.resize or None, colours, labels)  # type: ignore[arg-type]  # one of its words
        data = read_samples(path, subject.split, subject.rows or None, pictures)  # type: ignore[arg-type]  # the same
    with about("order"):
        return _in_order(data, subject.classes), class_names(path)


def _in_order(data: Samples, classes: tuple[int, ...]) -> Samples:
    """The data with the labels of the model's classes. Raises: InvalidInput: labels that no class was said for."""
    if not classes:
        return data
    if int(data.labels.max()) >= len(classes):
        raise InvalidInput(f"expected a class for each label up to {data.labels.max()}, got {len(classes)}")
    changed: Samples = replace(data, labels=np.array(classes)[data.labels])  # type: ignore[type-var]  # both are dataclasses
    return changed


def _declared(subject: Subject) -> Declaration:
    """What was said, one thing after the other, so that a mistake is told beside its field."""
    said = dict(subject.declared)
    if "," not in said.get("labels", ","):  # a command would take it for a file, and read that
        raise Refused("labels", "expected names of classes with commas between")
    for name in _FIELD_OF:
        if name in said and name not in ("mean", "std"):
            with about(name):
                Declaration(**{name: said[name]}).names()  # type: ignore[arg-type]  # texts, as a command line has them
    with about(next(iter(said), "")):
        return Declaration(**said)  # type: ignore[arg-type]  # the same


def _bundled(bundle: Bundle, data: Samples) -> Brought:
    threads = processors()
    classifier = classifier_of(bundle, threads=threads)
    with about("data"):
        _check_shape(classifier, data)
    own = partial(keras_classifier_of, bundle, threads=threads) if bundle.holds(MODEL) else None

    def able() -> Classifier:
        return with_gradients(classifier, data.images[:_COMPARED], given=None, own=own, threads=threads)

    said = f"the bundle's classifier returns {len(bundle.labels)} probabilities for images of {bundle.input_shape}, 0 to 1"
    return Brought(classifier, data, judge(classifier, data, advice=None), said, bundle, able)


def _opened(path: Path, data: Samples, declared: Declaration, names: tuple[str, ...] | None) -> Brought:
    threads = processors()
    if is_remote(str(path)):
        raise Refused("model", "expected the file of a model: the lab asks no servers")
    if not path.exists():
        raise Refused("model", "expected the file of a model, got a name that does not exist")
    with about("model"):
        try:
            opened = open_servable(str(path), data, declared=declared, names=names, threads=threads)
        except ReadsOtherwise as failure:
            raise loop.AnotherReading(str(failure), proposed(failure.options)) from failure

    def able() -> Classifier:
        return with_gradients(
            opened.classifier,
            data.images[:_COMPARED],
            given=own_program(path, opened.classifier, threads=threads),
            threads=threads,
        )

    return Brought(opened.classifier, data, opened.accuracy, how_it_reads(opened.classifier), None, able)


def _check_shape(classifier: Classifier, data: Samples) -> None:
    shape, labels = data.images.shape[1:], len(classifier.labels)
    if shape != classifier.input_shape:
        raise Refused("data", f"expected images {classifier.input_shape}, as the bundle takes them, got {shape}")
    if int(data.labels.max()) >= labels:
        raise Refused("data", f"expected labels below {labels}, the classes of the bundle, got {int(data.labels.max())}")


def proposed(options: str) -> dict[str, str]:
    """The fields of the lab's form that say what these options say."""
    pairs = (option.removeprefix("-").removeprefix("-").partition("=")[::2] for option in shlex.split(options))
    return {name.replace("-", "_"): value for name, value in pairs if name.replace("-", "_") in DECLARED}


def tasks() -> Mapping[str, loop.Task]:
    """What the lab asks for, by name."""
    kept = Kept(bring)
    return {
        "read": partial(reading.read, kept),
        "attack": partial(attacking.attack_set, kept),
        "backdoors": partial(backdooring.backdoored_copies, kept),
        "one": partial(attacking.attack_one, kept),
        "armour": partial(defending.armour_one, kept),
        "calibrate": partial(commands.calibrate, run),
        "evaluate": partial(commands.evaluate, run),
        "steal": partial(stealing.steal, kept),
        "scan": partial(commands.scan, run, kept),
    }


EXAMPLE_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "read": {},
    "attack": {"attacks": ["fgm", "pgd", "deepfool", "square"], "strength": 0.2, "images": 200, "budget": "quick"},
    "evaluate": {},
    "steal": {"budget": "thorough"},
}


def write_example(names: Sequence[str], out: Path) -> None:
    """Do these tasks on the bundled classifier, and keep what they find where the lab looks for it."""
    subject = Subject(model=str(standard_bundle_directory()), data=str(MNIST))
    for name in names:
        (out / name).mkdir(parents=True, exist_ok=True)
        found = tasks()[name](loop.Asked(subject, EXAMPLE_OPTIONS[name], out / name, silent))
        shutil.rmtree(out / name / "cells", ignore_errors=True)
        for report in ("report.html", "report.json"):  # made anew by a click; a copy in the sources would only grow old
            (out / name / report).unlink(missing_ok=True)
        (out / name / "result.json").write_text(json.dumps(found, indent=1) + "\n")


def main() -> None:
    """Serve the lab on stdin and stdout, or write the example."""
    if sys.argv[1:]:
        os.umask(0o022)  # these files are for everybody
        write_example(sys.argv[1:], Path(lab.__file__).parent / "example")
        return
    requests, answers = confined.requests(), confined.own_stdout()
    confined.end_with_parent()
    loop.serve(tasks(), requests, answers)


if __name__ == "__main__":
    main()
