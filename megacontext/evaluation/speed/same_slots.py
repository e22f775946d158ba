"""A plain cache that always holds as many rows as another memory shows: what that memory costs is the difference."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from megacontext.evaluation.episodes.run import read
from megacontext.evaluation.speed.contenders import WARM, Ours, Timed, timed
from megacontext.models.base import LoadedModel
from nanochat.engine import decode
from nanochat.hook import Mark
from nanochat.kv_cache import DenseCache


class SameSlots(Timed):
    """A plain cache that holds, at every token, exactly as many rows as `other` showed at its token of that number.

    It takes its turn after `other`. Its rows are of the history's beginning; what they say makes no difference.
    """

    answers = False
    beside: Ours

    def __init__(self, name: str, loaded: LoadedModel, other: Ours, tokens: Sequence[int]) -> None:
        """tokens: at least as many as `other` ever shows slots. Raises ValueError if these turn out to be too few."""
        self.name, self.model, self.beside, self.tokens = name, loaded.model, other, list(tokens)
        self.cache = DenseCache(loaded.model.spec, capacity=len(self.tokens) + 1)
        self._logits = read(self.model, self.cache, self.tokens)

    @property
    def length(self) -> int:
        return self.beside.length

    def read(self, tokens: Sequence[int]) -> None:
        """It reads nothing: it stands where `other` does."""

    def going_on(self, prompt: Sequence[int]) -> AbstractContextManager[None]:
        return nullcontext()

    def decode(self, count: int) -> list[float]:
        shown = self.beside.shown
        if len(shown) != WARM + count:
            raise ValueError(f"{self.name} takes its turn after {self.beside.name}, with as many tokens: {len(shown)}")
        times = []
        tokens = decode(self.model, self.cache, self._logits, lambda last: int(last.argmax()))
        next(tokens)
        for rows in shown:
            self._stand_at(rows)
            times.append(timed(tokens, self.model, self.now))
        return times[WARM:]

    def _stand_at(self, rows: int) -> None:
        """`rows` rows are in the cache."""
        if rows > len(self.tokens):
            raise ValueError(f"{self.beside.name} shows {rows} slots; {self.name} has {len(self.tokens)} tokens")
        if rows > self.cache.length:
            read(self.model, self.cache, self.tokens[self.cache.length : rows])
        self.cache.rollback(Mark(rows, self.cache.carry))

    def first_token(self, prompt: Sequence[int]) -> float:
        raise ValueError(f"{self.name} decodes alone: its rows are no history that a prompt could ask about")

    @property
    def slots(self) -> int:
        return self.beside.shown[-1]

    @property
    def nbytes(self) -> int:
        return self.cache.usage.nbytes

    @property
    def weight_bytes(self) -> int | None:
        return getattr(self.model, "weight_bytes", None)
