"""Abstain on images whose answer the layers before it do not bear out, as with a backdoor trigger.

Papers: probes at inner layers, and their disagreement with the answer, Kaya, Hong & Dumitras 2019, arXiv:1810.07052 (shallow-deep
networks); ranks of the nearest images of the answered class, Mo et al. 2024, arXiv:2312.02673 (TED). A triggered image looks like its own
class in early layers and like the attacker's in late ones, wherever the trigger is and whatever it depends on.
Known to beat it: whoever trains the network so that triggered images look like the attacker's class in every layer
(docs/defences/layer_disagreement.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

from defences.compiled import compiled_for
from defences.defence import Defence, DefenceRecord
from defences.detectors.unprobed import LayerSession
from defences.errors import InvalidParameter
from defences.keyed import Keys
from models.classifier import Features, Images, Labels, Probabilities

NOT_JUDGED = 0.0
"""The score of an answer of a class that no image was given of: that of a clean image on average, which no threshold refuses."""

_OF_ODDS = 0.5
WEIGHTS = np.array([1.0, 1.0, _OF_ODDS])
"""Of the probes, the ranks and the classifier's own odds in the score."""

_SURE = 16.0  # of a logarithm of odds: float32 tells no more
_LEAST = 1e-45  # the smallest number of float32, below which a probability is 0
_SLOPE, _SHARE = 1e-4, 1e-3
_LARGE = 30.0  # a logarithm of odds beyond which 1 makes no difference to them


@njit(nogil=True, fastmath={"contract", "nsz", "reassoc"}, cache=True)
def _product(left: Any, right: Any) -> Any:
    """Of two vectors, summed in an order that is quick."""
    total = np.float32(0)
    for d in range(left.size):
        total += left[d] * right[d]
    return total


