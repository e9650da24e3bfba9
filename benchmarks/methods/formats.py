"""python -m benchmarks.methods.formats: one colour model from every framework, from its file to answers over HTTP."""

from __future__ import annotations

import http.client
import io
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.coloured_digits import coloured_digits
from benchmarks.harness.mlserver import PYTHON, inference, mlserver, python, remote_bundle
from benchmarks.harness.peers import table
from benchmarks.harness.requests import http_request
from benchmarks.harness.servers import GATEWAY, Contender, Server, serving
from models.bundle import read_bundle
from models.classifier import Images
from models.datasets import MNIST, Dataset, load_dataset
from models.engines.keras import import_tensorflow

_SEED, _TRAINED_ON, _CALIBRATED_ON, _SHOWN = 0, 6000, 300, 1000
_EPOCHS, _AT_ONCE = 6, 20
_NPY = "application/x-npy"
_OFF = "total_variation=off,strip=off,reverse_sigmoid=off"
_SECRET = {"HAUBERK_SECRET": "a secret of the benchmark"}


@dataclass(frozen=True)
class Saved:
    """A model file, and the labels that its own framework gives the images that are shown."""

    name: str
    file: Path
    labels: NDArray[np.int64]


def section() -> str:
    """The page's section.

    Needs PyTorch with onnxscript (pip install torch onnxscript); its last lines need MLServer (`benchmarks/harness/mlserver.py`).
    """
    train, test = (load_dataset(MNIST, split=split) for split in ("train", "test"))
    trained_on = coloured_digits(train.take(slice(0, _TRAINED_ON)), seed=_SEED)
    clean = coloured_digits(test.take(slice(0, _CALIBRATED_ON)), seed=_SEED + 1)
    shown = coloured_digits(test.take(slice(2000, 2000 + _SHOWN)), seed=_SEED + 2)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        np.savez(Path(scratch) / "clean.npz", images=clean.images, labels=clean.labels)
        for saved in _saved(Path(scratch), trained_on, shown.images):
            print(saved.name, file=sys.stderr, flush=True)
            rows.append(_row(saved, Path(scratch), shown))
        remote = _remote(saved, Path(scratch), clean, shown)
    header = (
        "file",
        "accuracy in its own framework",
        f"same labels of {_SHOWN:,} served",
        "largest difference, calibration images",
        "engine",
    )
    return (
        "## Formats\n\n"
        f"`python -m benchmarks formats`, seed {_SEED}: small networks for 32x32x3 trained in each framework on {_TRAINED_ON:,} "
        f"coloured digits, saved, calibrated by `hauberk calibrate` on {_CALIBRATED_ON}, served, and asked over HTTP, "
        f"with the defences, which change answers, off.\n\n{table(header, rows)}\n{remote}"
    )


def _bundle_of(saved: Saved, scratch: Path) -> Path:
    return scratch / "bundles" / saved.name.replace(" ", "-").replace(".", "").replace(",", "")


def _row(saved: Saved, scratch: Path, shown: Dataset) -> list[str]:
    out = _bundle_of(saved, scratch)
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        "from hauberk.main import main; main()",
        "calibrate",
        "--false-abstention-rate=0.05",
    ]
    subprocess.run([*command, f"--classifier={saved.file}", f"--data={scratch / 'clean.npz'}", f"--out={out}"], check=True)
    bundle = read_bundle(out)
    settings = {"HAUBERK_BUNDLE": str(out), "HAUBERK_MODES": _OFF}
    with serving(Contender(saved.name, GATEWAY, settings), scratch / "server" / out.name, _request(shown.images[:1])) as server:
        served = np.array([bundle.labels.index(answer["label"]) for answer in _answers(server, shown.images)])
    same = int((served == saved.labels).sum())
    agreement = bundle.card["engine"]["agreement"]
    difference = "" if agreement is None else f"{agreement['largest_difference']:.1e}"
    return [saved.name, f"{100 * (saved.labels == shown.labels).mean():.1f} %", f"{same:,}", difference, bundle.engine]


def _npy(images: Images) -> bytes:
    out = io.BytesIO()
    np.save(out, images)
    return out.getvalue()


def _request(images: Images) -> bytes:
    return http_request("/predict/npy", _NPY, _npy(images))


def _answers(server: Server, images: Images) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
        for start in range(0, len(images), _AT_ONCE):
            body = _npy(images[start : start + _AT_ONCE])
            connection.request("POST", "/predict/npy", body, {"content-type": _NPY})
            response = connection.getresponse()
            answer = response.read()
            assert response.status == http.client.OK, answer
            found += json.loads(answer)["predictions"]
    return found


