"""Processor time of an image part by part, in one process without HTTP: what `benchmarks/serving/shares.py` runs, as JSON.

Run by its path it measures the checkout that PYTHONPATH names, so that two of them can be measured in turns.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from defences.assembly import assemble
from defences.defended_classifier import Decisions, DefendedClassifier, Trace, Wave
from defences.keyed import image_keys
from defences.table import DEFENCES
from models.bundle import Bundle, read_bundle
from models.classifier import Classifier, Images, Probabilities
from models.datasets import MNIST, load_dataset
from models.engines.bundle_classifier import classifier_of
from service.batching import Batcher
from service.formats.answers import AnswerWriter
from service.formats.json_images import Admission
from service.lifecycle.startup import tune_the_interpreter
from service.observing.metrics import Metrics, new_registry

READ, KEYS, PURIFY, STRIP, FORWARD, OBSCURE, PATH, METRICS, BATCHER, WRITE = (
    "reading the body",
    "keys of images",
    "the purifier",
    "STRIP's session",
    "forward passes",
    "the reverse sigmoid",
    "rest of the data path",
    "metrics",
    "the batcher",
    "writing the answer",
)
PARTS = (READ, KEYS, PURIFY, STRIP, FORWARD, OBSCURE, PATH, METRICS, BATCHER, WRITE)
_WHOLE = "data path"
_SECRET, _ID = b"a secret of the benchmark", "0" * 32
_IMAGES, _REPEATS, _COMPARED = 320, 21, 2000
_CORNER = 4

Work = Callable[[], object]


class Recorder:
    """A classifier that keeps what it was asked, and what it answered."""

    def __init__(self, classifier: Classifier) -> None:
        self._of, self.labels, self.input_shape = classifier, classifier.labels, classifier.input_shape
        self.calls: list[tuple[Images, Probabilities]] = []

    def predict(self, images: Images) -> Probabilities:
        """See `Classifier`."""
        outputs = self._of.predict(images)
        self.calls.append((images, outputs))
        return outputs


class Backdoored:
    """A classifier that sees its last class in every image with a white corner."""

    def __init__(self, classifier: Classifier) -> None:
        self._of, self.labels, self.input_shape = classifier, classifier.labels, classifier.input_shape

    def predict(self, images: Images) -> Probabilities:
        """See `Classifier`."""
        outputs = self._of.predict(images).copy()
        outputs[(images[:, :_CORNER, :_CORNER] >= 1).all(axis=(1, 2, 3))] = np.eye(len(self.labels), dtype=np.float32)[-1]
        return outputs


class _Answered:
    """A data path that has its answer at once: what is left is the batcher."""

    def __init__(self, decisions: Decisions) -> None:
        self._decisions, self._left = decisions, 0

    def begin(self, images: Images) -> _Answered:
        self._given = self._joined = len(images)
        return self

    def join(self, batch: _Answered, images: Images) -> None:
        self._given, self._joined = len(images), self._joined + len(images)

    def costs(self, batch: _Answered) -> tuple[Any, Any]:
        return np.arange(self._joined - self._given, self._joined), np.ones(self._given, np.int64)

    def advance(self, batch: _Answered, turn: Any = None) -> Wave:
        return np.arange(self._joined - self._given, self._joined), self._decisions


class _Unheard:
    """An `Observer` of the batcher that does nothing."""

    def batch(self, images: int, waited_s: Sequence[float]) -> None: ...

    def decided(self, decisions: Decisions) -> None: ...

    def failed(self, failure: Exception) -> None: ...


def measure(bundle: Bundle, together: int, *, defended: bool, repeats: int = _REPEATS) -> dict[str, float]:
    """Microseconds of a processor per image by part, the median of repeats that take turns, for so many images at once."""
    modes: Mapping[str, Any] = {} if defended else dict.fromkeys(DEFENCES, "off")
    modes = {each["name"]: modes.get(each["name"], each["mode"]) for each in bundle.settings["defences"]}
    images = load_dataset(MNIST, split="test").images[:_IMAGES]
    classifier = classifier_of(bundle, threads=1)
    works = _works(bundle, classifier, modes, np.split(images, _IMAGES // together))
    seconds: dict[str, list[float]] = {part: [] for part in works}
    for repeat in range(repeats + 1):
        for part, work in works.items():
            began = time.process_time()
            work()
            if repeat:
                seconds[part].append(time.process_time() - began)
    found = {part: 1e6 * float(np.median(spent)) / _IMAGES for part, spent in seconds.items()}
    whole = found.pop(_WHOLE)
    return found | {PATH: whole - sum(found.get(part, 0.0) for part in (KEYS, PURIFY, STRIP, FORWARD, OBSCURE))}


def _works(bundle: Bundle, classifier: Classifier, modes: Mapping[str, Any], batches: Sequence[Images]) -> dict[str, Work]:
    defended = assemble(bundle, classifier, secret=_SECRET, modes=modes)
    recorders = [_recorded(bundle, classifier, modes, batch) for batch in batches]
    waves = [[wave for _, wave in defended.waves(batch)] for batch in batches]
    images = np.split(np.concatenate(batches), _IMAGES)
    ones = [defended.classify(image) for image in images]
    bodies = [orjson.dumps({"images": image[..., 0].tolist()}) for image in images]
    keys = [image_keys(batch, _SECRET) for batch in batches]
    admission = Admission(bundle.input_shape, len(batches[0]))
    writer = AnswerWriter(bundle.name, bundle.version, bundle.labels)
    metrics = Metrics(new_registry(), labels=bundle.labels, build=("", "", ""))
    works: dict[str, Work] = {
        _WHOLE: lambda: [defended.classify(batch) for batch in batches],
        READ: lambda: [admission.images(body) for body in bodies],
        KEYS: lambda: [image_keys(batch, _SECRET) for batch in batches],
        FORWARD: lambda: [classifier.predict(rows) for recorder in recorders for rows, _ in recorder.calls],
        METRICS: lambda: [_observed(metrics, batch, decided) for batch, decided in zip(batches, waves, strict=True)],
        BATCHER: lambda: asyncio.run(_batched(batches, ones[0])),
        WRITE: lambda: [writer.answer(_ID, one) for one in ones],
    }
    for step in defended.preprocessors:
        works[PURIFY] = lambda purify=step.defence: [purify(*each) for each in zip(batches, keys, strict=True)]
    for detector in defended.detectors:
        works[STRIP] = lambda begin=detector.defence.begin: [
            _session(begin(batch, of), recorder.calls) for batch, of, recorder in zip(batches, keys, recorders, strict=True)
        ]
    for last in defended.postprocessors:
        works[OBSCURE] = lambda obscure=last.defence: [obscure(outputs) for outputs in _answered(recorders, len(batches[0]))]
    return works


def _recorded(bundle: Bundle, classifier: Classifier, modes: Mapping[str, Any], batch: Images) -> Recorder:
    recorder = Recorder(classifier)
    assemble(bundle, recorder, secret=_SECRET, modes=modes).classify(batch)
    return recorder


def _answered(recorders: Sequence[Recorder], count: int) -> list[Probabilities]:
    return [recorder.calls[0][1][:count] for recorder in recorders]


def _session(session: Any, calls: Sequence[tuple[Images, Probabilities]]) -> None:
    """A detector's session from its beginning to its end, with the outputs of another run."""
    answers = calls[0][1]
    for _, outputs in calls:
        rows = len(session.probe())
        session.decide(outputs[len(outputs) - rows :], answers)
        _ = session.undecided


