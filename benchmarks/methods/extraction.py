"""python -m benchmarks.methods.extraction: accuracy of stolen copies against the reverse sigmoid, and membership inference."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attacks.extraction.copycat_cnn import OPTIMISERS, copy
from attacks.extraction.inversion import invert_reverse_sigmoid
from attacks.extraction.membership_inference import Undo, membership_inference
from attacks.extraction.thief import THIEVES, Thief, inverted
from attacks.extraction.transfer_set import ask, shuffled
from benchmarks.harness.peers import art_classifier, photographs, table
from defences.defended_classifier import DefendedClassifier, Step
from defences.postprocessors.reverse_sigmoid import ReverseSigmoid
from evaluation.tables.extraction import ExtractionRow, extraction_curve, queries_needed
from models.classifier import Classifier, Images, Probabilities
from models.datasets import MNIST, Dataset, load_dataset
from models.engines.keras import KerasClassifier, import_tensorflow
from models.training.distillation import Distillation
from models.training.reference_classifier import Recipe, train

_SEED = 0
_THREADS = 2
_BUDGETS = (250, 1000, 5000)
_LIMITS = (50, 100, 250, 500, 1000, 2500, 5000, 10000)
_TUTORIAL = ReverseSigmoid(beta=1.0, gamma=0.2)
_PUBLISHED = OPTIMISERS["sgd, as published"]
_PHOTOGRAPHS = 5000
_REMEMBERED = 1000
_GOOD = (0.5, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class _Data:
    """The tutorial's split: 50,000 images for the victim, 10,000 for the thief, and MNIST's test images for the results."""

    victims: Dataset
    thiefs: Images
    test: Dataset


def section() -> str:
    """The page's section."""
    training = load_dataset(MNIST)
    data = _Data(training.take(slice(0, 50_000)), training.images[50_000:], load_dataset(MNIST, split="test"))
    victim = KerasClassifier(train(data.victims, recipe=Recipe(epochs=4, seed=_SEED), threads=_THREADS))
    accuracy = (victim.predict(data.test.images).argmax(axis=1) == data.test.labels).mean()
    return (
        "## Extraction\n\n"
        f"`python -m benchmarks.methods.extraction`, seed {_SEED}: the reference network trained on 50,000 MNIST images (test accuracy "
        f"{100 * accuracy:.2f} %), a thief with the other 10,000 who trains the same network on the answers. Every cell: "
        "accuracy of the copy / its agreement with the undefended victim, in %, on the 10,000 test images (binomial standard error "
        "0.2 points at 95 %, 0.5 at 50 %). The thieves and optimisers are the tables of attacks/extraction/thief.py and "
        "attacks/extraction/copycat_cnn.py.\n\n"
        f"{_curves(victim, data)}\n{_limits(victim, data)}\n{_peer(victim, data)}\n{_members(training, data)}"
    )


def _curves(victim: KerasClassifier, data: _Data) -> str:
    """Thieves against each strength of the defence."""
    knowing = Thief(name="inverted, right gamma", targets=inverted(beta=1.0, gamma=0.2), knows="beta and gamma")
    defences: list[tuple[str, Classifier, Mapping[str, Thief]]] = [
        ("none", victim, _some("probabilities", "labels")),
        ("reverse sigmoid, gamma .1", _behind(victim, ReverseSigmoid()), THIEVES),
        (
            "reverse sigmoid, gamma .2",
            _behind(victim, _TUTORIAL),
            _some("probabilities", "inverted", "looked up") | {knowing.name: knowing},
        ),
    ]
    lines = []
    for name, defended, thieves in defences:
        rows = extraction_curve(
            defended, data.thiefs, data.test, budgets=_BUDGETS, thieves=thieves, undefended=victim, seed=_SEED
        )
        lines += [[name, thief, *(_cell(rows, thief, how, budget) for how, budget in _columns())] for thief in thieves]
    header = ("defence", "thief", *(f"{how}, {budget:,}" for how, budget in _columns()))
    knows = "; ".join(f"{thief.name}: {thief.knows}" for thief in (*THIEVES.values(), knowing) if thief.knows != "nothing")
    return (
        f"{table(header, lines)}\nWhat a thief knows beside the answers: {knows}; the others know nothing more.\n\n"
        "The reverse sigmoid hinders an optimiser, not a thief. Every answer still has its largest probability at the right class, so "
        "that a copy that fits the answers is right too; but the gradients are small, and plain SGD stops long before it fits. "
        "Adam does not "
        "depend on their size. Inverting with the right parameters, or looking up without any, removes the rest of the loss (looking up "
        "starts from a copy trained on labels and is no better than that copy, which is poor with plain SGD); inverting with wrong "
        "parameters is worse than not inverting. Asking about an image three times costs three queries and gives one answer, because "
        "answers to the same image are equal.\n"
    )


