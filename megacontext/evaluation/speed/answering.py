"""The same memory while it answers: the view that a prompt's end chose is held, and no refocus comes between tokens but
where the budget is full.

That is how a chat decodes; text that flows on without a prompt is decoded by the memory itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from megacontext.evaluation.speed.contenders import Ours
from megacontext.models.base import LoadedModel
from nanochat.engine import prefill
from nanochat.hook import KVCache


class Answering(Ours):
    """An answer to a prompt upon `of`'s history, decoded on a copy of it. Its turn comes after `of`'s."""

    answers = False  # `of` says how long its first token takes

    def __init__(self, name: str, loaded: LoadedModel, of: Ours) -> None:
        super().__init__(name, loaded, of.contender)
        self.beside = of
        self._nbytes = 0

    def read(self, tokens: Sequence[int]) -> None:
        """It reads nothing: it stands where `of` does."""

    @contextmanager
    def _copy(self) -> Iterator[KVCache]:
        with super()._copy() as twin:
            yield twin
            self._nbytes = twin.usage.nbytes

    def _begin(self, twin: KVCache, prompt: Sequence[int]) -> Tensor:
        return prefill(self.model, twin, prompt)

    @property
    def slots(self) -> int:
        return self.shown[-1]

    @property
    def read_slots(self) -> int:
        return self.shown[-1]

    @property
    def nbytes(self) -> int:
        return self._nbytes

    def close(self) -> None:
        """What it stands upon is `of`'s."""
