"""What goes to stdout: the assistant's text, or JSON lines. Everything else goes to stderr by `note`."""

from __future__ import annotations

import json
import re
import sys
from typing import Any, Protocol

from megacontext.telemetry.sinks import payload
from megacontext.turns import TurnResult
from nanochat.streams import PREFIX, note, say

JSON_VERSION = 1
_STEERING = re.compile("[\x7f-\x9f]")  # controls that JSON itself does not escape


class Output(Protocol):
    """Receives a reply piece by piece, and what else happens."""

    def piece(self, text: str) -> None: ...

    def reply(self, result: TurnResult) -> None: ...

    def read(self, result: TurnResult) -> None: ...

    def error(self, code: int, message: str) -> None: ...

    def fact(self, kind: str, **fields: Any) -> None:
        """For programs alone: people are told by `note`, or get a table."""
        ...


class TextOutput:
    """For people: `MegaContext> ` and the text, made harmless."""

    def __init__(self) -> None:
        self._begun = False

    def piece(self, text: str) -> None:
        say(text if self._begun else PREFIX + text)
        self._begun = True

    def reply(self, result: TurnResult) -> None:
        say("\n" if self._begun else PREFIX + "\n")
        self._begun = False

    def read(self, result: TurnResult) -> None:
        pass

    def error(self, code: int, message: str) -> None:
        if self._begun:
            self.piece("\n")
            self._begun = False
        note(f"error: {message}")

    def fact(self, kind: str, **fields: Any) -> None:
        pass


class JsonOutput:
    """For programs: one JSON object a line, `v` first. `type` is delta, reply, read or error; session, exported or
    imported where that is asked for.
    """

    def piece(self, text: str) -> None:
        self._line("delta", text=text)

    def reply(self, result: TurnResult) -> None:
        self._line("reply", text=result.text, **payload(result.event))

    def read(self, result: TurnResult) -> None:
        self._line("read", **payload(result.event))

    def error(self, code: int, message: str) -> None:
        self._line("error", code=code, message=message)
        note(f"error: {message}")

    def fact(self, kind: str, **fields: Any) -> None:
        self._line(kind, **fields)

    def _line(self, kind: str, **fields: Any) -> None:
        line = json.dumps({"v": JSON_VERSION, "type": kind, **fields}, ensure_ascii=False)
        sys.stdout.write(_STEERING.sub(lambda match: f"\\u{ord(match[0]):04x}", line) + "\n")
        sys.stdout.flush()
