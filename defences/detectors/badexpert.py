"""Abstain on images whose label an expert in backdoors agrees with: a copy of the classifier that has unlearned clean images.

Paper: Xie, Qi, He, Li, Wang & Mittal, ICLR 2024, arXiv:2308.12439, section 3. A copy that is fine-tuned on clean images with wrong labels
forgets what images show and keeps what a trigger means, since no trigger was among them.
Known to beat it: who trains the classifier so that its backdoor is unlearned together with the rest (docs/defences/badexpert.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from defences.defence import Defence, DefenceRecord
from defences.detectors.odds import log_odds_against
from defences.detectors.unprobed import WithoutProbes
from defences.errors import InvalidInput, InvalidParameter
from defences.keyed import Keys
from models.bundle import Bundle
from models.classifier import Classifier, Images, Probabilities
from models.engines.expert import check_expert, expert_of


@dataclass(frozen=True, kw_only=True, eq=False)
class BaDExpert(Defence):
    """Score an image by the odds its expert lays against the answer, and abstain when they are not above a threshold:

        s(x) = log((1 - p) / p),   p = e(x)_y,   y = argmax f(purified x);   abstain when s(x) <= threshold

    f is the classifier and e the expert, a copy of f that was fine-tuned on clean images with wrong labels until it was right on few of
    them. e sees the image before purification. s orders images as the paper's score p does, the other way round.

    Args:
        threshold: from clean images; -inf never abstains.
        expert: e; without it the detector can be checked, but not used.

    Shapes: images float32 [n, h, w, c] in [0, 1] -> abstain bool [n].
    Cost: one model call per image, the expert's, in a forward call of its own; the memory of a second classifier.
    Raises: InvalidParameter on construction: a threshold that is none.
    """

    threshold: float
    expert: Classifier | None = field(default=None, repr=False)

    name = "badexpert"
    record: ClassVar[DefenceRecord] = DefenceRecord(
        stage="abstain",
        title="BaDExpert",
        summary="Refuses images whose label a copy of the classifier agrees with that has unlearned what clean images show.",
        mitigations=("AML.M0015",),
        techniques=("AML.T0043.004", "AML.T0018.000"),
        calibrated={"threshold": "number"},
        fitted_by="defences.calibration.badexpert:fit_badexpert",
    )

    def __post_init__(self) -> None:
        if np.isnan(self.threshold):
            raise InvalidParameter("badexpert: expected a threshold, got NaN")

    @classmethod
    def from_bundle(cls, bundle: Bundle, declared: Mapping[str, Any], machine: Mapping[str, Any]) -> Self:
        """See `Defence.from_bundle`; the expert is read from its file in the bundle, unless it is switched off or only checked."""
        check_expert(bundle)
        used = machine.get("classifier") is not None and declared["mode"] != "off"
        expert = expert_of(bundle, threads=machine["threads"]) if used else None
        return super().from_bundle(bundle, declared, {**machine, "expert": expert})

    @property
    def calls_at_most(self) -> int:
        """Model calls one image can cost, beside its own prediction."""
        return 1

    def begin(self, images: Images, keys: Keys) -> BaDExpertSession:
        """Start a session for images [n, h, w, c], not purified."""
        session = BaDExpertSession(self)
        session.join(np.empty(0, np.int64), images, keys)
        return session

    def outputs(self, images: Images) -> Probabilities:
        """e(x): [n, h, w, c] -> [n, k]. Raises: InvalidInput: no expert."""
        if self.expert is None:
            raise InvalidInput(f"{self.name} needs its expert; set it to off, or serve the classifier from a bundle")
        return self.expert.predict(images)

    def scores(self, images: Images, labels: NDArray[np.int64]) -> NDArray[np.float64]:
        """s(x) of images with these answers, low is suspicious: [n, h, w, c], [n] -> [n]."""
        return log_odds_against(self.outputs(images), labels)

    def in_words(self) -> str:
        """Which odds are too low."""
        return f"refuses at log odds of {self.threshold:.4g} or less against the label"


class BaDExpertSession(WithoutProbes):
    """A `DetectorSession`: the expert looks at an image when it joins, and the image is decided as soon as its answer is there.

    It asks for no probes: an undecided image waits for the forward call that answers it.
    """

    def __init__(self, detector: BaDExpert) -> None:
        super().__init__(detector.threshold, calls=1)
        self._detector = detector
        self._outputs: Probabilities
        self._shape: tuple[int, ...] = ()

    @property
    def undecided(self) -> NDArray[np.int64]:
        return np.isnan(self.scores).nonzero()[0]

    def join(self, kept: NDArray[np.int64], images: Images, keys: Keys) -> None:
        """Drop all images but those at `kept`, and show these to the expert. Raises: ValueError: outputs that are no probabilities."""
        outputs = self._detector.outputs(images)
        if outputs.ndim != 2 or len(outputs) != len(images) or not np.isfinite(outputs).all():
            raise ValueError(f"expected finite probabilities of the expert for {len(images)} images, got {outputs.shape}")
        waiting = np.full(len(images), np.nan)
        self._shape = images.shape[1:]
        self._outputs = np.concatenate([self._outputs[kept], outputs]) if kept.size else outputs
        self.scores = np.concatenate([self.scores[kept], waiting]) if kept.size else waiting

    def probe(self, among: NDArray[np.bool_] | None = None) -> Images:
        """No rows; the undecided images among these are those that `decide` will decide."""
        self._turn = self.undecided if among is None else np.flatnonzero(np.isnan(self.scores) & among)
        return np.empty((0, *self._shape), np.float32)

    def decide(self, outputs: Probabilities, answers: Probabilities) -> None:
        """Compare the expert's outputs with the answers [n, k] to the images of the last `probe`."""
        turn = self._turn
        self.scores[turn] = log_odds_against(self._outputs[turn], answers[turn].argmax(axis=1))
