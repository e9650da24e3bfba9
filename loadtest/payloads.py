"""The requests, encoded from the images of an .npz file before the test starts."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

KINDS = ("clean", "adversarial", "triggered")
SHIPPED = Path(__file__).parent / "payloads.npz"
_JSON, _NPY = "application/json", "application/x-npy"
_OVERSIZE_BYTES = 8 << 20


@dataclass(frozen=True)
class Request:
    """One request, encoded.

    Args:
        kind: the name under which it is counted.
        due: the expected statuses.
        images: the number of images in it.
    """

    kind: str
    path: str
    media_type: str
    body: bytes = field(repr=False)
    due: frozenset[int] = frozenset((200,))
    images: int = 1

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers beside Host and Content-Length."""
        return {"Content-Type": self.media_type}


def read_images(path: Path) -> dict[str, NDArray[np.uint8]]:
    """The arrays `clean`, `adversarial` and `triggered`, uint8 [n, h, w] or [n, h, w, c]. Raises: ValueError: other arrays."""
    with np.load(path, allow_pickle=False) as file:
        missing = [kind for kind in KINDS if kind not in file]
        if missing:
            raise ValueError(f"expected {path} to hold the arrays {', '.join(KINDS)}, got {', '.join(file) or 'none'}")
        found = {kind: file[kind] for kind in KINDS}
    for kind, images in found.items():
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or not len(images):
            raise ValueError(
                f"expected {kind} in {path} to be uint8 [n, h, w] or [n, h, w, c], got {images.dtype} {images.shape}"
            )
    return found


def as_json(kind: str, images: NDArray[np.uint8], **options: Any) -> Request:
    """A POST to /predict: JSON numbers in [0, 1] with four decimals, from images uint8 [n, ...]."""
    body = json.dumps({"images": (images / 255).round(4).tolist()}).encode()
    return Request(kind, "/predict", _JSON, body, images=len(images), **options)


def as_npy(kind: str, images: NDArray[np.uint8], **options: Any) -> Request:
    """A POST to /predict/npy, from images uint8 [n, ...]."""
    file = io.BytesIO()
    np.save(file, images, allow_pickle=False)
    return Request(kind, "/predict/npy", _NPY, file.getvalue(), images=len(images), **options)


WRITERS = {"json": as_json, "npy": as_npy}


def malformed(image: NDArray[np.uint8]) -> list[Request]:
    """Malformed requests, each with the expected status."""
    whole = as_json("malformed", image[None]).body
    bodies: list[tuple[str, str, bytes, int]] = [
        ("/predict", _JSON, b'{"images": [[[0.5', 400),
        ("/predict", _JSON, whole.replace(b"0.0", b"NaN", 1), 400),
        ("/predict", _JSON, b'{"images": [[[0.5]]]}', 422),
        ("/predict", _JSON, b'{"images": []}', 422),
        ("/predict", _JSON, b'{"pictures": [1]}', 422),
        ("/predict", _JSON, whole.replace(b"0.0", b'"0.0"', 1), 422),
        ("/predict", _JSON, whole.replace(b"0.0", b"1.5", 1), 422),
        ("/predict", "text/csv", b"0.5,0.5", 415),
        ("/predict/npy", _NPY, b"\x93NUMPY\x01\x00 no header", 400),
        ("/predict/npy", _NPY, as_npy("malformed", image[None]).body[:-1], 400),
        ("/predict/image", "image/png", b"\x89PNG\r\n\x1a\n", 400),
    ]
    return [Request("malformed", path, media, body, frozenset((status,)), 0) for path, media, body, status in bodies]


def oversize() -> Request:
    """A request larger than the body limit of any gateway for small images."""
    return Request("oversize", "/predict/npy", _NPY, bytes(_OVERSIZE_BYTES), frozenset((413,)), 0)