def _columns() -> list[tuple[str, int]]:
    return [(how, budget) for how in OPTIMISERS for budget in _BUDGETS]


def _cell(rows: Sequence[ExtractionRow], thief: str, optimiser: str, budget: int) -> str:
    row = next(row for row in rows if (row.thief, row.optimiser, row.budget) == (thief, optimiser, budget))
    return f"{100 * row.accuracy:.1f} / {100 * row.agreement:.1f}"


def _some(*names: str) -> dict[str, Thief]:
    return {name: THIEVES[name] for name in names}


def _behind(victim: KerasClassifier, defence: ReverseSigmoid) -> DefendedClassifier:
    return DefendedClassifier(victim, postprocessors=[Step(defence)], secret=b"benchmark")


def _limits(victim: KerasClassifier, data: _Data) -> str:
    """Queries that the thief of labels needs, with images like the victim's and with others."""
    foreign = photographs(28, _PHOTOGRAPHS, _SEED).mean(axis=3, keepdims=True)
    lines, needed = [], []
    for name, pool in (("digits", data.thiefs), ("crops of two photographs", foreign)):
        budgets = [budget for budget in _LIMITS if budget <= len(pool)]
        rows = extraction_curve(
            _behind(victim, ReverseSigmoid()),
            pool,
            data.test,
            budgets=budgets,
            thieves=_some("labels"),
            optimisers={"adam": OPTIMISERS["adam"]},
            undefended=victim,
            seed=_SEED,
        )
        lines.append(
            [name, *(f"{100 * row.accuracy:.1f} / {100 * row.agreement:.1f}" for row in rows), *[""] * (len(_LIMITS) - len(rows))]
        )
        needed.append(f"{name}: " + ", ".join(f"{100 * good:.0f} % {queries_needed(rows, good) or 'never'}" for good in _GOOD))
    return (
        "Changed probabilities do not stop a thief who uses labels; a limit on queries does, and so does a lack of images like the "
        "model's. The thief of labels, with Adam, against the reverse sigmoid (gamma .1), by number of queries:\n\n"
        f"{table(('thief owns', *(f'{budget:,}' for budget in _LIMITS)), lines)}\n"
        f"Fewest of these queries for an agreement of at least: {'; '.join(needed)}.\n"
    )


def _peer(victim: KerasClassifier, data: _Data) -> str:
    """The tutorial's thief and network, ours and ART's, with the same images and steps."""
    from art.defences.postprocessor import ReverseSigmoid as PeersDefence

    rows = shuffled(data.thiefs, _SEED)[:5000]
    stolen: dict[tuple[str, str], NDArray[np.float64]] = {}
    seconds = np.zeros(2)
    distillation = Distillation(victim.input_shape, 10, recipe=_PUBLISHED, build=_tutorial_network)
    for name, ours, theirs in (
        ("none", victim, art_classifier(victim)),
        (
            "reverse sigmoid, gamma .2",
            _behind(victim, _TUTORIAL),
            art_classifier(victim, postprocessing_defences=PeersDefence(beta=1.0, gamma=0.2)),
        ),
    ):
        for answers in ("probabilities", "labels"):
            started = time.perf_counter()
            clone = copy(ours, ask(ours, data.thiefs, rows), THIEVES[answers], distillation, seed=_SEED)
            between = time.perf_counter()
            peer = _art_copy(theirs, data.thiefs[rows], answers == "probabilities")
            seconds += (between - started, time.perf_counter() - between)
            stolen[name, answers] = 100 * np.array([_accuracy(clone.predict, data.test), _accuracy(peer.predict, data.test)])
    published = {("none", "probabilities"): "90.8", ("none", "labels"): "90.9"} | {
        ("reverse sigmoid, gamma .2", "probabilities"): "20.0",
        ("reverse sigmoid, gamma .2", "labels"): "89.9",
    }
    lines = [[*key, *(f"{value:.1f}" for value in values), published[key]] for key, values in stolen.items()]
    return (
        "The tutorial's thief: 5,000 queries, its own network (two convolutions of 32 and 64, no dropout), five epochs of plain SGD at "
        "step size .01. Accuracy in %; the published figures are of another victim and another draw of images. After 390 steps plain SGD "
        "is on the steep part of its learning curve: seeds and the order of batches move a figure by several points (on the same "
        "batches our "
        "loop and Keras's give the same weights to the last bit; Keras, and ART with it, ends every epoch on a batch of 8).\n\n"
        f"{table(('defence', 'answers', 'ours', 'ART CopycatCNN', 'published'), lines)}\n"
        f"Seconds for the four thefts, alternating: {seconds[0]:.0f} ours, {seconds[1]:.0f} ART (**{seconds[1] / seconds[0]:.1f}x**).\n"
    )


