"""What is tried in the lab: a classifier, labelled images, and what was said about both; as a value, as JSON, and as a command line."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import Any, Self

from lab.errors import Refused

DECLARED = ("labels", "layout", "input_range", "mean", "std", "channels", "preset", "outputs", "output")
"""What may be said about a model: the options of `hauberk calibrate` by these names, and the fields of the lab's form."""
CHOICES: Mapping[str, tuple[str, ...]] = {
    "layout": ("nhwc", "nchw"),
    "channels": ("rgb", "bgr"),
    "preset": ("torch", "caffe", "tf"),
    "outputs": ("probabilities", "logits"),
    "split": ("test", "train"),
    "colours": ("grey", "rgb"),
}
_TEXT_AT_MOST = 4096
_RELABELLED = "relabelled.npz"
_DIGITS = re.compile(r"\d{0,9}:\d{0,9}")
_SIZE = re.compile(r"\d{1,4}x\d{1,4}")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A classifier and the images it is tried on.

    Attributes:
        model: path of a model's file, or of a bundle.
        data: path of an .npz, of a folder with one sub-folder of pictures a class, or of a zip of such a folder.
        split: which half of a data file that has two.
        rows: START:STOP, of the data.
        resize: HEIGHTxWIDTH, of pictures.
        colours: of pictures.
        order: the classes of the data's labels in the model's order, numbers with commas between: label 0 is class order[0].
        declared: what was said about the model, by the names in `DECLARED`.
    """

    model: str
    data: str
    split: str = "test"
    rows: str = ""
    resize: str = ""
    colours: str = ""
    order: str = ""
    declared: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            value = self.declared.get(name, "") if name in DECLARED else getattr(self, name)
            if value and value not in choices:
                raise Refused(name, f"expected {' or '.join(choices)}")
        for name, pattern, example in (
            ("rows", _DIGITS, "START:STOP such as 0:1000"),
            ("resize", _SIZE, "HEIGHTxWIDTH such as 32x32"),
        ):
            if getattr(self, name) and not pattern.fullmatch(getattr(self, name)):
                raise Refused(name, f"expected {example}")
        if self.order and sorted(self.classes) != list(range(len(self.classes))):
            raise Refused("order", "expected every class once, such as 1,0,2")
        if not set(self.declared) <= set(DECLARED):
            raise Refused("", "expected only what the form asks for")

    @classmethod
    def from_form(cls, given: Mapping[str, Any]) -> Self:
        """What a form or a stored record says. Raises: Refused: a field that is no text, too long, or none of its choices."""
        texts: dict[str, str] = {}
        for name, value in {**given.get("declared", {}), **{k: v for k, v in given.items() if k != "declared"}}.items():
            if not isinstance(value, str) or len(value) > _TEXT_AT_MOST or "\0" in value:
                raise Refused(name if name.isidentifier() else "", f"expected a text of at most {_TEXT_AT_MOST} characters")
            texts[name] = value.strip()
        own = {one.name for one in fields(cls)} - {"declared"}
        for name, what in (("model", "a model: upload one or name its file"), ("data", "labelled images: upload or name them")):
            if not texts.get(name):
                raise Refused(name, f"expected {what}")
        declared = {name: texts[name] for name in DECLARED if texts.get(name)}
        return cls(declared=declared, **{name: texts[name] for name in own if texts.get(name)})

    def as_json(self) -> dict[str, Any]:
        """The record that `from_form` reads."""
        return asdict(self)

    @property
    def classes(self) -> tuple[int, ...]:
        """The model's class of each label, where another order was said."""
        return tuple(int(one) if one.strip().isdecimal() else -1 for one in self.order.split(",")) if self.order else ()

    @property
    def bundle(self) -> Path | None:
        """The directory of the bundle that `model` is, or that a worker found in it when it was a zip; None of another model."""
        found = unpacked_place(Path(self.model))
        return found if (found / "card.json").is_file() else None

    @property
    def model_file(self) -> str:
        """The file of the model itself, where `model` is a bundle."""
        bundle = self.bundle
        if bundle is None:
            return self.model
        return str(next((bundle / name for name in ("model.keras", "model.onnx") if (bundle / name).is_file()), bundle))

    @property
    def is_bundle(self) -> bool:
        """Whether `model` is one."""
        return self.bundle is not None

    def command(self, name: str, *, shown: Callable[[str], str], **options: str) -> str:
        """The command line of `hauberk NAME` that does the same, for a shell; `shown` is how paths are written in it."""
        is_evaluate, data = name == "evaluate", shown(self.data)
        model = {"bundle": shown(str(self.bundle or self.model))} if is_evaluate else {"classifier": shown(self.model_file)}
        said = {one: getattr(self, one) for one in ("split", "rows", "resize", "colours")}
        said |= {} if is_evaluate else dict(self.declared)
        packed = is_zip(self.data)
        read = "pictures" if packed else _RELABELLED if self.order else data
        given = model | {"data": read} | said | options
        line = shlex.join(["hauberk", name, *_options(given)])
        if self.is_bundle and is_zip(self.model):
            line = f"{shlex.join(['unzip', '-n', shown(self.model)])} && {line}"
        if packed:
            return f"{shlex.join(['unzip', '-d', 'pictures', data])} && {line}"
        return f"{shlex.join(['python', '-c', _relabelling(data, self.split, self.classes)])} && {line}" if self.order else line


UNPACKED = ".unpacked"


def is_zip(path: str) -> bool:
    """Whether a path is that of a zip, by its name."""
    return path.lower().endswith(".zip")


def unpacked_place(path: Path) -> Path:
    """Where a worker unpacks a zip: the folder in the folder beside it, as people pack one, down to where there is more than one entry,
    or a file. Any other path is what it is."""
    if not is_zip(path.name):
        return path
    place = path.with_name(path.name + UNPACKED)
    while place.is_dir() and len(entries := list(islice(place.iterdir(), 2))) == 1 and entries[0].is_dir():
        place = entries[0]
    return place


def _relabelling(data: str, split: str, classes: tuple[int, ...]) -> str:
    """Python that writes the data with their labels in the model's order."""
    return (
        f"import numpy as np; d = np.load({data!r}); x, y = ('images', 'labels') if 'images' in d else ('x_{split}', 'y_{split}'); "
        f"np.savez({_RELABELLED!r}, images=d[x], labels=np.array({list(classes)})[d[y].ravel()])"
    )


def _options(given: Mapping[str, str]) -> Iterator[str]:
    for name, value in given.items():
        if value:
            yield f"--{name.replace('_', '-')}={value}"
