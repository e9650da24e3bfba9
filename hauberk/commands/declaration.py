"""What the user says about a model, from the options to a preparation; what is not said stays open, and is proposed from accuracy.

The options are the fields of `Declaration`, and `asks_about_the_model` gives a command all of them.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer

from models.errors import InvalidInput
from models.files import NotAFile, read_file
from models.preparation import PRESETS, Channels, InputType, Layout, Outputs, Preparation

_LABELS_BYTES = 16 << 20
_BYTE = 255


@dataclass(frozen=True)
class Declaration:
    """The options that say what a model expects, as they were given; None where nothing was said.

    Attributes:
        labels: class names with commas between, or a text file of them.
        input_range: LOW,HIGH.
        mean, std: in the unit range, one value or one a channel with commas between.
        preset: a usual mean, deviation and order of channels by name.
        output: which output, of a model with several.

    Raises: InvalidInput on construction: options that contradict each other, or are no numbers.
    """

    labels: Annotated[str | None, typer.Option(help="Class names: a,b,c or a text file with one a line.")] = None
    layout: Annotated[
        Layout | None,
        typer.Option(help="Whether the model's input has its channels last (nhwc) or first; as its shape says when not given."),
    ] = None
    input_range: Annotated[
        str | None, typer.Option(help="Values of black and white at the model's input: 0,1 or 0,255 or -1,1 or any LOW,HIGH.")
    ] = None
    mean: Annotated[
        str | None, typer.Option(help="Mean subtracted from images in 0..1: one value or one a channel, 0.485,0.456,0.406.")
    ] = None
    std: Annotated[str | None, typer.Option(help="Deviation by which the rest is divided: one value or one a channel.")] = None
    channels: Annotated[Channels | None, typer.Option(help="Order of the colours at the model's input; rgb when not given.")] = (
        None
    )
    preset: Annotated[
        Literal["torch", "caffe", "tf"] | None,
        typer.Option(help="A usual preparation: ImageNet's mean and deviation, its mean in bytes and BGR, or -1 to 1."),
    ] = None
    outputs: Annotated[Outputs | None, typer.Option(help="Kind of the model's outputs; found out from them when not given.")] = (
        None
    )
    output: Annotated[str | None, typer.Option(help="Name of the output to take, of a model with several.")] = None

    def __post_init__(self) -> None:
        given = [
            f"--{name.replace('_', '-')}" for name in ("input_range", "mean", "std", "preset") if getattr(self, name) is not None
        ]
        if len(given) > 1 and given != ["--mean", "--std"]:
            raise InvalidInput(
                f"expected --input-range, --mean with --std, or --preset, got {' and '.join(given)}; say one of them"
            )
        if self.preset is not None and self.channels not in (None, PRESETS[self.preset].channels):
            raise InvalidInput(
                f"expected --channels {PRESETS[self.preset].channels} with --preset {self.preset}, got {self.channels}; say its "
                "--mean and --std for the other order"
            )
        self._values()

    @property
    def is_empty(self) -> bool:
        """Whether nothing was said."""
        return self == Declaration()

    def preparation(self, *, channels: int, layout: Layout, dtype: InputType) -> Preparation:
        """What was said, and for what was not: 0 to 1 (0 to 255 of whole numbers), RGB, and what the model's own input says.

        Raises: InvalidInput: it does not fit the images or the model.
        """
        usual = Preparation.of_range(0, _BYTE if dtype == "uint8" else 1)
        values = self._values() or usual
        sizes = {len(values.scale), len(values.offset)} - {1, channels}
        if sizes:
            option = f"--preset {self.preset}" if self.preset is not None else "--mean and --std"
            raise InvalidInput(f"expected {option} of one value or one for each of {channels} channels, got {sizes.pop()}")
        order = self.channels or values.channels
        if order == "bgr" and channels != 3:
            raise InvalidInput(f"expected images of 3 channels with --channels bgr, got {channels}")
        return replace(values, channels=order, layout=self.layout or layout, dtype=dtype)

    def allows(self, preparation: Preparation) -> bool:
        """Whether a preparation contradicts nothing that was said."""
        values = self._values()
        if values is not None and (values.scale, values.offset) != (preparation.scale, preparation.offset):
            return False
        channels = self.channels or (PRESETS[self.preset].channels if self.preset is not None else None)
        return channels in (None, preparation.channels) and self.layout in (None, preparation.layout)

    def names(self) -> tuple[str, ...] | None:
        """The class names. Raises: InvalidInput: no text file, or a name twice."""
        return None if self.labels is None else _names(self.labels)

    def _values(self) -> Preparation | None:
        """The values at the model's input; None where nothing was said about them."""
        if self.input_range is not None:
            return Preparation.of_range(*_range(self.input_range))
        if self.preset is not None:
            return PRESETS[self.preset]
        if self.mean is None and self.std is None:
            return None
        mean, std = _unit_values("mean", self.mean or "0"), _unit_values("std", self.std or "1")
        if 0 in std:
            raise InvalidInput(f"expected --std with deviations above 0, got {self.std!r}")
        if {len(mean), len(std)} - {1, max(len(mean), len(std))}:
            raise InvalidInput(f"expected as many values in --mean as in --std, or one, got {len(mean)} and {len(std)}")
        return Preparation.of_statistics(mean, std)


