"""Text from outside that is shown at a terminal: nothing in it may steer the terminal. Standard library only."""

from __future__ import annotations

import re

# C0 and C1 controls but for newline and tab; bidirectional overrides that would reorder what a user reads
_HARMFUL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def harmless(text: str) -> str:
    """Text of a model or a file without characters that steer a terminal: each becomes its visible picture."""
    return _HARMFUL.sub(_picture, text)


def _picture(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code == 0x0D:
        return ""
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else "\ufffd"


def snippet(text: str, most: int = 60) -> str:
    """A glance at a text, in one harmless line of at most `most` characters, a cut marked by ` ...`."""
    line = " ".join(harmless(text).split()).strip("\ufffd ")
    return line if len(line) <= most else line[: most - 4].rstrip() + " ..."
