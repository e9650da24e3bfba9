"""Bundles: directories with a classifier, its defences and their calibration, written by calibration and loaded by serving.

    hauberk.toml      format = 1; images_per_request; the classifier and its engine; the ordered defences with parameters and modes
    model.onnx        the classifier as a graph from images to probabilities, see `models.engines.onnx_graph`; or none
    model.keras       the classifier as a Keras model, which has gradients and layers; or none
                      (with engine = "remote" the classifier is on a model server, and the bundle holds no model)
    expert.onnx, expert.keras   the expert of BaDExpert, where there is one, see `models.engines.expert`
    calibration.npz   arrays measured on clean data, such as STRIP's overlays, clean scores and threshold
    card.json         shape, labels, provenance, measured numbers, and the sha256 of every other file

The digest of a bundle is the sha256 of card.json, which covers the rest. The bytes that are hashed are the bytes that are used: a file
that is changed after the bundle was read is refused when it is read again. Nothing in it is ever unpickled, no file may be longer than
`BYTES_AT_MOST`, and no archive may unpack to more than `models.archives.FOR_BUNDLES`.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import shutil
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.archives import FOR_BUNDLES, OutOfBounds, read_arrays
from models.errors import InvalidBundle, InvalidInput
from models.files import open_file, read_file
from models.preparation import Preparation

FORMAT = 1
SETTINGS, CARD, CALIBRATION, MODEL, ONNX_MODEL = "hauberk.toml", "card.json", "calibration.npz", "model.keras", "model.onnx"
ONNX_EXPERT, EXPERT = "expert.onnx", "expert.keras"
"""A second classifier of the same images and classes, see `models.engines.expert`."""
EXAMPLE = "example.json"
SPEED = "speed"
"""The card's entry with `seconds_per_call`."""
BYTES_AT_MOST = {SETTINGS: 4 << 20, CARD: 16 << 20, CALIBRATION: 1 << 30, MODEL: 16 << 30, ONNX_MODEL: (1 << 31) - 1}
BYTES_AT_MOST |= {EXPERT: BYTES_AT_MOST[MODEL], ONNX_EXPERT: BYTES_AT_MOST[ONNX_MODEL]}
"""Of each file of a bundle; of one that is not named here, `OTHERS_AT_MOST`."""
OTHERS_AT_MOST = 64 << 20
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
Engine = Literal["onnx", "keras", "remote"]
"""What computes a bundle's classifier."""
MODEL_OF: dict[Engine, str] = {"onnx": ONNX_MODEL, "keras": MODEL}
"""The file that each engine loads; the remote one loads none."""
_REQUIRED = (SETTINGS, CALIBRATION)
_COPIED_AT_ONCE = 1 << 20
_SIZE = Annotated[int, Field(ge=1)]
_NUMBERS_PER_IMAGE = 1 << 26


def _bounded(shape: list[int]) -> list[int]:
    if math.prod(shape) > _NUMBERS_PER_IMAGE:
        raise ValueError(f"expected at most {_NUMBERS_PER_IMAGE} numbers an image, got {math.prod(shape)}")
    return shape


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _ClassifierSettings(_Strict):
    engine: Engine = "keras"  # of bundles from before there was another
    file: Literal["model.keras"] | None = None
    remote: Annotated[str, Field(min_length=1, max_length=1024)] | None = None  # an address, see `models.engines.remote`
    outputs: Literal["probabilities", "logits"]
    input_range: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    mean: Annotated[list[float], Field(min_length=1)] | None = None
    std: Annotated[list[float], Field(min_length=1)] | None = None
    layout: Literal["nhwc", "nchw"] | None = None
    channels: Literal["rgb", "bgr"] | None = None
    input_dtype: Literal["float32", "uint8"] | None = None
    output: str | None = None
    input_shape: Annotated[list[_SIZE], Field(min_length=3, max_length=3), AfterValidator(_bounded)]
    labels: Annotated[list[str], Field(min_length=2)]

    @model_validator(mode="after")
    def _can_be_prepared(self) -> Self:
        h, w, c = self.input_shape
        try:
            Preparation.from_settings(self.model_dump()).check((h, w, c))
        except InvalidInput as failure:
            raise ValueError(str(failure)) from failure
        return self


class _DefenceSettings(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)
    name: str
    mode: Literal["enforce", "monitor", "off"]


