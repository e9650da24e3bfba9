"""Bundles: directories with a classifier, its defences and their calibration, written by calibration and loaded by serving.

    hauberk.toml      format = 1; the classifier's interface; the ordered defences with parameters and modes
    model.keras       the classifier
    calibration.npz   arrays measured on clean data, such as STRIP's overlays, clean scores and threshold
    card.json         shape, labels, provenance, measured numbers, and the sha256 of every other file

The digest of a bundle is the sha256 of card.json, which covers the rest. Nothing in it is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.errors import InvalidBundle

FORMAT = 1
SETTINGS, CARD, CALIBRATION, MODEL = "hauberk.toml", "card.json", "calibration.npz", "model.keras"
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_REQUIRED = (SETTINGS, MODEL, CALIBRATION)
_SIZE = Annotated[int, Field(ge=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _ClassifierSettings(_Strict):
    file: Literal["model.keras"]
    outputs: Literal["probabilities", "logits"]
    input_range: Annotated[list[float], Field(min_length=2, max_length=2)]
    input_shape: Annotated[list[_SIZE], Field(min_length=3, max_length=3)]
    labels: Annotated[list[str], Field(min_length=2)]


class _DefenceSettings(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)
    name: str
    mode: Literal["enforce", "monitor", "off"]


class _Settings(_Strict):
    format: Literal[1]
    name: Annotated[str, Field(pattern=NAME)]
    classifier: _ClassifierSettings
    defences: list[_DefenceSettings]


@dataclass(frozen=True)
class Bundle:
    """A verified bundle.

    Attributes:
        directory: the bundle's directory.
        digest: sha256 of card.json, hex; `version` is its first 12 digits.
        settings: the content of hauberk.toml; `name`, `input_shape` and `labels` are read from it.
        calibration: the arrays of calibration.npz.
        card: the content of card.json.
    """

    directory: Path
    digest: str
    settings: dict[str, Any]
    calibration: dict[str, NDArray[Any]]
    card: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.settings["name"])

    @property
    def version(self) -> str:
        return self.digest[:12]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        h, w, c = self.settings["classifier"]["input_shape"]
        return h, w, c

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.settings["classifier"]["labels"])


def default_bundle_directory() -> Path:
    """The directory of the default bundle: an adversarially trained MNIST classifier, shipped with the project."""
    return Path(__file__).parent / "bundles" / "mnist"


def standard_bundle_directory() -> Path:
    """The directory of the other shipped bundle: an MNIST classifier from standard training, for comparison and demonstrations."""
    return default_bundle_directory().with_name("mnist-standard")


def read_bundle(directory: Path) -> Bundle:
    """Read a bundle and verify its digests and settings. Raises: InvalidBundle: missing, altered or invalid files."""
    if not directory.is_dir():
        what = "is no directory" if directory.exists() else "does not exist"
        raise InvalidBundle(f"expected a bundle directory, got {directory}, which {what}; hauberk calibrate writes one")
    digest, card = _read_card(directory)
    settings = _read_settings(directory / SETTINGS)
    try:
        with (directory / CALIBRATION).open("rb") as file, np.load(file, allow_pickle=False) as archive:
            calibration = {name: archive[name] for name in archive.files}
    except Exception as failure:  # damaged archives raise a dozen kinds of exceptions
        raise InvalidBundle(
            f"{directory / CALIBRATION} cannot be read as an .npz archive; run hauberk calibrate again"
        ) from failure
    return Bundle(directory, digest, settings, calibration, card)


def write_bundle(
    directory: Path,
    *,
    settings: Mapping[str, Any],
    calibration: Mapping[str, NDArray[Any]],
    card: Mapping[str, Any],
    example: Mapping[str, Any] | None = None,
) -> Bundle:
    """Write a bundle's files next to its model, which must be in `directory` already, and read the bundle back.

    Args:
        settings: content of hauberk.toml, as nested dicts and lists.
        calibration: arrays for calibration.npz.
        card: content of card.json beside the digests.
        example: a valid request body, written to example.json.

    Raises: InvalidBundle: no model, or settings that `read_bundle` does not accept.
    """
    (directory / SETTINGS).write_text(_toml(settings), encoding="utf-8")
    np.savez_compressed(directory / CALIBRATION, **calibration)  # type: ignore[arg-type]  # numpy types **kwds as its own options
    names = [*_REQUIRED]
    if example is not None:
        (directory / "example.json").write_text(json.dumps(example))
        names.append("example.json")
    digests = {name: _sha256(directory / name) for name in names}
    (directory / CARD).write_text(json.dumps({**card, "files": digests}, indent=2) + "\n")
    return read_bundle(directory)


def record(bundle: Bundle, name: str, found: Any) -> Bundle:
    """Write a measurement under `name` into a bundle's card, which changes the bundle's version. Raises: InvalidBundle."""
    card = {key: value for key, value in bundle.card.items() if key != name}
    files = card.pop("files")
    (bundle.directory / CARD).write_text(json.dumps({**card, name: found, "files": files}, indent=2) + "\n")
    return read_bundle(bundle.directory)


def _read_card(directory: Path) -> tuple[str, dict[str, Any]]:
    path = directory / CARD
    try:
        text = path.read_bytes()
        card = json.loads(text)
        digests = dict(card["files"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as failure:
        raise InvalidBundle(
            f"expected {path} to be a bundle's card with a list of files; run hauberk calibrate again"
        ) from failure
    for name in _REQUIRED:
        if name not in digests:
            raise InvalidBundle(f"expected {path} to list the digest of {name}; run hauberk calibrate again")
    present = {file.name for file in directory.iterdir() if file.is_file()}
    for name, expected in digests.items():
        file = directory / str(name)
        if name not in present:  # a path out of the directory is not present either
            raise InvalidBundle(f"expected {file}, which {path} lists, but it does not exist; copy the whole bundle")
        found = _sha256(file)
        if found != expected:
            raise InvalidBundle(
                f"{file} is not the file {path} was written for: expected sha256 {str(expected)[:12]}..., got {found[:12]}...; "
                "copy the bundle again, or run hauberk calibrate"
            )
    return hashlib.sha256(text).hexdigest(), card


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as failure:
        raise InvalidBundle(f"{path} cannot be read as TOML: {failure}") from failure
    if settings.get("format") != FORMAT:
        raise InvalidBundle(
            f"expected {path} to begin with format = {FORMAT}, got {settings.get('format')!r}; run hauberk calibrate again"
        )
    try:
        return _Settings.model_validate(settings).model_dump()
    except ValidationError as failure:
        first = failure.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InvalidBundle(f"{path}: {place}: {first['msg']}; run hauberk calibrate again") from failure


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _toml(settings: Mapping[str, Any]) -> str:
    """hauberk.toml: scalars, then [classifier], then [[defences]]."""
    lines = [f"{key} = {_toml_value(value)}" for key, value in settings.items() if not isinstance(value, dict | list)]
    if not settings["defences"]:  # an empty list has no [[defences]] section
        lines.append("defences = []")
    sections = [("[classifier]", settings["classifier"]), *(("[[defences]]", defence) for defence in settings["defences"])]
    for header, values in sections:
        lines += ["", header, *(f"{key} = {_toml_value(value)}" for key, value in values.items())]
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    """JSON scalars and arrays are TOML scalars and arrays, but for \\u-escaped surrogates and a bare DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
