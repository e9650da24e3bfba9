"""Where the processor time of a request goes: parts that are measured, and the table of them."""

from __future__ import annotations

import numpy as np

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


def test_the_recorder_answers_as_its_classifier_and_keeps_what_it_was_asked() -> None:
    classifier = classifier_of(bundle(), threads=1)
    recorder, images = parts.Recorder(classifier), noise(3, (28, 28, 1), 0)
    np.testing.assert_array_equal(recorder.predict(images), classifier.predict(images))
    [(asked, answered)] = recorder.calls
    assert asked is images
    assert answered.shape == (3, 10)


def test_the_section_has_a_row_a_part_and_leaves_out_what_is_off() -> None:
    on = dict.fromkeys(parts.PARTS, 12.3) | {shares.REST: 400.0, shares.WHOLE: 523.0}
    off = {parts.FORWARD: 40.0, shares.REST: 420.0, shares.WHOLE: 460.0}
    page = shares.text({("mnist", 1, True): on, ("mnist", 16, False): off})
    assert "| part | mnist, 1 client, on | mnist, 16 clients, off |" in page
    assert f"| {parts.STRIP} | 12 |  |" in page
    assert f"| {shares.REST} | 400 | 420 |" in page
