"""python -m benchmarks timing: what the time of an answer tells of the number of overlays, without a release schedule and with one.

An attacker asks about images of two kinds in random order, one request after the other over one connection on an idle machine, and
guesses the kind from the time of the answer: the AUC of a single query, .5 for a guess. The kinds are digits by the overlays that STRIP
takes for them under the benchmark's secret: the stages of the bundle that is served. Where they take all of them, most are refused.

Behind a schedule a query takes an interval or more, in which the machine is idle but for a few milliseconds. There several attackers,
each an address of its own, ask in turns within an interval: as many queries in a fraction of the time, and still one at a time. With 300
queries of each kind an AUC of .5 is measured with a standard deviation of .024, so that one of seven is beyond .55 or below .45 in
every fourth run although no time tells anything: a figure beyond is to be measured again (`--questions`).
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import requests as wire
from benchmarks.harness.cells import LoadCell, Loader
from benchmarks.harness.peers import table
from benchmarks.harness.raw_http import RawConnection
from benchmarks.harness.servers import GATEWAY, Contender, Server, serving
from benchmarks.harness.wanted import Wanted, wanted_table
from benchmarks.serving.service_tables import AT
from defences.assembly import assemble
from evaluation.statistics.roc import IntervalEstimate, auroc
from models.bundle import Bundle, read_bundle, standard_bundle_directory
from models.datasets import MNIST, load_dataset
from models.engines.bundle_classifier import classifier_of

QUERIES, CELL_S = 300, 30.0
_KEYS = {"HAUBERK_SECRET": "a secret of the benchmark"}
_OFF = "none"
_INTERVALS_S = (0.1, 0.2)
_AUC_AT_MOST = 0.55
_IMAGES, _TIMEOUT_S = 6000, 30.0
_IMAGES_OF_A_KIND, _IMAGES_PER_REQUEST = 8, 64
_ATTACKERS, _FIRST_ADDRESS = 4, 10


@dataclass(frozen=True)
class Question:
    """Which of two numbers of overlays? `copies` of one image a request, or as many `different` ones, or requests `together`."""

    few: int
    many: int
    copies: int = 1
    different: int = 1
    together: int = 1

    @property
    def attackers(self) -> int:
        """How many can ask in turns within an interval, and each query be over before the next begins."""
        return _ATTACKERS if self.different == self.together == 1 else _ATTACKERS // 2

    def __str__(self) -> str:
        extra = [
            (self.copies, f", {self.copies} copies a request"),
            (self.different, f", {self.different} different images a request"),
            (self.together, f", the last of {self.together} requests at once"),
        ]
        return f"{self.few} or {self.many}" + "".join(text for count, text in extra if count > 1)


def questions(numbers: Sequence[int], largest: int) -> tuple[Question, ...]:
    """The rows of the section, for images that take these numbers of overlays, and for so many images in the largest request.

    Two numbers are told apart: the fewest and the most, or the fewest and the next that is at least twice as many.
    """
    few, *more = sorted(numbers)
    if not more:
        raise ValueError(f"expected images that take different numbers of overlays, got only such that take {few}")
    twice, many = next((number for number in more if number >= 2 * few), more[-1]), more[-1]
    return (
        Question(few, many),
        Question(few, twice),
        Question(few, many, copies=4),
        Question(few, many, copies=largest),
        Question(few, twice, copies=largest),
        Question(few, many, different=4),
        Question(few, many, together=8),
    )


def served_bundle() -> Bundle:
    """The bundle that `serving` starts a server with."""
    return read_bundle(standard_bundle_directory())


def overlays_of(images: NDArray[np.float32], bundle: Bundle) -> NDArray[np.int64]:
    """How many overlays STRIP takes for each, in a gateway that serves this bundle with this benchmark's secret."""
    defended = assemble(bundle, classifier_of(bundle, threads=1), secret=_KEYS["HAUBERK_SECRET"].encode(), modes={}, threads=1)
    (strip,) = defended.classify(images).trace.detections
    return strip.calls


