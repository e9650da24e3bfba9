"""Valid requests of every route, as the bytes of HTTP/1.1."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from models.classifier import Images

Header = tuple[bytes, bytes]


@dataclass(frozen=True)
class WireRequest:
    """An HTTP/1.1 request in parts. Content-Length is added unless a header frames the body."""

    method: bytes
    target: bytes
    headers: tuple[Header, ...] = ()
    body: bytes = b""

    def head(self) -> bytes:
        """The bytes of the request line and the headers."""
        lines = [b"%s %s HTTP/1.1" % (self.method, self.target), b"Host: 127.0.0.1"]
        lines += [b"%s: %s" % header for header in self.headers]
        framed = any(name.lower() in (b"content-length", b"transfer-encoding") for name, _ in self.headers)
        if not framed and self.body:
            lines.append(b"Content-Length: %d" % len(self.body))
        return b"\r\n".join([*lines, b"", b""])

    def wire(self) -> bytes:
        """The bytes of the whole request."""
        return self.head() + self.body


def valid_requests(model: str, version: str, images: Images) -> tuple[WireRequest, ...]:
    """One request for every format of images float32 [n, h, w, 1] in [0, 1], and one for every other route."""
    pixels = (images * 255).round().astype(np.uint8)
    rounded = images.round(3)
    posts = [
        ("/predict", "application/json", json.dumps({"images": rounded[:1, ..., 0].tolist()}).encode()),
        ("/predict", "application/json", json.dumps({"images": rounded.tolist()}, separators=(",", ":")).encode()),
        ("/predict/npy", "application/x-npy", _npy(images)),
        ("/predict/npy", "application/x-npy", _npy(pixels[..., 0])),
        ("/predict/npy", "application/x-npy", _npy(pixels[[0, -1, 0, 0], ..., 0])),  # one image several times
        ("/predict/image", "image/png", _picture(pixels[0, ..., 0], "PNG")),
        ("/predict/image", "image/jpeg", _picture(pixels[0, ..., 0], "JPEG")),
        *(("/predict/image", kind, body) for kind, body in _pictures(pixels[0, ..., 0])),
        (f"/v2/models/{model}/infer", "application/json", _inference(rounded)[0]),
        (f"/v2/models/{model}/versions/{version}/infer", "application/json", _inference(pixels)[0]),
        (f"/v2/models/{model}/infer", "application/json", _inference(pixels.astype(np.int64))[0]),
        (f"/v2/models/{model}/infer", "application/json", _inference(rounded.astype(np.float64))[0]),
    ]
    requests = [WireRequest(b"POST", path.encode(), ((b"Content-Type", kind.encode()),), body) for path, kind, body in posts]
    text, tensor = _inference(images, binary=True)
    binary = ((b"Content-Type", b"application/octet-stream"), (b"Inference-Header-Content-Length", b"%d" % len(text)))
    requests += [WireRequest(b"POST", f"/v2/models/{model}/infer".encode(), binary, text + tensor)] * 2
    gets = ("/", "/livez", "/readyz", "/docs.json", "/schema.json", "/v2", "/v2/health/ready", f"/v2/models/{model}", "/nothing")
    return (*requests, *(WireRequest(b"GET", path.encode()) for path in gets))


def _npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def _picture(pixels: Any, kind: str, mode: str = "L", *, orientation: int = 1) -> bytes:
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).convert(mode).save(out, kind, exif=exif)
    return out.getvalue()


def _pictures(pixels: Any) -> list[tuple[str, bytes]]:
    """Pictures with more than a grey classifier takes, nothing of which is lost: turned, with alpha, a palette, 16 bits."""
    palette = Image.fromarray(np.minimum(pixels, 254)).convert("P")
    out = io.BytesIO()
    palette.save(out, "PNG", transparency=255)  # a colour that no pixel has
    return [
        ("image/jpeg", _picture(np.rot90(pixels), "JPEG", "RGB", orientation=6)),
        ("image/png", _picture(pixels.T, "PNG", "RGBA", orientation=5)),
        ("image/png", _picture(pixels.astype(np.uint16) * 257, "PNG", "I;16")),
        ("image/png", out.getvalue()),
    ]


def _inference(images: Any, *, binary: bool = False) -> tuple[bytes, bytes]:
    """The JSON head and the binary tensor after it."""
    datatype = {"uint8": "UINT8", "int64": "INT64", "float64": "FP64"}.get(images.dtype.name, "FP32")
    tensor: dict[str, Any] = {"name": "images", "shape": list(images.shape), "datatype": datatype}
    data = images.tobytes() if binary else b""
    tensor |= {"parameters": {"binary_data_size": len(data)}} if binary else {"data": images.ravel().tolist()}
    return json.dumps({"id": "x", "inputs": [tensor], "outputs": [{"name": "label"}]}).encode(), data