class _Settings(_Strict):
    format: Literal[1]
    name: Annotated[str, Field(pattern=NAME)]
    images_per_request: Annotated[int, Field(ge=1)] | None = None
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

    @property
    def images_per_request(self) -> int | None:
        """How many images a request may hold where the operator says nothing; None in bundles that do not state it."""
        stated = self.settings.get("images_per_request")
        return None if stated is None else int(stated)

    @property
    def seconds_per_call(self) -> float | None:
        """How long a model call took where the bundle was calibrated; None in bundles whose card does not say."""
        speed = self.card.get(SPEED)
        seconds = speed.get("seconds_per_call") if isinstance(speed, dict) else None
        return float(seconds) if isinstance(seconds, int | float) and 0 < seconds < math.inf else None

    @property
    def engine(self) -> Engine:
        """What computes the classifier; bundles from before there was a choice say nothing, and have a Keras model."""
        engine: Engine = self.settings["classifier"].get("engine", "keras")
        return engine

    def holds(self, name: str) -> bool:
        """Whether the card lists a file of this name."""
        return name in self.card.get("files", ())

    def read(self, name: str) -> bytes:
        """The content of a file that the card lists. Raises: InvalidBundle: it is not the file that the card was written for."""
        return _verified(self.directory, name, self.card["files"][name])

    @contextmanager
    def copied(self, name: str) -> Iterator[Path]:
        """A copy, in a directory of its own that only this user may enter, of a file that the card lists; removed at the end.

        For what can only be read by path: what is hashed is the copy. Raises: InvalidBundle, as `read`, or where there is no room.
        """
        with _private_directory() as private:
            _copy(self.directory / name, private / name)
            _check(self.directory / name, _sha256(private / name), self.card["files"][name])
            yield private / name


def default_bundle_directory() -> Path:
    """The directory of the default bundle: an adversarially trained MNIST classifier, shipped with the project."""
    return Path(__file__).parent / "bundles" / "mnist"


def standard_bundle_directory() -> Path:
    """The directory of the other shipped bundle: an MNIST classifier from standard training, for comparison and demonstrations."""
    return default_bundle_directory().with_name("mnist-standard")


