"""A conversation: turns of text on one side, a model with its memory on the other.

Prompts are built from ids (`ChatFormat`), never by pasting text together. The token log comes first: an id is in the
log before the model is fed with it, so a crash loses no token that was shown. Two lists tell where a conversation
stands: what is logged but not yet fed (`_unfed`, the last id of a reply that was cut short), and whether a reply
still lacks its closing ids, which are written just before the next turn.

Knows nothing about terminals, files or kinds of memory.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from megacontext.errors import StoreError
from megacontext.telemetry.events import Turn, Warning_
from megacontext.telemetry.sinks import NullSink, Sink
from megacontext.turns import Reply, Tokens, TurnResult, reply_is_open, user_frame, words_of

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from megacontext.config import ChatConfig
    from megacontext.models.base import LoadedModel
    from megacontext.models.text import TextModel
    from megacontext.tree.memory_files import MemoryFiles
    from nanochat.hook import KVCache

READ_PIECE = 256  # tokens logged, then fed, at a time while a document is read: what an interrupt may cost

Progress = Callable[[int, int], None]  # (tokens done, tokens in all)
Sampler = Callable[["Tensor"], int]  # logits (1, V) -> id


class Resumed(NamedTuple):
    """tokens: of the log. kept: how many of these needed no reading. why: the newest kept state could not be used, or
    ""; then `kept` is what an earlier one had read.
    """

    tokens: int
    kept: int
    why: str


class Interrupted(Exception):
    """Raised inside a pass's progress report when the user asked to stop: between passes the memory is whole."""


def never() -> bool:
    """The default answer to "was it cancelled?"."""
    return False


