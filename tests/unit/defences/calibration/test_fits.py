"""Fits are found by what a detector's record says."""

from __future__ import annotations

import subprocess
import sys

import pytest

from defences.calibration.fits import chosen_fits, fits_of, fittable, images_to_choose_on
from defences.errors import InvalidInput
from defences.table import DEFENCES, of_stage


def test_every_detector_can_be_fitted_and_its_fit_is_where_its_record_says() -> None:
    assert fittable() == tuple(of_stage("abstain"))
    fits = fits_of(fittable())
    assert list(fits) == list(fittable())
    for name, fit in fits.items():
        assert f"{fit.__module__}:{fit.__qualname__}" == DEFENCES[name].record.fitted_by


def test_fits_come_in_the_order_of_the_data_path_whatever_the_order_they_are_named_in() -> None:
    assert list(chosen_fits(" sentinet, strip,")) == ["strip", "sentinet"]


@pytest.mark.parametrize("text", ["", ",", "moat", "strip,strip", "total_variation"])
def test_names_that_are_no_detectors_to_fit_are_refused_with_those_that_are(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"expected detectors \(--detectors\) from strip, sentinet, .*, each once, got"):
        chosen_fits(text)


def test_as_many_images_are_chosen_on_as_the_hungriest_fit_uses() -> None:
    assert images_to_choose_on(fits_of(["strip"])) == 1000
    assert images_to_choose_on(fits_of(["strip", "binary_input_detector"])) == 2500


def test_neither_the_table_nor_a_fit_that_only_asks_the_classifier_imports_an_attack() -> None:
    seen = "import sys; print([name for name in sys.modules if name.split('.')[0] == 'attacks' or name.endswith('.calibration')])"
    for work, imported in (
        ("import defences.assembly", "[]"),
        ("from defences.calibration.fits import chosen_fits; chosen_fits('strip,sentinet')", "['defences.calibration']"),
    ):
        ran = subprocess.run([sys.executable, "-c", f"{work}; {seen}"], capture_output=True, text=True, check=True, timeout=120)
        assert ran.stdout.strip() == imported
