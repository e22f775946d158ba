"""What is timed: a memory that grows by reading and decodes on a copy, so that the next length goes on from text alone.

`Ours` times any memory behind the hook; transformers is in `theirs.py`.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor

from megacontext.evaluation.caches import Contender
from megacontext.evaluation.episodes.run import read
from megacontext.evaluation.speed.filling import fill
from megacontext.models.base import LoadedModel
from nanochat.engine import decode, prefill
from nanochat.hook import BaseModel, KVCache
from nanochat.kv_cache import DenseCache

WARM = 2  # first tokens of every burst, not counted: caches of the machine hold another contender's data
SAMPLE = 1024  # rows whose keys and values fill a cache that does not read all of its history

Clock = Callable[[], float]


class Timed(ABC):
    """One contender. Times are in milliseconds. plain: it keeps every row, so its history may be filled in.
    answers: it can be asked for a first token. beside: whose turn comes before, and without whom it is out.
    now: its clock, in seconds.
    """

    name: str
    plain: bool = False
    answers: bool = True
    beside: Timed | None = None
    now: Clock = staticmethod(time.perf_counter)

    @property
    @abstractmethod
    def length(self) -> int:
        """Tokens of its history."""

    @abstractmethod
    def read(self, tokens: Sequence[int]) -> None:
        """More history."""

    def fill(self, rows: int) -> None:
        """`rows` more rows of history, without computing them: keys and values of earlier ones again."""
        raise ValueError(f"{self.name} cannot be filled: it must read its history")

    @abstractmethod
    def going_on(self, prompt: Sequence[int]) -> AbstractContextManager[None]:
        """While it lasts, `decode` goes on from call to call; after it the history is what it was.

        prompt: what it decodes an answer to, if it answers; others go on with the text.
        """

    @abstractmethod
    def decode(self, count: int) -> list[float]:
        """The next `count` tokens, decoded greedily, after WARM more that do not count. Only in `going_on`."""

    @abstractmethod
    def first_token(self, prompt: Sequence[int]) -> float:
        """From a prompt to the first token of its answer; the history stays as it is."""

    @property
    @abstractmethod
    def slots(self) -> int:
        """Slots that hold something."""

    @property
    def read_slots(self) -> int:
        """Slots that the next token reads."""
        return self.slots

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of the memory in RAM."""

    @property
    @abstractmethod
    def weight_bytes(self) -> int | None:
        """Bytes of the model's weights."""

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """It is not used any more."""


class Ours(Timed):
    """A memory behind the hook."""

    def __init__(self, name: str, loaded: LoadedModel, contender: Contender) -> None:
        self.name, self.model, self.contender = name, loaded.model, contender
        self.plain = type(contender.cache) is DenseCache
        self._logits: Tensor | None = None
        self._passage: list[int] = []  # newest tokens, for filling
        self._going: tuple[KVCache, Iterator[int]] | None = None
        self.shown: list[int] = []  # slots in view before each token of the last burst

    @property
    def cache(self) -> KVCache:
        return self.contender.cache

    @property
    def length(self) -> int:
        return self.cache.length

    def read(self, tokens: Sequence[int]) -> None:
        self._logits = read(self.model, self.cache, list(tokens))
        wait(self.model)
        self._passage = [*self._passage, *tokens][-SAMPLE:]

    def fill(self, rows: int) -> None:
        if not self.plain:
            super().fill(rows)
        fill(self.model, self.cache, rows, self._passage)

    @contextmanager
    def going_on(self, prompt: Sequence[int]) -> Iterator[None]:
        with self._copy() as twin:
            tokens = decode(self.model, twin, self._begin(twin, prompt), lambda last: int(last.argmax()))
            next(tokens)  # sampled from what was read: nothing has been computed for it
            self._going = twin, tokens
            yield
        self._going = None

    def _begin(self, twin: KVCache, prompt: Sequence[int]) -> Tensor:
        """The logits that decoding begins with."""
        if self._logits is None:
            raise ValueError(f"{self.name} has read nothing yet: there is nothing to go on from")
        return self._logits

    def decode(self, count: int) -> list[float]:
        if self._going is None:
            raise ValueError(f"{self.name} decodes while `going_on` lasts")
        twin, tokens = self._going
        self.shown, times = [], []
        for _ in range(WARM + count):
            self.shown.append(_slots(twin))
            times.append(timed(tokens, self.model, self.now))
        return times[WARM:]

    def first_token(self, prompt: Sequence[int]) -> float:
        with self._copy() as twin:
            started = self.now()
            int(prefill(self.model, twin, list(prompt)).argmax())
            return (self.now() - started) * 1000

    @contextmanager
    def _copy(self) -> Iterator[KVCache]:
        """The cache itself, cut back afterwards, where it can be cut; else a copy."""
        if not self.plain:
            yield self.cache.fork()
            return
        mark = self.cache.mark()
        try:
            yield self.cache
        finally:
            self.cache.rollback(mark)

    @property
    def slots(self) -> int:
        return self.cache.usage.resident_slots

    @property
    def read_slots(self) -> int:
        return self.cache.usage.read_slots

    @property
    def nbytes(self) -> int:
        return self.cache.usage.nbytes

    @property
    def weight_bytes(self) -> int | None:
        return getattr(self.model, "weight_bytes", None)

    def close(self) -> None:
        self.contender.close()


def wait(model: BaseModel) -> None:
    if model.spec.device.type == "cuda":
        torch.cuda.synchronize()


def timed(tokens: Iterator[int], model: BaseModel, now: Clock) -> float:
    """Milliseconds of the next one."""
    started = now()
    next(tokens)
    wait(model)
    return (now() - started) * 1000


def _slots(cache: KVCache) -> int:
    """Slots in view. A memory of ours says so at once; `usage` counts bytes as well."""
    context = getattr(cache, "context", None)
    return context.slots if context is not None else cache.usage.read_slots
