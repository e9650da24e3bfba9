"""A new defence is its own class and one line in the table: everything else finds it there."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from defences.assembly import assemble, check, parse_modes
from defences.calibration.fits import chosen_fits, fittable, images_to_choose_on
from defences.calibration.split import CalibrationSplit, Terms, split
from defences.calibration.thresholds import CalibratedDetector, FittedDetector, calibrate_detectors, calibration_arrays
from defences.defence import Defence, DefenceRecord, DetectionHistogram
from defences.defended_classifier import Decisions, DefendedClassifier
from defences.detectors.unprobed import UnprobedSession
from defences.errors import InvalidBundle, InvalidInput, InvalidParameter
from defences.keyed import Keys
from defences.table import DEFENCES
from models.bundle import Bundle
from models.classifier import Classifier, Images, Probabilities
from models.datasets import Dataset
from service.edge.exchange import Source
from service.observing import audit_events
from service.observing.metrics import Metrics
from service.routes.console import Console
from service.serving import Serving
from tests import bundles
from tests.bundles import SHAPE
from tests.fakes import linear, noise
from tests.unit.service.audit_lines import read

CLASSIFIER = linear(SHAPE, 4, sharpness=2.0)
IMAGES = noise(60, SHAPE, 5)
TERMS = Terms(rate=0.05)


@dataclass(frozen=True, kw_only=True)
class Posterisation(Defence):
    """Few shades of each colour."""

    shades: int = 4

    name = "posterisation"
    record: ClassVar[DefenceRecord] = DefenceRecord(
        stage="purify",
        title="Posterisation",
        summary="Leaves few shades of each colour.",
        mitigations=("AML.M0010",),
        techniques=("AML.T0043",),
    )

    def __post_init__(self) -> None:
        if self.shades < 2:
            raise InvalidParameter(f"posterisation: expected shades >= 2, got {self.shades}")

    def __call__(self, images: Images, keys: Keys) -> Images:
        steps = np.float32(self.shades - 1)
        posterised: Images = np.rint(images * steps) / steps
        return posterised


@dataclass(frozen=True, kw_only=True, eq=False)
class BrightnessDetector(Defence):
    """Refuses dark images: s(x) = 1 + mean(x - reference) / scale."""

    reference: NDArray[np.float64]
    threshold: float
    scale: float = 1.0

    name = "brightness_detector"
    record: ClassVar[DefenceRecord] = DefenceRecord(
        stage="abstain",
        title="Brightness detector",
        summary="Refuses images that are too dark.",
        mitigations=("AML.M9999",),
        techniques=("AML.T9999",),
        calibrated={"reference": "array", "threshold": "number"},
        histograms=(
            DetectionHistogram(
                name="hauberk_brightness", help="Brightness compared with the reference.", buckets=(0.5, 1.0, 1.5), of="scores"
            ),
        ),
        fitted_by=f"{__name__}:fit_brightness_detector",
        images_to_choose_on=120,
    )
    calls_at_most: ClassVar[int] = 0

    def begin(self, images: Images, keys: Keys) -> UnprobedSession:
        session = UnprobedSession(self.scores, self.threshold)
        session.join(np.empty(0, np.int64), images, keys)
        return session

    def scores(self, images: Images) -> NDArray[np.float64]:
        brightness: NDArray[np.float64] = 1 + (images - self.reference).mean(axis=(1, 2, 3), dtype=np.float64) / self.scale
        return brightness

    def check_input_shape(self, shape: tuple[int, int, int]) -> None:
        if self.reference.shape != shape:
            raise InvalidParameter(f"brightness_detector: expected a reference of shape {shape}, got {self.reference.shape}")


def fit_brightness_detector(classifier: Classifier, parts: CalibrationSplit, terms: Terms) -> FittedDetector:
    """See `Fit`."""
    reference = parts.choosing.images[:].mean(axis=0, dtype=np.float64)

    def at(threshold: float) -> BrightnessDetector:
        return BrightnessDetector(reference=reference, threshold=threshold, scale=0.5)

    return FittedDetector(
        name=BrightnessDetector.name,
        settings=at(0.0).settings(),
        arrays={"reference": reference},
        card={},
        choosing=at(0.0).scores(parts.choosing.images[:]),
        holding=at(0.0).scores(parts.holding.images[:]),
        at=at,
        mean_calls=lambda threshold: 0.0,
        lowest=-np.inf,
    )


@dataclass(frozen=True, kw_only=True)
class Halving(Defence):
    """Takes the probabilities half of the way to the uniform ones."""

    name = "halving"
    record: ClassVar[DefenceRecord] = DefenceRecord(
        stage="obscure",
        title="Halving",
        summary="Takes the probabilities half of the way to uniform ones.",
        mitigations=("AML.M0002",),
        techniques=("AML.T0024.002",),
    )

    def __call__(self, probabilities: Probabilities) -> Probabilities:
        halved: Probabilities = (probabilities + np.float32(1 / probabilities.shape[1])) / np.float32(2)
        return halved


NEW: tuple[type[Defence], ...] = (Posterisation, BrightnessDetector, Halving)


@pytest.fixture(autouse=True)
def _in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one line of each."""
    for defence in NEW:
        monkeypatch.setitem(DEFENCES, defence.name, defence)


