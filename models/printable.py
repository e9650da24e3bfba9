"""Names from outside as text that a terminal shows and does not obey: of bundles, labels, data files, and of servers."""

from __future__ import annotations

import json


def printable(text: object) -> str:
    r"""The text in one line, each character that is not printable written as an escape.

    Those are control characters (escape sequences, new lines), those that change the direction of text or have no width, and code points
    without a character. It is called where a name from outside is printed or drawn; a sentence made of such names is one line too.

    >>> printable("cat\x1b[2J\nworst case 0.0 %\u202e")
    'cat\\x1b[2J\\nworst case 0.0 %\\u202e'
    """
    found = str(text)
    return found if found.isprintable() else "".join(map(_shown, found))


def _shown(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")


def printable_json(document: str) -> str:
    """A JSON document with every character that `printable` escapes written as JSON's own escape: the same document to a parser."""
    return "".join(one if one.isprintable() or one == "\n" else json.dumps(one)[1:-1] for one in document)
