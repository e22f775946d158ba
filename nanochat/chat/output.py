"""What goes to stdout: the assistant's text, or JSON lines. Everything else goes to stderr by `note`."""

from __future__ import annotations

import json
import re
import sys
from typing import Any, Protocol

from megacontext.telemetry.sinks import payload
from megacontext.turns import TurnResult
from nanochat.harmless import harmless

PREFIX = "MegaContext> "
JSON_VERSION = 1
_STEERING = re.compile("[\x7f-\x9f]")  # controls that JSON itself does not escape


class Output(Protocol):
    """Receives a reply piece by piece, and what else happens."""

    def piece(self, text: str) -> None: ...

    def reply(self, result: TurnResult) -> None: ...

    def read(self, result: TurnResult) -> None: ...

    def error(self, code: int, message: str) -> None: ...


class TextOutput:
    """For people: `MegaContext> ` and the text, made harmless."""

    def __init__(self) -> None:
        self._begun = False

    def piece(self, text: str) -> None:
        sys.stdout.write(harmless(text) if self._begun else PREFIX + harmless(text))
        sys.stdout.flush()
        self._begun = True

    def reply(self, result: TurnResult) -> None:
        sys.stdout.write("\n" if self._begun else PREFIX + "\n")
        sys.stdout.flush()
        self._begun = False

    def read(self, result: TurnResult) -> None:
        pass

    def error(self, code: int, message: str) -> None:
        if self._begun:
            self.piece("\n")
            self._begun = False
        note(f"error: {message}")


class JsonOutput:
    """For programs: one JSON object a line, `v` first, `type` is delta, reply, read or error."""

    def piece(self, text: str) -> None:
        self._line("delta", text=text)

    def reply(self, result: TurnResult) -> None:
        self._line("reply", text=result.text, **payload(result.event))

    def read(self, result: TurnResult) -> None:
        self._line("read", **payload(result.event))

    def error(self, code: int, message: str) -> None:
        self._line("error", code=code, message=message)
        note(f"error: {message}")

    def _line(self, kind: str, **fields: Any) -> None:
        line = json.dumps({"v": JSON_VERSION, "type": kind, **fields}, ensure_ascii=False)
        sys.stdout.write(_STEERING.sub(lambda match: f"\\u{ord(match[0]):04x}", line) + "\n")
        sys.stdout.flush()


def note(text: str) -> None:
    """One or more lines on stderr, made harmless."""
    print(harmless(text), file=sys.stderr, flush=True)