NOTHING_SAID = Declaration()

_Command = Callable[..., None]


def asks_about_the_model(*, labels: bool = True) -> Callable[[_Command], _Command]:
    """Give a command the options of `Declaration` in the place of its parameter `declared`.

    Args:
        labels: whether it takes class names too.
    """
    # Read from the class, so that an option and its help are written once.
    options = get_type_hints(Declaration, include_extras=True)
    if not labels:
        del options["labels"]

    keyword = inspect.Parameter.KEYWORD_ONLY

    def wrapped(command: _Command) -> _Command:
        own = list(inspect.signature(command, eval_str=True).parameters.values())
        at = [one.name for one in own].index("declared")
        asked = [inspect.Parameter(name, keyword, default=None, annotation=option) for name, option in options.items()]
        parameters = [*own[:at], *asked, *(one.replace(kind=keyword) for one in own[at + 1 :])]

        @wraps(command)
        def with_options(*given: Any, **named: Any) -> None:
            declared = Declaration(**{name: named.pop(name, None) for name in options})
            command(*given, declared=declared, **named)

        with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
        with_options.__annotations__ = {one.name: one.annotation for one in parameters}
        return with_options

    return wrapped


def _names(labels: str) -> tuple[str, ...]:
    try:
        names = read_file(Path(labels), at_most=_LABELS_BYTES).decode("utf-8").splitlines()
    except NotAFile as failure:
        raise InvalidInput(f"expected --labels to be names or a text file, got {labels!r}: {failure.strerror}") from failure
    except OSError:  # no such file, or the names of a hundred classes, which are too long for one
        names = labels.split(",")
    except UnicodeDecodeError as failure:
        raise InvalidInput(f"expected --labels to be names or a text file in UTF-8, got {labels!r}") from failure
    names = [name.strip() for name in names if name.strip()]
    if len(set(names)) != len(names):
        raise InvalidInput(f"expected --labels to be different names, got {labels!r}")
    return tuple(names)


def _range(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low = high = 0.0
    if low == high or not all(map(math.isfinite, (low, high, high - low))):
        raise InvalidInput(f"expected --input-range LOW,HIGH such as 0,255, got {text!r}")
    return low, high


def _unit_values(name: str, text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = (math.nan,)
    if all(0 <= value <= 1 for value in values):
        return values
    hint = "; divide values of bytes by 255" if all(0 <= value <= _BYTE for value in values) else ""
    raise InvalidInput(
        f"expected --{name} with numbers from 0 to 1 such as {'0.485,0.456,0.406' if name == 'mean' else '0.229,0.224,0.225'}, "
        f"one or one a channel, got {text!r}{hint}"
    )
