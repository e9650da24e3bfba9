"""Give a bundle that was calibrated with a Keras model alone a model.onnx too, and leave its defences as they are.

    python -m models.engines.convert_bundle models/bundles/mnist models/data/mnist.npz

The images are those that the bundle was calibrated on, which its card names; another file than the one of the card is refused. Everything
but hauberk.toml and card.json keeps its bytes; the card's digest, the bundle's version, changes.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from models.bundle import ONNX_MODEL, Bundle, read_bundle, replaced
from models.classifier import Images
from models.datasets import load_dataset
from models.engines.conversion import Conversion, convert
from models.errors import InvalidInput
from models.files import read_file
from models.machine import processors

_DATA_BYTES = 16 << 30


def convert_bundle(directory: Path, data: Path, *, threads: int | None = None) -> tuple[Bundle, Conversion]:
    """Convert a bundle in place: written beside it, read back, then moved. Raises: InvalidInput, InvalidBundle."""
    from models.engines.keras import KerasClassifier

    bundle, used = read_bundle(directory), threads or processors()
    _check_reads_no_layer(bundle)
    images = calibration_images(bundle, data)
    conversion = convert(KerasClassifier.from_bundle(bundle, threads=used), images, threads=used)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as scratch:
        draft = Path(scratch) / "bundle"
        shutil.copytree(directory, draft)
        if conversion.model is not None:
            (draft / ONNX_MODEL).write_bytes(conversion.model)
        replaced(draft, settings=_settings(bundle, conversion), card=_card(bundle, conversion))
        shutil.rmtree(directory)
        draft.replace(directory)
    return read_bundle(directory), conversion


def _check_reads_no_layer(bundle: Bundle) -> None:
    for defence in bundle.settings["defences"]:
        if "layer" in defence:
            raise InvalidInput(
                f"expected a bundle none of whose detectors reads a layer, but {defence['name']} reads {defence['layer']}, which has "
                "another name in ONNX; run hauberk calibrate again, which fits it to the converted model"
            )


def calibration_images(bundle: Bundle, data: Path) -> Images:
    """The images that a bundle was calibrated on. Raises: InvalidInput: another file."""
    said = bundle.card["calibration"]["data"]
    if hashlib.sha256(read_file(data, at_most=_DATA_BYTES)).hexdigest() != said["sha256"]:
        raise InvalidInput(f"expected {said['file']}, which {bundle.directory} was calibrated on, got {data}, another file")
    start, stop = map(int, said["rows"].split(":"))
    return load_dataset(data, split=said["split"] or "train").images[start:stop]


def _settings(bundle: Bundle, conversion: Conversion) -> dict[str, Any]:
    classifier = {key: value for key, value in bundle.settings["classifier"].items() if key != "engine"}
    return bundle.settings | {"classifier": {"engine": conversion.engine, **classifier}}


def _card(bundle: Bundle, conversion: Conversion) -> dict[str, Any]:
    """The card with the engine where calibration writes it, before what was calibrated."""
    card: dict[str, Any] = {}
    for key, value in bundle.card.items():
        if key == "calibration":
            card["engine"] = conversion.card()
        if key not in ("engine", "files"):
            card[key] = value
    return card


def main() -> None:
    """Convert the bundle of the first argument with the data of the second."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--threads", type=int, help="of both engines; all processors when not given")
    wanted = parser.parse_args()
    try:
        bundle, conversion = convert_bundle(wanted.bundle, wanted.data, threads=wanted.threads)
    except InvalidInput as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        sys.exit(2)
    print(f"bundle {bundle.name}, version {bundle.version}: {conversion.reason}")


if __name__ == "__main__":
    main()
