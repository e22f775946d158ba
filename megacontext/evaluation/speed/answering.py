"""The same memory while it answers: the view that a prompt's end chose is held, and no refocus comes between tokens.

That is how a chat decodes; text that flows on without a prompt is decoded by the memory itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from megacontext.evaluation.speed.contenders import Ours
from megacontext.models.base import LoadedModel
from nanochat.engine import prefill
from nanochat.hook import KVCache


class Answering(Ours):
    """An answer upon `of`'s history, to a prompt of its newest `prompt` tokens. It takes its turn after `of`."""

    answers = False  # `of` says how long its first token takes

    def __init__(self, name: str, loaded: LoadedModel, of: Ours, prompt: int) -> None:
        super().__init__(name, loaded, of.contender)
        self.beside, self.of, self.prompt = of, of, prompt

    def read(self, tokens: Sequence[int]) -> None:
        """It reads nothing: it stands where `of` does."""

    def _begin(self, twin: KVCache) -> Tensor:
        return prefill(self.model, twin, self.of.passage(self.prompt))

    def close(self) -> None:
        """What it stands upon is `of`'s."""
