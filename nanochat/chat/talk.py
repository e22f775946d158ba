"""A conversation as the user meets it: replies streamed out, documents read in, a meter line after each."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from megacontext.errors import ConfigError, StoreError
from megacontext.turns import TurnResult
from nanochat.chat.meter import folded_tokens, meter, stats_of
from nanochat.chat.output import Output
from nanochat.chat.terminal import CtrlC, progress
from nanochat.files import read_bytes
from nanochat.streams import note

if TYPE_CHECKING:
    from megacontext.conversation import Conversation
    from megacontext.edit_ledger import EditLedger
    from nanochat.chat.sessions import Desk


LARGEST_DOCUMENT = 1 << 30  # bytes


class Document(NamedTuple):
    """A text to take into memory, and what to call it."""

    name: str
    text: str


class Talk:
    """Joins the conversation that is open with where its text goes. Used by one-shot prompts and the prompt loop."""

    def __init__(self, desk: Desk, output: Output) -> None:
        self.desk = desk
        self.output = output
        self._failure_told: StoreError | None = None

    @property
    def conversation(self) -> Conversation:
        return self.desk.opened.conversation

    @property
    def edits(self) -> EditLedger:
        """Has heard of all edits of the conversation's view."""
        return self.desk.opened.edits

    def say(self, text: str) -> TurnResult:
        """One exchange. Ctrl-C stops the reply and keeps what was said."""
        folded = folded_tokens(self.conversation.cache)
        with CtrlC() as stop, progress("reading the prompt") as bar, ExitStack() as stack:
            pieces = self.conversation.say(text, progress=bar, cancelled=stop)
            stack.enter_context(closing(pieces))  # if the reader is gone, the turn ends with what was shown
            for piece in pieces:
                bar.close()
                self.output.piece(piece)
        result = self._last()
        self.output.reply(result)
        if result.event.stop == "interrupted":
            note("(stopped; the reply so far is kept)")
        self._tell(result, folded)
        stop.leave_if_ended()
        return result

    def read(self, document: Document) -> TurnResult:
        """Take a document into memory. Ctrl-C keeps what was read."""
        name, folded = document.name, folded_tokens(self.conversation.cache)
        with CtrlC() as stop, progress(f"reading {name}") as bar:
            result = self.conversation.read(document.text, name=name, progress=bar, cancelled=stop)
        self.output.read(result)
        tokens = f"{result.event.prompt_tokens:,} tokens"
        stopped = result.event.stop == "interrupted"
        note(f"read the first {tokens} of {name} (stopped)" if stopped else f"read {name}: {tokens}")
        self._tell(result, folded)
        stop.leave_if_ended()
        return result

    def _last(self) -> TurnResult:
        assert self.conversation.last is not None
        return self.conversation.last

    def _tell(self, result: TurnResult, folded_before: int) -> None:
        """The meter, and one line when something left the exact view: nothing is dropped silently."""
        cache = self.conversation.cache
        folded = folded_tokens(cache)
        if folded > folded_before:
            note(f"(folded {folded - folded_before:,} more tokens; {folded:,} are kept but not exact in view)")
        note(meter(stats_of(cache), result.event))
        failure = self.conversation.store_failure
        if failure is not None and failure is not self._failure_told:
            note(f"warning: {failure}")
            self._failure_told = failure


def open_document(name: str) -> Document:
    """A file's text. Raises ConfigError: not there, not text, empty."""
    path = Path(name).expanduser()
    try:
        data = read_bytes(path, limit=LARGEST_DOCUMENT)
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read ({error.strerror}): name a text file") from error
    except ValueError as error:
        raise ConfigError(f"{error}: split it") from error
    if b"\0" in data[:8192]:
        raise ConfigError(f"{name}: this is no text (it holds zero bytes): convert it to plain text first")
    text = data.decode("utf-8-sig", "replace")
    if not text.strip():
        raise ConfigError(f"{name}: the file is empty: there is nothing to read")
    return Document(path.name, text)
