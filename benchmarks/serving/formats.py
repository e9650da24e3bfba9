"""The same 224x224x3 photographs as JSON, .npy files and binary tensors, with a classifier whose forward pass costs almost nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.harness import requests as wire
from benchmarks.harness.cells import LoadCell, Loader
from benchmarks.harness.peers import photographs, table
from benchmarks.harness.servers import GATEWAY, Contender, serving
from benchmarks.harness.wanted import Wanted
from models.bundle import Bundle, write_bundle
from models.engines.keras import import_tensorflow

_SIDE, _COUNT, _SEED = 224, 24, 0
_NAME = "stub"
_CLIENTS = 16
_DECIMALS = 4
_WANTED = 3.0


def measure(loader: Loader, directory: Path) -> tuple[str, list[Wanted]]:
    """The text with its table, and the wanted ratios."""
    bundle = _stub(directory / _NAME)
    pictures = photographs(_SIDE, _COUNT, _SEED)
    bytes_ = wire.to_bytes(pictures)
    formats = {
        f"JSON, {_DECIMALS} decimals": [wire.as_json(image, _DECIMALS) for image in bytes_],
        "JSON, all digits": [wire.as_json(image) for image in bytes_],
        "npy, float32": [wire.as_npy(image) for image in pictures],
        "npy, uint8": [wire.as_npy(image) for image in bytes_],
        "binary tensor, FP32": [wire.as_tensor(image, _NAME) for image in pictures],
        "binary tensor, UINT8": [wire.as_tensor(image, _NAME) for image in bytes_],
    }
    contender = Contender("stub", GATEWAY, {"HAUBERK_BUNDLE": str(bundle.directory)})
    with serving(contender, directory / "formats", formats["npy, uint8"][0]) as server:
        pairs = [(server, loader.prepare(requests)) for requests in formats.values()]
        cells = dict(zip(formats, loader.alternate_requests(pairs, clients=_CLIENTS), strict=True))
    fastest_json = max((cell for name, cell in cells.items() if name.startswith("JSON")), key=lambda cell: cell.rate)
    sizes = {name: float(np.mean([len(request) for request in requests])) for name, requests in formats.items()}
    wanted = [
        Wanted(f"224x224x3 as {name} to the faster JSON, requests/s", _WANTED, cells[name].rate / fastest_json.rate)
        for name in ("npy, uint8", "binary tensor, UINT8", "binary tensor, FP32")
    ]
    return _text(cells, sizes, fastest_json.rate), wanted


def _stub(directory: Path) -> Bundle:
    """A bundle without defences; its model is a mean over the image and one dense layer, so that parsing is nearly all the work."""
    import_tensorflow(1)
    import keras

    directory.mkdir()
    keras.utils.set_random_seed(_SEED)
    layers: Sequence[object] = [
        keras.Input((_SIDE, _SIDE, 3)),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(10, activation="softmax"),
    ]
    keras.Sequential(layers).save(directory / "model.keras")
    classifier = {
        "file": "model.keras",
        "outputs": "probabilities",
        "input_range": [0.0, 1.0],
        "input_shape": [_SIDE, _SIDE, 3],
        "labels": [str(label) for label in range(10)],
    }
    settings = {"format": 1, "name": _NAME, "classifier": classifier, "defences": []}
    return write_bundle(directory, settings=settings, calibration={}, card={})


def _text(cells: dict[str, LoadCell], sizes: dict[str, float], json_rate: float) -> str:
    rows = [
        [
            name,
            f"{sizes[name] / 1024:,.0f}",
            f"{cell.rate:,.0f}",
            f"**{cell.rate / json_rate:.2f}x**",
            f"{cell.percentile_ms(50):.1f}",
            f"{cell.percentile_ms(99):.1f}",
            cell.failures,
        ]
        for name, cell in cells.items()
    ]
    header = ("format", "KiB a request", "requests/s", "to the faster JSON", "p50 ms", "p99 ms", "failed")
    return (
        f"### Formats at {_SIDE}x{_SIDE}x3\n\n{_CLIENTS} clients, one image a request, {_COUNT} different crops of scikit-learn's two "
        f"photographs; a bundle without defences whose model is a mean over the image and one small layer.\n\n{table(header, rows)}"
    )