@pytest.fixture
def calibrated() -> CalibratedDetector:
    images = noise(420, SHAPE, 6)
    data = Dataset(images, CLASSIFIER.predict(images).argmax(axis=1))
    fits = chosen_fits("brightness_detector")
    parts = split(data, rate=TERMS.rate, confidence=None, seed=0, choosing_at_most=images_to_choose_on(fits))
    (found,) = calibrate_detectors(CLASSIFIER, parts, fits, TERMS)
    return found


@pytest.fixture
def bundle(tmp_path: Path, calibrated: CalibratedDetector) -> Bundle:
    purifier = {"name": "posterisation", "mode": "enforce", "shades": 3}
    blur = {"name": "halving", "mode": "enforce"}
    return bundles.write(tmp_path, purifier, calibrated.settings(), blur, arrays=calibration_arrays([calibrated]))


@pytest.fixture
def defended(bundle: Bundle) -> DefendedClassifier:
    return assemble(bundle, CLASSIFIER, secret=b"secret")


@pytest.fixture
def decisions(defended: DefendedClassifier) -> Decisions:
    """The last of the images is black, which the detector refuses."""
    return defended.classify(np.concatenate([IMAGES, np.zeros((1, *SHAPE), np.float32)]))


def test_calibration_fits_the_detector_by_its_name_and_keeps_the_rate(calibrated: CalibratedDetector) -> None:
    assert "brightness_detector" in fittable()
    assert calibrated.mode == "enforce"
    assert calibrated.settings() == {"name": "brightness_detector", "mode": "enforce", "scale": 0.5}
    assert len(calibrated.fitted.choosing) == 120
    assert 0 < (calibrated.fitted.holding <= calibrated.threshold).mean() <= TERMS.rate
    with pytest.raises(InvalidInput, match=r"expected detectors .*from strip, .*brightness_detector, each once, got 'halving'"):
        chosen_fits("halving")


def test_a_bundle_that_declares_them_is_assembled_with_what_was_declared_and_measured(
    defended: DefendedClassifier, calibrated: CalibratedDetector, bundle: Bundle
) -> None:
    check(bundle)
    [purifier], [detector], [blur] = defended.preprocessors, defended.detectors, defended.postprocessors
    assert (purifier.defence, blur.defence) == (Posterisation(shades=3), Halving())
    assert isinstance(detector.defence, BrightnessDetector)
    assert (detector.defence.threshold, detector.defence.scale) == (calibrated.threshold, 0.5)
    np.testing.assert_array_equal(detector.defence.reference, bundle.calibration["brightness_detector_reference"])
    assert parse_modes("posterisation=off,brightness_detector=monitor,halving=off")["halving"] == "off"


def test_the_assembled_defences_act(decisions: Decisions) -> None:
    assert decisions.abstained[-1]
    assert (decisions.trace.purification_distance[:-1] > 0).all()
    answered = decisions.probabilities[~decisions.abstained]
    assert len(answered)
    assert (answered >= 0.5 * 0.25 - 1e-6).all()


