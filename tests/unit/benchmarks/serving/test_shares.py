"""Where the processor time of a request goes: parts that are measured, and the table of them."""

from __future__ import annotations

import time

import numpy as np
import pytest

from benchmarks.serving import parts, shares
from models.bundle import Bundle, read_bundle, standard_bundle_directory
from models.engines.bundle_classifier import classifier_of
from tests.fakes import linear, noise


def bundle() -> Bundle:
    return read_bundle(standard_bundle_directory())


def test_every_part_takes_time_and_without_defences_none_of_theirs_is_there() -> None:
    on = parts.measure(bundle(), 16, defended=True, repeats=1)
    assert set(on) == set(parts.PARTS)
    assert all(on[part] > 0 for part in parts.PARTS if part != parts.PATH)
    off = parts.measure(bundle(), 16, defended=False, repeats=1)
    assert set(parts.PARTS) - set(off) == {parts.PURIFY, parts.STRIP, parts.OBSCURE}
    assert off[parts.FORWARD] < on[parts.FORWARD]


def test_the_fingerprint_of_decisions_tells_when_one_is_another() -> None:
    given = bundle()
    assert parts.fingerprint(given, 100) == parts.fingerprint(given, 100) != parts.fingerprint(given, 101)


def test_the_perfect_backdoor_sees_its_class_under_its_trigger_alone() -> None:
    clean = linear((28, 28, 1), 10)
    images = noise(6, (28, 28, 1), 0)
    images[:3, :4, :4] = 1
    found = parts.Backdoored(clean).predict(images)
    np.testing.assert_array_equal(found[:3], np.eye(10, dtype=np.float32)[[9, 9, 9]])
    np.testing.assert_array_equal(found[3:], clean.predict(images)[3:])


def test_a_part_within_another_is_not_counted_twice() -> None:
    clock = parts.Clock()

    def busy() -> bool:
        end = time.thread_time() + 0.02
        while time.thread_time() < end:
            pass
        return True

    inner = clock.timed(parts.FORWARD, busy)
    clock.timed(parts.PATH, lambda: [busy(), inner(), inner()])()
    assert clock.calls[parts.FORWARD] == 2
    assert clock.seconds[parts.FORWARD] == pytest.approx(0.04, rel=0.2)
    assert clock.seconds[parts.PATH] == pytest.approx(0.02, rel=0.2)


def test_what_is_timed_answers_as_it_did() -> None:
    classifier, images = classifier_of(bundle(), threads=1), noise(3, (28, 28, 1), 0)
    clock = parts.Clock()
    timed = parts.Timed(classifier, parts.FORWARD, clock)
    np.testing.assert_array_equal(timed.predict(images), classifier.predict(images))
    assert timed.labels == classifier.labels
    assert clock.seconds[parts.FORWARD] > 0


def test_the_section_has_a_row_a_part_and_leaves_out_what_is_off() -> None:
    on = dict.fromkeys(parts.PARTS, 12.3) | {shares.REST: 400.0, shares.WHOLE: 523.0}
    off = {parts.FORWARD: 40.0, shares.REST: 420.0, shares.WHOLE: 460.0}
    page = shares.text({("mnist", 1, True): on, ("mnist", 16, False): off})
    assert "| part | mnist, 1 client, on | mnist, 16 clients, off |" in page
    assert f"| {parts.STRIP} | 12 |  |" in page
    assert f"| {shares.REST} | 400 | 420 |" in page
