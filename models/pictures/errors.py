"""Why a picture is none that can be used; the service makes problem documents of these."""

from __future__ import annotations

from models.errors import InvalidInput


class UnusablePicture(InvalidInput):
    """A picture that is damaged, of another size or of other colours; `detail` is one sentence."""

    detail = "Expected a picture that can be used."

    def __init__(self, *, detail: str | None = None) -> None:
        self.detail = detail or type(self).detail
        super().__init__(self.detail)


class DamagedPicture(UnusablePicture):
    """No whole picture of a known kind."""

    detail = "Expected one whole picture, got a damaged or cut one, or no picture at all."


class UnusableColours(UnusablePicture):
    """Its colours cannot be held in the channels without loss."""

    detail = "Expected an opaque picture, grey or RGB."


class UnusableSize(UnusablePicture):
    """Another size."""

    detail = "Expected a picture of another size."
