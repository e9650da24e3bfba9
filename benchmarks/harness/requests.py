"""Requests as bytes, made before anything is timed: one image each, the same bytes for every contender."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.classifier import Images

_WHITE = 255
_DATATYPES = {"FP32": np.float32, "UINT8": np.uint8}


def http_request(path: str, media_type: str, body: bytes, **headers: object) -> bytes:
    """A POST; the host is without its port, so that the bytes do not depend on the server."""
    lines = [f"POST {path} HTTP/1.1", "host: 127.0.0.1", f"content-type: {media_type}", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def as_json(image: NDArray[np.uint8], decimals: int | None = None) -> bytes:
    """POST /predict; all digits of a float64, what NumPy's `tolist` and `json` write, or so many decimals."""
    numbers = image[None] / _WHITE
    if decimals is not None:
        numbers = numbers.round(decimals)
    return http_request("/predict", "application/json", json.dumps({"images": numbers.tolist()}).encode())


def as_npy(image: NDArray[Any]) -> bytes:
    """POST /predict/npy."""
    file = io.BytesIO()
    np.save(file, image[None], allow_pickle=False)
    return http_request("/predict/npy", "application/x-npy", file.getvalue())


def as_tensor(image: NDArray[Any], model: str) -> bytes:
    """An inference request of the Open Inference Protocol, the numbers as a binary tensor."""
    datatype = {dtype: name for name, dtype in _DATATYPES.items()}[image.dtype.type]
    tensor = {
        "name": "images",
        "datatype": datatype,
        "shape": [1, *image.shape],
        "parameters": {"binary_data_size": image.nbytes},
    }
    head = json.dumps({"inputs": [tensor]}).encode()
    return http_request(
        f"/v2/models/{model}/infer",
        "application/octet-stream",
        head + image.tobytes(),
        inference_header_content_length=len(head),
    )


def to_bytes(images: Images) -> NDArray[np.uint8]:
    """Images in [0, 1] as 0 to 255."""
    return np.rint(images * _WHITE).astype(np.uint8)