@pytest.mark.parametrize(
    ("declared", "sentence"),
    [
        ({"name": "posterisation", "mode": "enforce", "shades": 1}, "hauberk.toml: posterisation: expected shades >= 2, got 1"),
        ({"name": "posterisation", "mode": "enforce", "hues": 1}, "posterisation: unknown key 'hues'; known are shades"),
        ({"name": "halving", "mode": "enforce", "by": 1}, "halving: unknown key 'by'"),
    ],
)
def test_a_declaration_that_does_not_fit_is_refused(declared: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidBundle, match=sentence):
        check(bundles.write(tmp_path, declared, arrays={}))


@pytest.mark.parametrize(
    ("key", "array", "sentence"),
    [
        ("reference", np.zeros((2, 2, 1)), r"expected a reference of shape \(5, 7, 3\), got \(2, 2, 1\)"),
        ("threshold", np.array([0.1]), "brightness_detector_threshold is not a number"),
    ],
)
def test_measured_values_that_do_not_fit_are_refused(
    key: str, array: NDArray[Any], sentence: str, tmp_path: Path, calibrated: CalibratedDetector
) -> None:
    arrays = calibration_arrays([calibrated]) | {f"brightness_detector_{key}": array}
    with pytest.raises(InvalidBundle, match=sentence):
        check(bundles.write(tmp_path / "altered", calibrated.settings(), arrays=arrays))


def test_the_console_says_what_they_do(bundle: Bundle) -> None:
    metrics = Metrics(CollectorRegistry(), labels=bundle.labels, build=("1.0", bundle.name, bundle.version))
    service = Serving(bundle, metrics, "1.0", images_at_most=4, listens_on_loopback=True, modes={"halving": "monitor"})
    told = Console(service).facts(shows_metrics=False)["defences"]
    assert [(fact["name"], fact["mode"], fact["stage"]) for fact in told] == [
        ("posterisation", "enforce", "purify"),
        ("brightness_detector", "enforce", "abstain"),
        ("halving", "monitor", "obscure"),
    ]
    assert [fact["summary"] for fact in told] == [defence.record.summary for defence in NEW]


def test_metrics_show_the_abstentions_of_the_detector_and_its_own_histogram(bundle: Bundle, decisions: Decisions) -> None:
    metrics = Metrics(CollectorRegistry(), labels=bundle.labels, build=("1.0", bundle.name, bundle.version))
    metrics.decided(decisions)
    families = text_string_to_metric_families(metrics.exposition().decode())
    samples = {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}
    refused = int(decisions.trace.detections[0].abstained.sum())
    counted = samples["hauberk_abstentions_total", ("defence", "brightness_detector"), ("mode", "enforce")]
    assert counted == refused > 0
    assert samples["hauberk_brightness_count",] == len(decisions.abstained)
    assert samples["hauberk_brightness_sum",] == pytest.approx(decisions.trace.detections[0].scores.sum())
    assert samples["hauberk_strip_overlays_count",] == 0


def test_the_audit_log_names_their_mitigations(decisions: Decisions, bundle: Bundle) -> None:
    noon = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
    started = audit_events.started("1.0", [(defence.name, "enforce") for defence in NEW], secret_is_random=False)
    assert [told["mitigations"] for told in started["defences"]] == [["AML.M0010"], ["AML.M9999"], ["AML.M0002"]]
    writer = audit_events.Writer(
        "0123456789abcdef", secret=b"secret", model=bundle.name, model_version=bundle.version, labels=bundle.labels
    )
    images = np.zeros((len(decisions.labels), *SHAPE), np.float32)
    decided = audit_events.Decided(noon, 0, Source("r-1", "alice", "/predict"), images, decisions)
    last = read(writer.lines(decided))[-1]
    assert last["findings"] == [{"defence": "brightness_detector", "mode": "enforce"}]
    assert (last["mitigations"], last["techniques"]) == (["AML.M9999"], ["AML.T9999"])
