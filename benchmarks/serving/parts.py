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
import uvloop

from defences.assembly import assemble
from defences.defended_classifier import Decisions, DefendedClassifier
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
_SECRET, _ID = b"a secret of the benchmark", "0" * 32
_IMAGES, _REPEATS, _COMPARED = 320, 5, 2000
_CORNER = 4
_CALLS = 1000
_DEADLINE_S = 600.0  # kernels may have to be compiled first


class Clock:
    """Processor time of one thread by part, without that of other parts within it."""

    def __init__(self) -> None:
        self.seconds, self.calls, self._within = dict.fromkeys(PARTS, 0.0), dict.fromkeys(PARTS, 0), 0.0

    def timed(self, part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same work, whose time is that of a part."""

        def call(*given: Any) -> Any:
            before, self._within = self._within, 0.0
            began = time.thread_time()
            try:
                return work(*given)
            finally:
                spent = time.thread_time() - began
                self.seconds[part] += spent - self._within
                self.calls[part] += 1
                self._within = before + spent

        return call


class Timed:
    """An object whose methods and properties take the time of a part; what `begin` returns is such an object, too."""

    def __init__(self, of: Any, part: str, clock: Clock) -> None:
        self._of, self._part, self._clock = of, part, clock

    def __getattr__(self, name: str) -> Any:
        found = self._clock.timed(self._part, getattr)(self._of, name)
        return self._clock.timed(self._part, found) if callable(found) else found

    def __call__(self, *given: Any) -> Any:
        """See what is timed."""
        return self._clock.timed(self._part, self._of)(*given)

    def begin(self, *given: Any) -> Timed:
        """See `Detector`."""
        return Timed(self._clock.timed(self._part, self._of.begin)(*given), self._part, self._clock)


def timed(of: Any, part: str, clock: Clock) -> Any:
    """The object as one that takes the time of a part, in whatever role."""
    return Timed(of, part, clock)


class Backdoored:
    """A classifier that sees its last class in every image with a white corner."""

    def __init__(self, classifier: Classifier) -> None:
        self._of, self.labels, self.input_shape = classifier, classifier.labels, classifier.input_shape

    def predict(self, images: Images) -> Probabilities:
        """See `Classifier`."""
        outputs = self._of.predict(images).copy()
        outputs[(images[:, :_CORNER, :_CORNER] >= 1).all(axis=(1, 2, 3))] = np.eye(len(self.labels), dtype=np.float32)[-1]
        return outputs


def measure(bundle: Bundle, together: int, *, defended: bool, repeats: int = _REPEATS) -> dict[str, float]:
    """Microseconds of a processor per image by part, the median of repeats, for so many clients that each ask for an image at a time.

    Each image goes the way of a request without HTTP: its body is read, the batcher decides on it, its answer is written. What the clock
    itself takes is measured and left out.
    """
    images = load_dataset(MNIST, split="test").images[:_IMAGES]
    bodies = [orjson.dumps({"images": image[..., 0].tolist()}) for image in np.split(images, len(images))]
    classifier = classifier_of(bundle, threads=1)
    found: list[dict[str, float]] = []
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for _ in range(repeats + 1):
            loop, worker = Clock(), Clock()
            way = _Way(bundle, classifier, loop, worker, defended=defended)
            whole = runner.run(way.all_of(bodies, together))
            found.append(_shares(whole, loop, worker))
    return {part: 1e6 * float(np.median([each[part] for each in found[1:]])) / _IMAGES for part in found[0]}


class _Way:
    """The way of a request without HTTP, with a clock of the event loop's thread and one of the worker's."""

    def __init__(self, bundle: Bundle, classifier: Classifier, loop: Clock, worker: Clock, *, defended: bool) -> None:
        modes: Any = {} if defended else dict.fromkeys([each["name"] for each in bundle.settings["defences"]], "off")
        admission, writer = Admission(bundle.input_shape, 1), AnswerWriter(bundle.name, bundle.version, bundle.labels)
        self.read, self.write = loop.timed(READ, admission.images), loop.timed(WRITE, writer.answer)
        self.path = _Path(_timed_path(bundle, classifier, modes, worker), worker)
        self.observer = timed(Metrics(new_registry(), labels=bundle.labels, build=("", "", "")), METRICS, worker)

    async def all_of(self, bodies: Sequence[bytes], together: int) -> float:
        """The seconds of a processor that all bodies took."""
        batcher = Batcher(self.path, self.observer, deadline_s=_DEADLINE_S)
        began = time.process_time()
        await asyncio.gather(*(self._client(batcher, bodies[first::together]) for first in range(together)))
        whole = time.process_time() - began
        await batcher.stop()
        return whole

    async def _client(self, batcher: Batcher[Any], bodies: Sequence[bytes]) -> None:
        for body in bodies:
            self.write(_ID, await batcher.classify(self.read(body)))


class _Path:
    """A data path whose steps are timed."""

    def __init__(self, path: DefendedClassifier, clock: Clock) -> None:
        self.begin, self.join = clock.timed(PATH, path.begin), clock.timed(PATH, path.join)
        self.costs, self.advance = clock.timed(PATH, path.costs), clock.timed(PATH, path.advance)


def _timed_path(bundle: Bundle, classifier: Classifier, modes: Mapping[str, Any], clock: Clock) -> DefendedClassifier:
    plain = assemble(bundle, timed(classifier, FORWARD, clock), secret=_SECRET, modes=modes)
    path = DefendedClassifier(
        plain.classifier,
        preprocessors=[replace(step, defence=timed(step.defence, PURIFY, clock)) for step in plain.preprocessors],
        detectors=[replace(step, defence=timed(step.defence, STRIP, clock)) for step in plain.detectors],
        postprocessors=[replace(step, defence=timed(step.defence, OBSCURE, clock)) for step in plain.postprocessors],
        secret=_SECRET,
    )
    vars(path)["keys"] = clock.timed(KEYS, path.keys)
    return path


def _shares(whole: float, *clocks: Clock) -> dict[str, float]:
    inside, around = _cost_of_a_clock()
    seconds = {part: sum(clock.seconds[part] - inside * clock.calls[part] for clock in clocks) for part in PARTS}
    calls = {part: sum(clock.calls[part] for clock in clocks) for part in PARTS}
    seconds[PATH] -= around * sum(calls[part] for part in (KEYS, PURIFY, STRIP, FORWARD, OBSCURE))
    seconds[BATCHER] = whole - sum(seconds.values()) - (inside + around) * sum(calls.values())
    return {part: spent for part, spent in seconds.items() if calls[part] or part == BATCHER}


def _cost_of_a_clock() -> tuple[float, float]:
    """What reading it adds to the part that is timed, and to what is around."""
    clock = Clock()
    nothing = timed(_Nothing(), FORWARD, clock)
    clock.timed(PATH, lambda: [nothing.nothing for _ in range(_CALLS)])()
    return clock.seconds[FORWARD] / _CALLS, clock.seconds[PATH] / _CALLS


class _Nothing:
    nothing = None


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
