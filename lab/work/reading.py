"""The task "read": what was brought, in numbers and in twenty pictures."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from lab.work.brought import Bring, Brought, named
from lab.work.loop import Asked
from lab.work.pictures import write_png
from models.accuracy import drawn, fitting_order
from models.bundle import Bundle
from models.engines.twins.capabilities import Capabilities
from models.image_rows import answers_for

PICTURES = 20
_LABELS_SHOWN = 1000


def read(bring: Bring, request: Asked) -> dict[str, Any]:
    """What the lab says it read."""
    brought = bring(request.subject, request.progress)
    request.progress("looking at images", 0, PICTURES)
    images = brought.data.images
    return {
        "shape": list(images.shape[1:]),
        "images": len(images),
        "classes": len(brought.classifier.labels),
        "labels": list(brought.classifier.labels[:_LABELS_SHOWN]),
        "counts": np.bincount(brought.data.labels, minlength=len(brought.classifier.labels))[:_LABELS_SHOWN].tolist(),
        "values": _values(brought),
        "reads": brought.reads,
        "accuracy": asdict(brought.accuracy),
        "able": Capabilities.of(brought.able).in_words(),
        "gradients": Capabilities.of(brought.able).gradients is not None,
        "training": Capabilities.of(brought.able).training,
        "bundle": None if brought.bundle is None else of_bundle(brought.bundle),
        "order": another_order(brought) if brought.accuracy.cause == "classes in another order" else None,
        "pictures": _pictures(brought, request),
    }


def of_bundle(bundle: Bundle) -> dict[str, Any]:
    """A bundle's name and defences."""
    defences = [{"name": one["name"], "mode": one["mode"]} for one in bundle.settings["defences"]]
    return {"name": bundle.name, "version": bundle.version, "defences": defences}


def chosen_rows(brought: Brought, count: int) -> list[int]:
    """Rows of different classes in turn, the same each time."""
    order = np.random.default_rng(0).permutation(len(brought.data))[: 50 * count]
    labels = brought.data.labels[order]
    rank = np.empty(len(order), np.int64)
    for label in np.unique(labels):
        at = np.flatnonzero(labels == label)
        rank[at] = np.arange(len(at))
    return sorted(int(row) for row in order[np.lexsort((labels, rank))][:count])


def another_order(brought: Brought) -> list[int]:
    """The model's class of each label that agrees best with its answers."""
    some = brought.data.take(drawn(len(brought.data)))
    means, _ = fitting_order(some.labels, answers_for(brought.classifier, some.images), len(brought.classifier.labels))
    return [int(one) for one in np.argsort(means)]


def _values(brought: Brought) -> list[float]:
    some = brought.data.images[np.array(chosen_rows(brought, PICTURES))]
    return [round(float(value), 3) for value in (some.min(), some.mean(), some.max())]


def _pictures(brought: Brought, request: Asked) -> list[dict[str, Any]]:
    rows = chosen_rows(brought, PICTURES)
    images, labels = brought.data.images[np.array(rows)], brought.data.labels[rows]
    probabilities = brought.classifier.predict(images)
    found, names = [], brought.classifier.labels
    for number, (row, image, label, given) in enumerate(zip(rows, images, labels, probabilities, strict=True)):
        write_png(image, request.out / f"picture-{number}.png")
        answer = int(given.argmax())
        found.append(
            {
                "row": row,
                "file": f"picture-{number}.png",
                "label": named(names, int(label)),
                "answer": named(names, answer),
                "sure": round(float(given[answer]), 4),
                "right": answer == int(label),
            }
        )
        request.progress("looking at images", number + 1, len(rows))
    return found