def read_bundle(directory: Path, *, digest: str | None = None) -> Bundle:
    """Read a bundle and verify its digests and settings.

    Args:
        digest: the one that it has to have; any when not given.

    Raises: InvalidBundle: missing, altered, invalid or too large files, or another bundle.
    """
    if not directory.is_dir():
        what = "is no directory" if directory.exists() else "does not exist"
        raise InvalidBundle(f"expected a bundle directory, got {directory}, which {what}; hauberk calibrate writes one")
    found, card = _read_card(directory)
    if digest is not None and found != digest:
        raise InvalidBundle(
            f"expected the bundle in {directory} to have sha256 {digest[:12]}..., got {found[:12]}...; a server serves the bundle "
            "that it was started with, start it again to serve another"
        )
    digests = card["files"]
    for name in digests.keys() - {SETTINGS, CALIBRATION}:
        _check(directory / name, _sha256(directory / name), digests[name])
    settings = _read_settings(directory / SETTINGS, _verified(directory, SETTINGS, digests[SETTINGS]))
    bundle = Bundle(directory, found, settings, _read_calibration(directory, digests[CALIBRATION]), card)
    if bundle.engine in MODEL_OF:
        _check_listed(directory / CARD, digests, MODEL_OF[bundle.engine])
    if (bundle.engine == "remote") != ("remote" in settings["classifier"]):
        raise InvalidBundle(
            f'expected {directory / SETTINGS} to say where the classifier is served (remote) with engine = "remote", and only then; run '
            "hauberk calibrate again"
        )
    return bundle


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
        example: a valid request body, written to `EXAMPLE`.

    Raises: InvalidBundle: no model, or settings that `read_bundle` does not accept.
    """
    (directory / SETTINGS).write_text(_toml(settings), encoding="utf-8")
    np.savez_compressed(directory / CALIBRATION, **calibration)  # type: ignore[arg-type]  # numpy types **kwds as its own options
    models = (*MODEL_OF.values(), ONNX_EXPERT, EXPERT)
    names = [*_REQUIRED, *(name for name in models if (directory / name).exists())]
    if example is not None:
        (directory / EXAMPLE).write_text(json.dumps(example))
        names.append(EXAMPLE)
    return _write_card(directory, card, names)


def replaced(directory: Path, *, settings: Mapping[str, Any], card: Mapping[str, Any]) -> Bundle:
    """Write other settings and another card into a bundle and read it back; a model beside them is taken in. Raises: InvalidBundle."""
    _, before = _read_card(directory)
    (directory / SETTINGS).write_text(_toml(settings), encoding="utf-8")
    models = (name for name in MODEL_OF.values() if (directory / name).exists())
    return _write_card(directory, card, dict.fromkeys((*before["files"], *models)))


def record(bundle: Bundle, name: str, found: Any) -> Bundle:
    """Write a measurement under `name` into a bundle's card, which changes the bundle's version. Raises: InvalidBundle."""
    card = {key: value for key, value in bundle.card.items() if key != name}
    files = card.pop("files")
    (bundle.directory / CARD).write_text(json.dumps({**card, name: found, "files": files}, indent=2) + "\n")
    return read_bundle(bundle.directory)


def _write_card(directory: Path, card: Mapping[str, Any], names: Iterable[str]) -> Bundle:
    digests = {name: _sha256(directory / name) for name in names}
    (directory / CARD).write_text(json.dumps({**card, "files": digests}, indent=2) + "\n")
    return read_bundle(directory)


def _read_card(directory: Path) -> tuple[str, dict[str, Any]]:
    path = directory / CARD
    try:
        text = read_file(path, at_most=BYTES_AT_MOST[CARD])
        card = json.loads(text)
        digests = dict(card["files"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as failure:
        raise InvalidBundle(
            f"expected {path} to be a bundle's card with a list of files; run hauberk calibrate again"
        ) from failure
    for name in _REQUIRED:
        _check_listed(path, digests, name)
    present = {file.name for file in directory.iterdir()}
    for name in digests:
        if name not in present:  # a path out of the directory is not present either
            raise InvalidBundle(
                f"expected {directory / str(name)}, which {path} lists, but it does not exist; copy the whole bundle"
            )
    return hashlib.sha256(text).hexdigest(), {**card, "files": digests}


def _check_listed(path: Path, digests: Mapping[str, Any], name: str) -> None:
    if name not in digests:
        raise InvalidBundle(f"expected {path} to list the digest of {name}; run hauberk calibrate again")


def _read_settings(path: Path, content: bytes) -> dict[str, Any]:
    try:
        settings = tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as failure:
        raise InvalidBundle(f"{path} cannot be read as TOML: {failure}") from failure
    if settings.get("format") != FORMAT:
        raise InvalidBundle(
            f"expected {path} to begin with format = {FORMAT}, got {settings.get('format')!r}; run hauberk calibrate again"
        )
    try:
        return _Settings.model_validate(settings).model_dump(exclude_unset=True)  # what is read is what was written
    except ValidationError as failure:
        first = failure.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InvalidBundle(f"{path}: {place}: {first['msg']}; run hauberk calibrate again") from failure


def _read_calibration(directory: Path, expected: str) -> dict[str, NDArray[Any]]:
    path = directory / CALIBRATION
    content = _verified(directory, CALIBRATION, expected)
    try:
        return read_arrays(io.BytesIO(content), room=FOR_BUNDLES)
    except OutOfBounds as failure:
        raise InvalidBundle(f"{path} {failure}; run hauberk calibrate again") from failure
    except Exception as failure:  # damaged archives raise a dozen kinds of exceptions
        raise InvalidBundle(f"{path} cannot be read as an .npz archive; run hauberk calibrate again") from failure


def _verified(directory: Path, name: str, expected: str) -> bytes:
    """The content of a file that has this sha256."""
    path = directory / name
    with _opened(path) as file:
        content = file.read(_bytes_at_most(path) + 1)
    _check(path, hashlib.sha256(content).hexdigest(), expected)
    return content


def _copy(path: Path, to: Path) -> None:
    with _opened(path) as file:
        try:
            with to.open("xb") as copy:
                shutil.copyfileobj(file, copy, _COPIED_AT_ONCE)
        except OSError as failure:
            raise InvalidBundle(
                f"{path} cannot be copied to {to.parent} ({_reason(failure)}); make room, or set TMPDIR to a directory with room"
            ) from failure


def _sha256(path: Path) -> str:
    with _opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise InvalidBundle(
            f"{path} is not the file {path.with_name(CARD)} was written for: expected sha256 {str(expected)[:12]}..., "
            f"got {found[:12]}...; copy the bundle again, or run hauberk calibrate"
        )


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    """A file of a bundle, open. Raises: InvalidBundle: no file, or one that is too long."""
    most = _bytes_at_most(path)
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > most:
                raise InvalidBundle(f"expected {path} to have {most} bytes at most, got {size}; run hauberk calibrate again")
            yield file
    except OSError as failure:
        raise InvalidBundle(f"{path} cannot be read ({_reason(failure)}); copy the bundle again") from failure


def _bytes_at_most(path: Path) -> int:
    return BYTES_AT_MOST.get(path.name, OTHERS_AT_MOST)


@contextmanager
def _private_directory() -> Iterator[Path]:
    try:
        made = tempfile.mkdtemp(prefix="hauberk-")
    except OSError as failure:
        raise InvalidBundle(
            f"a model is loaded from a private copy, and there is no place for one ({_reason(failure)}); set TMPDIR to a directory "
            "with room"
        ) from failure
    try:
        yield Path(made)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _reason(failure: OSError) -> str:
    return (failure.strerror or str(failure)).lower()


def _toml(settings: Mapping[str, Any]) -> str:
    """hauberk.toml: scalars, then [classifier], then [[defences]]."""
    scalars = {key: value for key, value in settings.items() if not isinstance(value, dict | list | None)}
    lines = [f"{key} = {_toml_value(value)}" for key, value in scalars.items()]
    if not settings["defences"]:  # an empty list has no [[defences]] section
        lines.append("defences = []")
    sections = [("[classifier]", settings["classifier"]), *(("[[defences]]", defence) for defence in settings["defences"])]
    for header, values in sections:
        lines += ["", header, *(f"{key} = {_toml_value(value)}" for key, value in values.items())]
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    """JSON scalars and arrays are TOML scalars and arrays, but for \\u-escaped surrogates and a bare DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