class Conversation:
    """Turns over one model and one memory.

    cache: empty. log: the ids so far; a non-empty one must be taken up by `resume` first. sync_always: make every id
    durable before it is fed, not only every turn. files: where the memory is kept at each turn's end. last: the latest
    finished turn. store_failure: why nothing is written any more; the conversation goes on in memory.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        cache: KVCache,
        log: Tokens,
        config: ChatConfig,
        *,
        sampler: Sampler,
        sink: Sink | None = None,
        sync_always: bool = False,
        files: MemoryFiles | None = None,
    ) -> None:
        self.loaded = loaded
        self.cache = cache
        self.log = log
        self.config = config
        self.last: TurnResult | None = None
        self.store_failure: StoreError | None = None
        self._sampler = sampler
        self._sink: Sink = sink or NullSink()
        self._sync_always = sync_always
        self._files = files
        self._torn = False  # whether a pass was broken off in its middle: then the memory is not kept any more
        self._turn = 0
        self._unfed: list[int] = []
        self._open = reply_is_open(loaded.text, log)

    @property
    def text(self) -> TextModel:
        """The model's text side."""
        return self.loaded.text

    def move_to(self, log: Tokens) -> None:
        """Go on in another log of the same ids. What could not be written before is in that one, so it is forgotten."""
        if len(log) != len(self.log):
            raise ValueError(f"a log of {len(log)} ids cannot take the place of one of {len(self.log)}")
        self.log, self.store_failure = log, None

    def write_memory(self, folder: Path) -> None:
        """Write a memory that has no folder to `folder`, beside a copy of the log. Raises StoreError."""
        if self._files is not None and not self._torn:
            self._files.write_to(folder, self.cache)

    def resume(self, progress: Progress | None = None) -> Resumed:
        """Let an empty memory stand where the log ends: as it was kept, the rest is read again."""
        total, why = len(self.log), ""
        if self._files is not None and total:
            why = self._files.bring_back(self.cache, self.log.array(0, total), self.loaded.model)
        kept = self.cache.length
        if 0 < kept == total - 1 and self.log.ended:
            self._unfed = self.log.tokens(kept, total)  # as it was: the next turn feeds it
            return Resumed(total, kept, why)
        # What came after the last kept state came token by token, if it was an answer: the same passes, the same bits.
        piece = 1 if kept and total - kept < READ_PIECE // 4 else READ_PIECE
        for start in range(kept, total, piece):
            self._feed(self.log.tokens(start, min(start + piece, total)), start, total, progress, never)
        self._keep_memory()
        return Resumed(total, kept, why)

    def say(
        self, text: str, *, progress: Progress | None = None, cancelled: Callable[[], bool] = never
    ) -> Generator[str, None, None]:
        """Say `text`, get the reply in pieces of whole characters; `last` holds the turn afterwards.

        `cancelled` is asked between tokens; then, or when the iterator is closed, the reply so far stays.
        """
        turn = self.text.chat.user(text)
        reply = Reply(self._turn_ids(turn), len(self.log))
        reply.turn = len(turn)
        try:
            yield from self._reply(reply, progress, cancelled)
        except Interrupted:
            pass
        except GeneratorExit:  # between two tokens
            raise
        except BaseException:
            self._torn = True
            raise
        finally:
            self._finish(reply)

    def read(
        self,
        text: str,
        *,
        name: str | None = None,
        progress: Progress | None = None,
        cancelled: Callable[[], bool] = never,
    ) -> TurnResult:
        """Take a document in, as a user's turn without a reply. An interrupted one ends where it was."""
        reply = Reply(self._turn_ids(self.text.chat.user(text, reply=False)), len(self.log), name)
        self._catch_up()
        self._open, total = False, len(reply.prompt)
        try:
            for start in range(0, total, READ_PIECE):
                piece = reply.prompt[start : start + READ_PIECE]
                self._keep(piece)
                self._feed(piece, start, total, progress, cancelled)
            reply.stop = "read"
        except BaseException as error:
            self._end_user_turn()
            if not isinstance(error, Interrupted):
                self._torn = True
                self._finish(reply, "document")
                raise
        return self._finish(reply, "document")

    # --- inside a turn ---

    def _turn_ids(self, user: list[int]) -> list[int]:
        """The ids of a turn: what ends the reply before it, or what opens the conversation, then the user's."""
        chat = self.text.chat
        before = chat.close() if self._open else [] if len(self.log) else chat.opening(self.config.system)
        return before + user

    def _reply(self, reply: Reply, progress: Progress | None, cancelled: Callable[[], bool]) -> Iterator[str]:
        from nanochat.engine import decode

        self._keep(reply.prompt)
        ids, self._open = self._unfed + reply.prompt, True
        words = words_of(self.text, len(ids), reply.turn)
        logits = self._feed(ids, 0, len(ids), progress, cancelled, answer=True, words=words)
        for token in decode(self.loaded.model, self.cache, logits, self._sampler):
            reply.timer.tick()
            if token in self.text.stop_ids:
                reply.stop = "stop"
                break
            self._keep([token])
            self._unfed = [token]
            piece = reply.add(self.text.token_bytes(token))
            if piece:
                yield piece
            if cancelled():
                break
            if reply.generated >= self.config.max_tokens:
                reply.stop = "max_tokens"
                break
            self._unfed = []  # going on feeds it
        if tail := reply.end():
            yield tail

    def _feed(
        self,
        ids: list[int],
        offset: int,
        total: int,
        progress: Progress | None,
        cancelled: Callable[[], bool],
        *,
        answer: bool = False,
        words: tuple[int, int] | None = None,
    ) -> Tensor:
        """Feed logged ids; what an interrupt leaves over is `_unfed`. Returns the last logits (1, V).

        answer: a reply follows; words: where in `ids` the user's words stand (`nanochat.engine.prefill`).
        """
        from nanochat.engine import prefill

        def report(done: int, _: int) -> None:
            self._unfed = ids[done:]
            if progress is not None:
                progress(offset + done, total)
            if self._unfed and cancelled():
                raise Interrupted

        logits = prefill(self.loaded.model, self.cache, ids, answer=answer, words=words, on_progress=report)
        self._unfed = []
        if cancelled() and offset + len(ids) < total:
            raise Interrupted
        return logits

    def _keep(self, ids: list[int]) -> None:
        """Into the log, before the model is fed. A disk that fails ends the writing, not the conversation."""
        try:
            self.log.append(ids)
            if self._sync_always:
                self.log.sync()
        except StoreError as error:
            self._note_failure(error)

    def _keep_memory(self, *, turn_end: bool = False) -> None:
        """The memory's state, and what failed to be written of it. turn_end: the log is durable."""
        if self._files is None or self._torn:
            return
        self._files.keep(self.cache, turn_end=turn_end)
        failure = self._files.failure_of(self.cache)
        if failure is not None:
            self._note_failure(failure)

    def _sync(self) -> None:
        try:
            self.log.sync()
        except StoreError as error:
            self._note_failure(error)

    def _note_failure(self, error: StoreError) -> None:
        if self.store_failure is None:
            self.store_failure = error
            self._sink.emit(Warning_(message=str(error), hint="the conversation goes on in memory only"))

    def _catch_up(self) -> None:
        """Feed what a reply that was cut short left over."""
        if self._unfed:
            self._feed(list(self._unfed), 0, len(self._unfed), None, never)

    def _end_user_turn(self) -> None:
        """After an interrupted document: what ends a user's turn, so that the next one stands by itself."""
        ending = user_frame(self.text, reply=False).after
        self._keep(ending)
        self._unfed = self._unfed + ending

    def _finish(self, reply: Reply, role: str = "user") -> TurnResult:
        self.log.add_turn(role, reply.start, len(self.log) - reply.generated)
        if reply.generated:
            self.log.add_turn("assistant", len(self.log) - reply.generated, len(self.log))
        self._sync()
        self._keep_memory(turn_end=self.store_failure is None)
        self._turn += 1
        times: dict[str, Any] = reply.timer.figures()
        event = Turn(
            turn=self._turn,
            prompt_tokens=len(self.log) - reply.start - reply.generated,
            generated_tokens=reply.generated,
            history_tokens=len(self.log),
            stop=reply.stop,
            name=reply.name,
            resident_bytes=self.cache.usage.nbytes,
            **times,
        )
        self._sink.emit(event)
        self.last = TurnResult(reply.text, event)
        return self.last