def _tutorial_network(input_shape: tuple[int, int, int], classes: int) -> Any:
    import_tensorflow()
    import keras
    from keras import layers

    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Conv2D(32, 3, activation="relu"),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(classes, activation="softmax"),
        ]
    )


def _art_copy(victim: Any, images: Images, probabilities: bool) -> Any:
    import keras
    from art.attacks.extraction import CopycatCNN
    from art.estimators.classification import TensorFlowV2Classifier

    keras.utils.set_random_seed(_SEED)  # ART draws and shuffles from the global state
    thief = TensorFlowV2Classifier(
        model=_tutorial_network(images.shape[1:], 10),
        nb_classes=10,
        input_shape=images.shape[1:],
        loss_object=keras.losses.CategoricalCrossentropy(),
        optimizer=keras.optimizers.SGD(_PUBLISHED.learning_rate),
        clip_values=(0.0, 1.0),
    )
    attack = CopycatCNN(
        victim,
        batch_size_fit=_PUBLISHED.batch_size,
        batch_size_query=_PUBLISHED.batch_size,
        nb_epochs=_PUBLISHED.epochs,
        nb_stolen=len(images),
        use_probability=probabilities,
    )
    return attack.extract(images, thieved_classifier=thief)


def _accuracy(predict: Any, test: Dataset) -> float:
    return float((np.asarray(predict(test.images)).argmax(axis=1) == test.labels).mean())


def _members(training: Dataset, data: _Data) -> str:
    """Membership inference on a victim trained on few images for many epochs."""
    members, others = training.take(slice(0, _REMEMBERED)), training.take(slice(50_000, 50_000 + _REMEMBERED))
    victim = KerasClassifier(train(members, recipe=Recipe(epochs=40, seed=_SEED), threads=_THREADS))
    defended = _behind(victim, ReverseSigmoid())
    attackers: list[tuple[str, Classifier, Undo]] = [
        ("none", victim, _as_answered),
        ("reverse sigmoid, gamma .1", defended, _as_answered),
        ("reverse sigmoid, gamma .1, inverted", defended, _undone),
    ]
    lines = []
    for name, asked, undo in attackers:
        for row in membership_inference(asked, members, others, undo=undo, seed=_SEED):
            area = f"{row.auc:.3f} ({row.auc_error:.3f})"
            lines.append([name, row.attack, area, f"{row.advantage:.2f}", f"{100 * row.tpr_at_1_fpr:.1f} %"])
    gained = [100 * _accuracy(victim.predict, some) for some in (members, data.test)]
    return (
        f"Membership inference: the reference network trained on {_REMEMBERED:,} images for 40 epochs (accuracy {gained[0]:.1f} % "
        f"on them, {gained[1]:.1f} % on test images), queried with these and {_REMEMBERED:,} others. AUC with its standard error (0.5: "
        "no information; below 0.5: information with the sign reversed), advantage, and the TPR for members at a FPR of 1 %:\n\n"
        f"{table(('defence', 'attack', 'AUC', 'advantage', 'TPR at 1 % FPR'), lines)}"
    )


def _as_answered(answers: Probabilities) -> Probabilities:
    return answers


def _undone(answers: Probabilities) -> Probabilities:
    return invert_reverse_sigmoid(answers, beta=1.0, gamma=0.1).probabilities.astype(np.float32)


if __name__ == "__main__":
    print(section())
