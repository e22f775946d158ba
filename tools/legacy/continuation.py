"""The decode demo's one turn: read a prompt into a memory, then write its continuation piece by piece.

Knows models and memories by the hook alone, and nothing of files, settings or terminals.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

from megacontext.telemetry.events import Turn
from megacontext.turns import Reply
from nanochat.engine import decode, prefill

if TYPE_CHECKING:
    from torch import Tensor

    from megacontext.models.base import LoadedModel
    from megacontext.telemetry.sinks import Sink
    from nanochat.hook import KVCache
    from tools.legacy.prompt import Prompt


class Continuation:
    """limit: most tokens. notes: what the turn's event says of its settings. turn: that event, afterwards."""

    def __init__(
        self,
        loaded: LoadedModel,
        cache: KVCache,
        sampler: Callable[[Tensor], int],
        limit: int,
        sink: Sink,
        notes: str,
    ) -> None:
        self.loaded, self.cache, self.sampler = loaded, cache, sampler
        self.limit, self.sink, self.notes = limit, sink, notes
        self.turn: Turn | None = None

    def pieces(self, prompt: Prompt) -> Generator[str]:
        """The continuation in pieces of whole characters. The turn's event follows, however it ends."""
        reply = Reply(prompt.ids, 0)
        try:
            logits = prefill(self.loaded.model, self.cache, prompt.ids, words=prompt.words)
            yield from self._write(reply, logits)
        finally:
            self.turn = self._turn(reply)
            self.sink.emit(self.turn)

    def _write(self, reply: Reply, logits: Tensor) -> Iterator[str]:
        text = self.loaded.text
        for token in decode(self.loaded.model, self.cache, logits, self.sampler):
            reply.timer.tick()
            if token in text.stop_ids:
                reply.stop = "stop"
                break
            if piece := reply.add(text.token_bytes(token)):
                yield piece
            if reply.generated >= self.limit:
                reply.stop = "max_tokens"
                break
        if tail := reply.end():
            yield tail

    def _turn(self, reply: Reply) -> Turn:
        times: dict[str, Any] = reply.timer.figures()
        return Turn(
            turn=1,
            prompt_tokens=len(reply.prompt),
            generated_tokens=reply.generated,
            history_tokens=len(reply.prompt) + reply.generated,
            stop=reply.stop,
            resident_bytes=self.cache.usage.nbytes,
            notes=self.notes,
            **times,
        )