def pools(bundle: Bundle) -> dict[int, NDArray[np.uint8]]:
    """Digits by their number of overlays; a number that few take is left out."""
    digits = load_dataset(MNIST, split="test").take(slice(0, _IMAGES)).images
    numbers, counts = np.unique(overlays := overlays_of(digits, bundle), return_counts=True)
    kept = numbers[counts >= _IMAGES_OF_A_KIND]
    return {number: wire.to_bytes(digits[overlays == number]) for number in kept.tolist()}


def ask(
    port: int, question: Question, kinds: Mapping[int, NDArray[np.uint8]], queries: int, interval_s: float = 0.0
) -> IntervalEstimate | None:
    """The AUC over so many queries of each kind; None when the gateway takes no request of that size.

    Args:
        interval_s: of the gateway's schedule; attackers begin that far apart, divided by their number. Without one there is one.
    """
    attackers = question.attackers if interval_s else 1

    def attack(number: int) -> list[tuple[int, float]] | None:
        requests = _requests(question, kinds, queries // attackers, seed=number)
        time.sleep(number * interval_s / attackers)
        return _times(port, f"127.0.0.{_FIRST_ADDRESS + number}", requests)

    with ThreadPoolExecutor(attackers) as pool:
        found = list(pool.map(attack, range(attackers)))
    times = [each for of_one in found if of_one is not None for each in of_one]
    if None in found:
        return None
    few, many = (np.array([took for kind, took in times if kind == one]) for one in (question.few, question.many))
    return auroc(few, many)


def _requests(
    question: Question, kinds: Mapping[int, NDArray[np.uint8]], queries: int, seed: int
) -> list[tuple[int, list[bytes]]]:
    """Queries of both kinds in random order, made before the first is sent: what an attacker makes meanwhile delays the others."""
    rng = np.random.default_rng(seed)
    made = []
    for kind in rng.permutation(np.repeat([question.few, question.many], queries)).tolist():
        pool = kinds[kind]
        picked = [pool[rng.choice(len(pool), question.different, replace=False)] for _ in range(question.together)]
        made.append((kind, [_request(np.repeat(images, question.copies, axis=0)) for images in picked]))
    return made


def _times(port: int, address: str, queries: Sequence[tuple[int, list[bytes]]]) -> list[tuple[int, float]] | None:
    """The kind of each query, and how long all its answers took in seconds; None when one is no answer."""
    times = []
    with ExitStack() as stack:
        made = (RawConnection(port, timeout_s=_TIMEOUT_S, address=address) for _ in queries[0][1])
        connections = [stack.enter_context(closing(connection)) for connection in made]
        for kind, requests in queries:
            began = time.perf_counter()
            for connection, request in zip(connections, requests, strict=True):
                connection.send(request)
            statuses = [_status(connection) for connection in connections]
            times.append((kind, time.perf_counter() - began))
            if set(statuses) != {200}:
                return None
    return times


def _request(images: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    np.save(file, images, allow_pickle=False)
    return wire.http_request("/predict/npy", "application/x-npy", file.getvalue())


def _status(connection: RawConnection) -> int:
    answer = connection.answer(b"POST", within_s=_TIMEOUT_S)
    return 0 if answer is None else answer.status


@dataclass(frozen=True)
class TimeTold:
    """What times tell in answer to a question: without a schedule, and with the shortest one that takes requests of its size."""

    question: Question
    free: IntervalEstimate | None
    scheduled: IntervalEstimate | None
    interval: str


def _answer(question: Question, servers: Sequence[Server], kinds: Mapping[int, NDArray[np.uint8]], queries: int) -> TimeTold:
    free, scheduled, interval = ask(servers[0].port, question, kinds, queries), None, ""
    for server, interval_s in zip(servers[1:], _INTERVALS_S, strict=True):
        scheduled, interval = ask(server.port, question, kinds, queries, interval_s), server.contender.name
        if scheduled is not None:
            break
    return TimeTold(question, free, scheduled, interval)


def section(queries: int = QUERIES, cell_s: float = CELL_S, rows: Sequence[int] | None = None) -> str:
    """The page's section; `rows` are those of `questions` to measure, all when none."""
    bundle = served_bundle()
    kinds = pools(bundle)
    asked = questions(list(kinds), bundle.images_per_request or _IMAGES_PER_REQUEST)
    asked = asked if rows is None else tuple(asked[row] for row in rows)
    names = [_OFF, *(f"{seconds:g} s" for seconds in _INTERVALS_S)]
    settings = [{}, *({"HAUBERK_RELEASE_S": f"{seconds:g}"} for seconds in _INTERVALS_S)]
    requests = [wire.as_json(image) for image in kinds[min(kinds)][..., 0]]
    with TemporaryDirectory() as name, ExitStack() as stack:
        loader = Loader(Path(name), cell_s)
        contenders = [
            Contender(each, GATEWAY, _KEYS | {"HAUBERK_BUNDLE": str(bundle.directory)} | own)
            for each, own in zip(names, settings, strict=True)
        ]
        servers = [
            stack.enter_context(serving(contender, Path(name) / str(number), requests[0]))
            for number, contender in enumerate(contenders)
        ]
        answers = [_answer(question, servers, kinds, queries) for question in asked]
        file = loader.prepare(requests)
        cells = {clients: loader.alternate(servers, file, clients=clients) for clients in (1, AT)}
    costs = {clients: dict(zip(names, of_one, strict=True)) for clients, of_one in cells.items()}
    return text(answers, costs, queries, cell_s, in_words(bundle))


def in_words(bundle: Bundle) -> str:
    """What is served: the bundle, what computes it, and after how many overlays STRIP decides."""
    (strip,) = (defence for defence in bundle.settings["defences"] if defence["name"] == "strip")
    *stages, last = strip["stages"]
    engine = {"onnx": "ONNX Runtime", "keras": "TensorFlow"}.get(bundle.engine, bundle.engine)
    return f"the bundle {bundle.name} in {engine}, whose STRIP decides after {', '.join(map(str, stages))} or {last} overlays"


def text(
    answers: Sequence[TimeTold], costs: Mapping[int, Mapping[str, LoadCell]], queries: int, cell_s: float, served: str
) -> str:
    """The section, from what times tell, and from cells by clients and schedule; `served` says what was."""
    wanted = [
        Wanted(f"AUC of {each.question}, schedule of {each.interval}", _AUC_AT_MOST, max(auc.value, 1 - auc.value), at_most=True)
        for each in answers
        if (auc := each.scheduled) is not None
    ]
    told = [
        [str(each.question), *("too large" if auc is None else str(auc) for auc in (each.free, each.scheduled)), each.interval]
        for each in answers
    ]
    costly = [[name, *(cost for cells in costs.values() for cost in _cost(cells[name]))] for name in costs[1]]
    header = [
        f"{what}, {clients} client{'s' * (clients > 1)}" for clients in costs for what in ("requests/s", "p50 ms", "p99 ms")
    ]
    return "\n".join(
        [
            "## Times of answers",
            "",
            "`python -m benchmarks timing`: which of two numbers of overlays an image takes, told from the time of one answer: AUC "
            f"(95 % interval), {queries} queries of each kind, one at a time, of {served}, every defence on; then the cost of the "
            f"schedule, one image a request, {cell_s:g} s a cell in alternating rounds.",
            "",
            wanted_table(wanted),
            table(("overlays", "without a schedule", "with one", "of"), told),
            "",
            table(("schedule", *header), costly),
        ]
    )


def _cost(cell: LoadCell) -> tuple[str, str, str]:
    return f"{cell.rate:,.0f}", f"{cell.percentile_ms(50):.1f}", f"{cell.percentile_ms(99):.1f}"


def main() -> None:
    """Print the section; docs/benchmarks.md is written by `python -m benchmarks` only."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=QUERIES, help="of each kind, default %(default)s")
    parser.add_argument("--cell-seconds", type=float, default=CELL_S, help="seconds of a cell, default %(default)s")
    parser.add_argument("--questions", type=int, nargs="*", help="numbers of the rows to measure, from 0; all when not given")
    given = parser.parse_args()
    print(section(given.queries, given.cell_seconds, given.questions))


if __name__ == "__main__":
    main()