@njit(nogil=True, fastmath={"contract", "nsz"}, cache=True)
def _disagreement(
    features: Any,
    probabilities: Any,
    edges: Any,
    projection: Any,
    offset: Any,
    references: Any,
    norms: Any,
    firsts: Any,
    moments: Any,
    judged: Any,
    result: Any,
) -> None:
    """a(x), b(x), c(x) and s(x) of every image, into result [n, 4]."""
    layers, axes, count = references.shape
    classes = firsts.size - 1
    seen, apart = np.empty(classes + axes, np.float32), np.empty(count, np.float32)
    for i in range(features.shape[0]):
        label = probabilities[i].argmax()
        surprise_of_all = rank_of_all = 0.0
        for layer in range(layers):
            own = features[i, edges[layer] : edges[layer + 1]]
            for m in range(seen.size):
                seen[m] = offset[layer, m] + _product(own, projection[m, edges[layer] : edges[layer + 1]])
            largest = -np.inf
            for m in range(classes):
                if m != label:
                    largest = max(largest, np.float64(seen[m]))
            total = 0.0
            for m in range(classes):
                if m != label:
                    total += np.exp(seen[m] - largest)
            odds = np.log(total) + largest - seen[label]  # the logarithm of those against the answer
            if odds < -_LARGE:
                surprise_of_all += _SLOPE * odds
            else:
                surprise = odds if odds > _LARGE else np.log1p(np.exp(odds))
                surprise_of_all += np.log1p(surprise) + _SLOPE * np.log(surprise)
            for m in range(count):
                apart[m] = norms[layer, m]
            for axis in range(axes):
                value, row = seen[classes + axis], references[layer, axis]
                for m in range(count):
                    apart[m] -= value * row[m]
            nearest = np.float32(np.inf)
            for m in range(firsts[label], firsts[label + 1]):
                nearest = min(nearest, apart[m])
            nearer = 0
            for m in range(count):
                nearer += apart[m] < nearest
            rank_of_all += np.log(nearer / count + _SHARE)
        against = 0.0
        for m in range(classes):
            if m != label:
                against += probabilities[i, m]
        sure = np.log(max(np.float64(probabilities[i, label]), _LEAST)) - np.log(max(against, _LEAST))
        a, b, c = surprise_of_all / layers, rank_of_all / layers, min(max(sure, -_SURE), _SURE)
        score = (moments[0, 0] - a) / moments[0, 1] + (moments[1, 0] - b) / moments[1, 1]
        score += _OF_ODDS * (moments[2, 0] - c) / moments[2, 1]
        result[i, 0], result[i, 1], result[i, 2] = a, b, c
        result[i, 3] = score if judged[label] or not np.isfinite(score) else NOT_JUDGED


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerDisagreement(Defence):
    """Score an image by how far inner layers disagree with its answer y, and abstain when the score is not above a threshold:

        a(x) = mean_l log(1 + u_l) + log(u_l) / 10^4   u_l = -log p_l(y | x), p_l: a linear probe of layer l
        b(x) = mean_l log(share_l(y | x) + 1/1000)     share_l: of n reference images, those nearer than the nearest one of class y
        c(x) = log(p(y | x) / (1 - p(y | x))), at most 16 away from 0, p: the classifier's own probabilities
        s(x) = -(a(x) - mean a) / std a - (b(x) - mean b) / std b - (c(x) - mean c) / (2 std c);   abstain when s(x) <= threshold

    x_l are the features of layer l: the map of a convolution block, averaged over squares, standardised. p_l is the softmax of linear
    discriminants: one mean a class, by true labels, and one covariance for all of them. Distances are those between projections of the
    features to a few axes. References are clean images that the classifier gets right. y is the classifier's own answer to the image as
    the classifier is given it; its features come from the same forward pass. c(x) tells a classifier that is sure of what its layers do
    not bear out from one that is not sure either, as of most clean images on which they disagree. The small second term of a(x) tells
    images apart whose answers every probe is sure of: where most clean images had one score, no threshold could refuse one of them in a
    hundred.

    An answer of a class that had no image in calibration cannot be judged, and is not refused.

    Args:
        layers: names of blocks of the classifier, L of them.
        widths: int64 [L], how many features each has, D in all.
        projection: float32 [D, k + r], from a layer's features to the discriminants of k classes, and to r axes.
        offset: float32 [L, k + r], what is added.
        references: float32 [L, r, n], the reference images on the axes of each layer, sorted by class.
        firsts: int64 [k + 1], where the references of each class begin, and n.
        moments: float64 [3, 2], mean and standard deviation of a, of b and of c, of clean images.
        judged: bool [k], the classes that had images.
        threshold: of the score; -inf never abstains.

    Shapes: features float32 [n, D] and probabilities float32 [n, k] -> scores float64 [n].
    Cost: no model call; D (k + r) + L r n multiplications an image, some ten microseconds.
    Raises: InvalidParameter on construction.
    """

    layers: tuple[str, ...]
    widths: NDArray[np.int64]
    projection: NDArray[np.float32]
    offset: NDArray[np.float32]
    references: NDArray[np.float32]
    firsts: NDArray[np.int64]
    moments: NDArray[np.float64]
    judged: NDArray[np.bool_]
    threshold: float

    _edges: NDArray[np.int64] = field(init=False, repr=False)
    """Where the features of each layer begin, and D."""
    _arrays: tuple[NDArray[Any], ...] = field(init=False, repr=False)
    """What the compiled pass takes beside features and answers; the projection is transposed."""

    name = "layer_disagreement"
    record: ClassVar[DefenceRecord] = DefenceRecord(
        stage="abstain",
        title="Layer disagreement",
        summary="Refuses images that look like another class than their answer in the layers before it: the mark of a backdoor trigger.",
        mitigations=("AML.M0015",),
        techniques=("AML.T0043.004", "AML.T0018.000"),
        calibrated={
            "widths": "array",
            "projection": "array",
            "offset": "array",
            "references": "array",
            "firsts": "array",
            "moments": "array",
            "judged": "array",
            "threshold": "number",
        },
        fitted_by="defences.calibration.layer_disagreement:fit_layer_disagreement",
        images_to_choose_on=5000,
        one_call_an_image=True,
    )

    def __post_init__(self) -> None:
        self._check()
        for name, dtype in _TYPES.items():
            object.__setattr__(self, name, np.require(getattr(self, name), dtype, ["C", "W"]))
        object.__setattr__(self, "_edges", np.concatenate([[0], np.cumsum(self.widths)]))
        norms = ((self.references.astype(np.float64) ** 2).sum(axis=1) / 2).astype(np.float32)
        rows = np.ascontiguousarray(self.projection.T)
        arrays = (self._edges, rows, self.offset, self.references, norms, self.firsts, self.moments, self.judged)
        object.__setattr__(self, "_arrays", arrays)

    def _check(self) -> None:
        if not self.layers or not all(isinstance(layer, str) for layer in self.layers):
            raise InvalidParameter(f"{self.name}: expected names of layers, got {self.layers!r}")
        several, k = len(self.layers), len(self.judged)
        whole = np.issubdtype(self.widths.dtype, np.integer) and np.issubdtype(self.firsts.dtype, np.integer)
        shapes = {
            "widths": (self.widths.shape, (several,)),
            "references": (self.references.shape, (several, *self.references.shape[1:2], self.references.shape[-1])),
            "firsts": (self.firsts.shape, (k + 1,)),
            "moments": (self.moments.shape, (3, 2)),
        }
        for key, (got, wanted) in shapes.items():
            if got != wanted or not whole:
                raise InvalidParameter(f"{self.name}: expected {key} of {several} layers and {k} classes, got shape {got}")
        columns = k + self.references.shape[1]
        if self.projection.shape != (int(self.widths.sum()), columns) or self.offset.shape != (several, columns):
            raise InvalidParameter(
                f"{self.name}: expected a projection of {int(self.widths.sum())} features to {columns} numbers, "
                f"got {self.projection.shape} and offsets {self.offset.shape}"
            )
        bounds = [0, *self.firsts.tolist(), self.references.shape[2]]
        if bounds[:2] != [0, 0] or bounds[-2:] != [self.references.shape[2]] * 2 or bounds != sorted(bounds):
            raise InvalidParameter(
                f"{self.name}: expected firsts from 0 to {self.references.shape[2]}, got {self.firsts.tolist()}"
            )
        finite = all(np.isfinite(getattr(self, key)).all() for key in ("projection", "offset", "references", "moments"))
        if not finite or not (self.moments[:, 1] > 0).all() or np.isnan(self.threshold):
            raise InvalidParameter(f"{self.name}: expected finite arrays, deviations above 0 and a threshold, got others")

    @property
    def calls_at_most(self) -> int:
        """Model calls one image can cost, beside its own prediction: none."""
        return 0

    def begin(self, images: Images, keys: Keys) -> LayerSession:
        """Start a session for images [n, h, w, c], to be decided by their features."""
        session = LayerSession(self.scores, self.threshold)
        session.join(np.empty(0, np.int64), images, keys)
        return session

    def scores(self, features: Features, probabilities: Probabilities) -> NDArray[np.float64]:
        """s(x), low is suspicious: features [n, D], probabilities [n, k] -> [n]; no finite number where features are none."""
        return self._results(features, probabilities)[:, 3]

    def parts(self, features: Features, probabilities: Probabilities) -> NDArray[np.float64]:
        """a(x), b(x) and c(x), high is suspicious: [n, D], [n, k] -> [n, 3]."""
        return self._results(features, probabilities)[:, :3]

    def _results(self, features: Features, probabilities: Probabilities) -> NDArray[np.float64]:
        if features.ndim != 2 or features.shape[1] != len(self.projection):
            raise InvalidParameter(f"{self.name}: expected {len(self.projection)} features an image, got {features.shape}")
        features, answers = compiled_for(features), compiled_for(probabilities)
        found = np.empty((len(features), 4))
        edges, projection, offset, references, norms, firsts, moments, judged = self._arrays
        _disagreement(features, answers, edges, projection, offset, references, norms, firsts, moments, judged, found)
        return found

    def scores_of(self, parts: NDArray[np.float64], answers: Labels) -> NDArray[np.float64]:
        """s(x) by a(x), b(x) and c(x): [n, 3], [n] -> [n]."""
        apart = ((self.moments[:, 0] - parts) / self.moments[:, 1]) @ WEIGHTS
        scores: NDArray[np.float64] = np.where(self.judged[answers], apart, NOT_JUDGED)
        return scores

    def in_words(self) -> str:
        """The layers it reads, and the score that is too low."""
        return f"reads {', '.join(self.layers)}, refuses at score {self.threshold:.4g} or less"

    @classmethod
    def compile_kernels(cls) -> None:
        """The pass over layers and references."""
        detector = cls(
            layers=("layer",),
            widths=np.array([2]),
            projection=np.zeros((2, 3), np.float32),
            offset=np.zeros((1, 3), np.float32),
            references=np.zeros((1, 1, 2), np.float32),
            firsts=np.array([0, 1, 2]),
            moments=np.array([[0.0, 1.0]] * 3),
            judged=np.ones(2, bool),
            threshold=0.0,
        )
        detector.scores(np.zeros((2, 2), np.float32), np.full((2, 2), 0.5, np.float32))


_TYPES: dict[str, Any] = {
    "widths": np.int64,
    "projection": np.float32,
    "offset": np.float32,
    "references": np.float32,
    "firsts": np.int64,
    "moments": np.float64,
    "judged": np.bool_,
}
"""What the compiled pass takes."""
