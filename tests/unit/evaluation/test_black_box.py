"""The half of an evaluation that needs no gradients, on a served graph: what it tries, what it says it did not, and what a twin adds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from defences.defended_classifier import DefendedClassifier, Step
from defences.postprocessors.reverse_sigmoid import ReverseSigmoid
from defences.purifiers.total_variation import TotalVariation
from evaluation.budget import BUDGETS
from evaluation.evaluate import EvaluationPlan, evaluate
from evaluation.reporting.page import page
from evaluation.reporting.report import REPORT, Report
from evaluation.tables.curves import Curves
from evaluation.tables.distrust import Distrust
from evaluation.tables.evasion import EvasionTable
from evaluation.tables.stand_ins import StandIns
from evaluation.tables.untried import untried
from evaluation.variants import defended_target
from models.datasets import Dataset
from models.engines.keras import KerasClassifier
from models.errors import InvalidInput
from tests.converted import converted
from tests.fakes import squares

TINY = replace(
    BUDGETS["quick"],
    images=12,
    benign_images=60,
    steps=3,
    queries=10,
    curve_points=1,
    surrogate_images=100,
    surrogate_epochs=1,
    backdoor_images=100,
    backdoor_epochs=1,
    extraction_budgets=(30,),
    optimisers=("adam",),
    timed=3,
)
FOLLOW = {"jsma", "fgm", "bim", "pgd", "bpda_eot", "bpda_eot_with_secret"}


@pytest.fixture(scope="module")
def data() -> Dataset:
    return squares(72, seed=21)


@pytest.fixture(scope="module")
def defended(keras_model: Any) -> DefendedClassifier:
    return DefendedClassifier(
        converted(KerasClassifier(keras_model)),
        preprocessors=[Step(TotalVariation(weight=0.05))],
        postprocessors=[Step(ReverseSigmoid())],
    )


@pytest.fixture(scope="module")
def blind(defended: DefendedClassifier, data: Dataset) -> Report:
    return evaluate(defended, data, plan=EvaluationPlan(budget=TINY, radii=(0.1,), threads=2))


def test_the_attacks_that_need_no_gradients_are_tried_and_those_that_do_are_named(blind: Report) -> None:
    assert {row.attack for row in blind.evasion} == {"clean", "noise", "square", "hop_skip_jump", "square_unblurred"}
    assert set(blind.left_out) >= {*FOLLOW, "curves of attackers who have the model", "checks on gradients"}
    for name in FOLLOW:
        assert "needs gradients, and this model is ONNX, which has none; name a twin with --gradients" in blind.left_out[name]
    assert {point.kind for point in blind.curves} == {"noise"}
    assert blind.capabilities == {"engine": "ONNX", "activations": True, "gradients": None, "training": False}


def test_the_verdict_claims_no_robustness(blind: Report) -> None:
    assert "This is the black-box half of an evaluation" in blind.verdict.summary
    assert "claims no robustness against an attacker who has the model" in blind.verdict.summary
    assert "every attack that follows gradients" in blind.verdict.left_out_of_the_worst_case
    against = {gain.against for one in blind.verdict.variants for gain in one.gains}
    assert "black-box evasion at eps 0.1" in against
    assert not any(name.startswith("evasion") for name in against)
    [doubt] = [check for check in blind.checks if not check.fine]
    assert doubt.name == "attacks that follow gradients were tried"


def test_the_page_and_the_document_say_it(blind: Report) -> None:
    html = page(blind)
    assert "This is the black-box half of an evaluation" in html
    assert "There is no curve of an attacker who has the model" in html
    assert "jsma, fgm, bim, pgd, bpda eot, bpda eot with secret, curves" in html
    assert "attacker knows the defence" not in html
    read = REPORT.validate_json(REPORT.dump_json(blind))
    assert (read.left_out, read.capabilities, read.verdict) == (blind.left_out, blind.capabilities, blind.verdict)


def test_an_attacker_who_trains_a_classifier_of_their_own_is_tried_and_no_copy_is_poisoned(
    defended: DefendedClassifier, data: Dataset
) -> None:
    target = defended_target(defended, defended.classifier, secret=b"key")
    attacked, others = data.take(slice(0, 6)), data.take(slice(6, 50))
    table = EvasionTable(target=target, data=attacked, others=others, radii=(0.1,), budget=TINY, seed=0, threads=2)
    names = [cell.name for cell in table.cells()]
    assert "transfer 0.1" in names
    assert not any(name.split()[0] in FOLLOW for name in names)
    [cell] = Curves(evasion=table, eps_at_most=0.1).cells()
    assert {kind for kinds in cell.find()["variants"].values() for kind in kinds} == {"noise", "transfer"}
    assert [cell.name for cell in Distrust(evasion=table, threads=2).cells()] == ["randomness"]
    assert list(StandIns(target=target, others=others, held=attacked, budget=TINY, seed=0).backdoors()) == []
    assert "trains a copy of the model, and this model is ONNX" in untried(target)["backdoors"]


def test_a_twin_in_memory_makes_it_whole(defended: DefendedClassifier, data: Dataset, keras_model: Any) -> None:
    plan = EvaluationPlan(budget=TINY, radii=(0.1,), threads=2, gradients=KerasClassifier(keras_model))
    report = evaluate(defended, data, plan=plan)
    assert {row.attack for row in report.evasion} > FOLLOW
    assert set(report.left_out) == {"transfer", "backdoors", "extraction", "membership"}  # too few images
    assert report.capabilities["gradients"] == "twin"
    assert "black-box" not in report.verdict.summary
    assert {point.kind for point in report.curves} == {"noise", "oblivious", "adaptive"}


def test_results_with_a_twin_are_not_taken_for_those_without(
    defended: DefendedClassifier, data: Dataset, keras_file: Path, keras_model: Any
) -> None:
    from evaluation.evaluate import _evaluation

    digests = {
        _evaluation(defended, data, EvaluationPlan(budget=TINY, gradients=twin, threads=2)).target.digest
        for twin in (None, keras_file, KerasClassifier(keras_model))
    }
    assert len(digests) == 3


def test_a_twin_that_answers_otherwise_is_refused_before_any_work(defended: DefendedClassifier, data: Dataset) -> None:
    from tests.poisoned import small_network

    plan = EvaluationPlan(budget=TINY, gradients=KerasClassifier(small_network(seed=9), outputs="logits"))
    with pytest.raises(
        InvalidInput, match=r"expected a twin that answers as the model does .* but the twin gives the same label on"
    ):
        evaluate(defended, data, plan=plan)


def test_a_twin_of_a_model_with_gradients_is_refused(data: Dataset, keras_model: Any) -> None:
    own = DefendedClassifier(KerasClassifier(keras_model))
    with pytest.raises(InvalidInput, match="but this one is Keras, which has its own; leave it out"):
        evaluate(own, data, plan=EvaluationPlan(budget=TINY, gradients=KerasClassifier(keras_model)))
