"""The text of a session's tokens, by the tokenizer of the model that made it, if that is at hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from megacontext.errors import MegaContextError
from megacontext.models.load_text import load_text
from megacontext.sessions.stored import StoredSession
from megacontext.turns import user_frame
from nanochat.harmless import snippet

if TYPE_CHECKING:
    from megacontext.models.text import TextModel

MODELS = Path("artifacts/models")
HEAD = 1024  # tokens of a turn among which its words begin: what stands before them is the system prompt
GLANCE = 48  # tokens of a snippet


class Words:
    """Token ranges of one session as text."""

    def __init__(self, session: StoredSession, text: TextModel) -> None:
        self._tokens, self._text = session.tokens, text
        self._frame = user_frame(text)

    def glance(self, start: int, stop: int, most: int) -> str:
        """The beginning of tokens [start, stop), in quotes, in at most `most` characters."""
        ids = self._tokens[start : min(stop, start + GLANCE)].tolist()
        return f'"{snippet(self._text.decode(ids), max(most - 2, 8))}"'

    def turn(self, start: int, stop: int, role: str, most: int) -> str:
        """The first words of a turn, without the chat format around them."""
        before, after = self._frame
        head = self._tokens[start : min(stop, start + HEAD)].tolist()
        skip = 0 if role == "assistant" else _after_last(head, before)
        if role == "user" and after and self._tokens[start:stop][-len(after) :].tolist() == after:
            stop -= len(after)
        return self.glance(start + skip, stop, most)


def _after_last(ids: Sequence[int], pattern: Sequence[int]) -> int:
    """Where the last occurrence of `pattern` ends; 0 if there is none."""
    for start in range(len(ids) - len(pattern), -1, -1):
        if pattern and list(ids[start : start + len(pattern)]) == list(pattern):
            return start + len(pattern)
    return 0


def find_words(session: StoredSession, told: Path | None) -> Words | str:
    """The session's words, or why there are none. told: the model that a log names, or a user."""
    reasons = []
    places = [told] if told else []
    places += [MODELS / f"{session.model}.gguf", MODELS / session.model]
    for path in dict.fromkeys(places):
        try:
            text = load_text(path, session.vocab)
        except MegaContextError as error:
            reasons.append(str(error))
            continue
        if text.fingerprint == session.fingerprint:
            return Words(session, text)
        reasons.append(f"{path} has another tokenizer than the session")
    return f"no text is shown: {reasons[0]}. Name the model with --model."