def _remote(saved: Saved, scratch: Path, clean: Dataset, shown: Dataset) -> str:
    """The bundle of this model, and the same with MLServer in place of its model: whether all answers are the same."""
    interpreter = python()
    if interpreter is None:
        return f"Not measured: the same in front of MLServer, since {PYTHON} names no Python with it.\n"
    bundle, first = read_bundle(_bundle_of(saved, scratch)), _request(shown.images[:1])
    contender, port = mlserver(interpreter, scratch / "mlserver", bundle)
    with serving(contender, scratch / "mlserver-home", inference(shown.images[0]), port=port):
        remote = remote_bundle(bundle, port, scratch / "remote", clean.images)
        answers = []
        for each in (bundle, remote):
            settings = _SECRET | {"HAUBERK_BUNDLE": str(each.directory)}
            with serving(Contender(each.name, GATEWAY, settings), scratch / "server" / each.directory.name, first) as server:
                answers.append(_answers(server, shown.images))
    here, there = answers
    same = sum(one["label"] == other["label"] for one, other in zip(here, there, strict=True))
    pairs = [(one["probabilities"], other["probabilities"]) for one, other in zip(here, there, strict=True)]
    both = [pair for pair in pairs if None not in pair]
    difference = max(float(np.abs(np.subtract(one, other)).max()) for one, other in both)
    return (
        f"The bundle of the last one ({saved.name}) and the same with MLServer in place of its model, every defence on, one secret: the "
        f"same label or refusal for {same:,} of {len(here):,} images ({sum(one['abstained'] for one in here):,} refused in process); "
        f"answered probabilities differ by {difference:.1e} at most.\n"
    )


def _saved(scratch: Path, data: Dataset, shown: Images) -> Iterator[Saved]:
    """The model files, written by their frameworks."""
    yield from _of_keras(scratch, data, shown)
    yield from _of_scikit_learn(scratch, data, shown)
    yield from _of_torch(scratch, data, shown)


def _of_keras(scratch: Path, data: Dataset, shown: Images) -> Iterator[Saved]:
    import_tensorflow()
    import keras

    keras.utils.set_random_seed(_SEED)
    layers = keras.layers
    convolutions = [layers.Conv2D(filters, 3, strides=2, padding="same", activation="relu") for filters in (16, 32, 64)]
    network = keras.Sequential(
        [keras.Input((32, 32, 3)), *convolutions, layers.Flatten(), layers.Dense(10, activation="softmax")]
    )
    network.compile("adam", "sparse_categorical_crossentropy")
    network.fit(data.images, data.labels, batch_size=64, epochs=_EPOCHS, verbose=0)
    labels = network.predict(shown, verbose=0).argmax(axis=1)
    for name, file in (("Keras .keras", "k.keras"), ("Keras .h5", "k.h5")):
        network.save(scratch / file)
        yield Saved(name, scratch / file, labels)
    network.export(str(scratch / "saved_model"), verbose=False)
    yield Saved("SavedModel", scratch / "saved_model", labels)


def _of_scikit_learn(scratch: Path, data: Dataset, shown: Images) -> Iterator[Saved]:
    from sklearn.ensemble import ExtraTreesClassifier
    from skops.io import dump

    forest = ExtraTreesClassifier(100, random_state=_SEED, n_jobs=2).fit(data.images.reshape(len(data), -1), data.labels)
    dump(forest, scratch / "forest.skops")
    yield Saved(
        "scikit-learn .skops", scratch / "forest.skops", forest.predict_proba(shown.reshape(len(shown), -1)).argmax(axis=1)
    )


def _of_torch(scratch: Path, data: Dataset, shown: Images) -> Iterator[Saved]:
    import torch

    network, images = _torch_network(torch, data), torch.from_numpy(np.ascontiguousarray(shown.transpose(0, 3, 1, 2)))
    with torch.no_grad():
        labels = network(images).argmax(dim=1).numpy()
    example = (images[:2].clone(),)
    with warnings.catch_warnings(action="ignore"):
        program = torch.export.export(network, example, dynamic_shapes=({0: torch.export.Dim("n")},))
        torch.export.save(program, scratch / "t.pt2")
        torch.jit.script(network).save(str(scratch / "t.pt"))
        torch.onnx.export(program, dynamo=True, verbose=False).save(scratch / "t.onnx")
    for name, file in (("PyTorch .pt2", "t.pt2"), ("TorchScript", "t.pt"), ("ONNX, from PyTorch", "t.onnx")):
        yield Saved(name, scratch / file, labels)


def _torch_network(torch: Any, data: Dataset) -> Any:
    nn = torch.nn
    torch.manual_seed(_SEED)
    layers: list[Any] = []
    for given, filters in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(given, filters, 3, stride=2, padding=1), nn.BatchNorm2d(filters), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, 10))
    images, labels = torch.from_numpy(np.ascontiguousarray(data.images.transpose(0, 3, 1, 2))), torch.from_numpy(data.labels)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for epoch in range(_EPOCHS):
        order = torch.from_numpy(np.random.default_rng(epoch).permutation(len(data)))
        for rows in order.split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images[rows]), labels[rows]).backward()
            optimizer.step()
    return network.eval()


if __name__ == "__main__":
    print(section())