def _observed(metrics: Metrics, batch: Images, waves: Sequence[Decisions]) -> None:
    metrics.batch(len(batch), [0.0] * len(batch))
    for decided in waves:
        metrics.decided(decided)


async def _batched(batches: Sequence[Images], one: Decisions) -> None:
    """Every batch as clients that each ask for an image at once, and wait for all answers."""
    batcher = Batcher(_Answered(replace(one.rows(np.zeros(len(batches[0]), np.int64)), trace=Trace())), _Unheard())
    for batch in batches:
        await asyncio.gather(*(batcher.classify(image) for image in np.split(batch, len(batch))))
    await batcher.stop()


def fingerprint(bundle: Bundle, count: int = _COMPARED) -> str:
    """A hash of every byte of the decisions on test digits, and on as many with the trigger of a perfect backdoor."""
    images = load_dataset(MNIST, split="test").images[:count]
    triggered = images.copy()
    triggered[:, :_CORNER, :_CORNER] = 1
    classifier = classifier_of(bundle, threads=1)
    paths = assemble(bundle, classifier, secret=_SECRET), assemble(bundle, Backdoored(classifier), secret=_SECRET)
    digest = hashlib.blake2b(digest_size=16)
    for defended, given in zip(paths, (images, triggered), strict=True):
        for decided in _in_batches(defended, given):
            calls = [detection.calls for detection in decided.trace.detections]
            for column in (decided.probabilities, decided.abstained, decided.labels, *calls):
                digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()


def _in_batches(defended: DefendedClassifier, images: Images) -> list[Decisions]:
    return [defended.classify(images[start : start + 50]) for start in range(0, len(images), 50)]


def main() -> None:
    """Print the parts of a bundle, or the fingerprint of its decisions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--together", type=int, default=1, help="images at once, default %(default)s")
    parser.add_argument("--off", action="store_true", help="every defence off")
    parser.add_argument("--repeats", type=int, default=_REPEATS, help="default %(default)s")
    parser.add_argument("--fingerprint", action="store_true", help="of the decisions, instead of times")
    given = parser.parse_args()
    bundle = read_bundle(given.bundle)
    if given.fingerprint:
        print(json.dumps(fingerprint(bundle)))
        return
    tune_the_interpreter()
    print(json.dumps(measure(bundle, given.together, defended=not given.off, repeats=given.repeats)))


if __name__ == "__main__":
    main()
