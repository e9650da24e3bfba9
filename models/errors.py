"""The errors of the lowest layer; `defences/errors.py` draws the whole tree."""


class HauberkError(Exception):
    """Anything this project raises on purpose."""


class InvalidInput(HauberkError):
    """Something a person or a client gave cannot be used; the message says what was expected, what came, and what to do."""


class InvalidBundle(InvalidInput):
    """A bundle is missing, altered, incomplete, or of another format."""
