"""What a visitor is told is wrong: one sentence, and the field of the form that it is about."""

from __future__ import annotations

from models.errors import InvalidInput


class Refused(InvalidInput):
    """Something given to the lab that it cannot take.

    Attributes:
        field: the form's field that the sentence belongs to; "" for the form as a whole.
    """

    def __init__(self, field: str, sentence: str) -> None:
        super().__init__(sentence)
        self.field = field
