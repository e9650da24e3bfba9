"""How a classifier is kept in a bundle: what hauberk.toml and the card say of it, and how it is known again."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.bundle import MODEL
from models.engines.conversion import Conversion, convert
from models.engines.imports.classifier import ForeignClassifier
from models.engines.keras import KerasClassifier
from models.engines.remote.classifier import RemoteClassifier
from models.engines.remote.fingerprint import PROBE_IMAGES, Fingerprint
from models.engines.remote.opening import IDENTITY, identity
from models.image_rows import ImageRows

KeptClassifier: TypeAlias = KerasClassifier | ForeignClassifier | RemoteClassifier
"""One that a bundle can be written for."""


def converted(classifier: KeptClassifier, images: ImageRows, *, threads: int) -> Conversion:
    """The engine that will serve it, and the graph for it where there is one."""
    if isinstance(classifier, RemoteClassifier):
        return Conversion("remote", f"the model is served at {classifier.address}")
    if isinstance(classifier, ForeignClassifier):
        return classifier.conversion(images)
    return convert(classifier, images, threads=threads)


def declared(classifier: KeptClassifier) -> dict[str, Any]:
    """For [classifier] of hauberk.toml: where the model is, and how it wants its images."""
    if isinstance(classifier, RemoteClassifier):
        where: dict[str, Any] = {"remote": str(classifier.address)}
        where |= {} if classifier.output is None else {"output": classifier.output}
    else:
        where = {"file": MODEL} if isinstance(classifier, KerasClassifier) else {}
    return {**where, "outputs": classifier.outputs, **classifier.preparation.settings()}


def described(classifier: KeptClassifier) -> dict[str, Any]:
    """For the bundle's card."""
    if isinstance(classifier, RemoteClassifier):
        return {"parameters": None, IDENTITY: identity(classifier)}
    if isinstance(classifier, ForeignClassifier):
        return {"parameters": classifier.parameters}
    return {"parameters": classifier.model.count_params()}


def fingerprint(classifier: KeptClassifier, images: ImageRows) -> dict[str, NDArray[Any]]:
    """For calibration.npz: what a model that is not in the bundle is known again by. `images`: clean ones."""
    if not isinstance(classifier, RemoteClassifier):
        return {}
    some = np.random.default_rng(0).permutation(len(images))[: 2 * PROBE_IMAGES]
    return Fingerprint.of(classifier.predict, images[some]).arrays()
