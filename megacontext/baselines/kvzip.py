"""KVzip: what the model needs to say the text again stays. It is asked of the model itself, and of no question.

Kim, Kim, Kwon, Lee, Yun, Song: KVzip: Query-Agnostic KV Cache Compression with Context Reconstruction (2025, arXiv
2505.23416), section 3: the model reads a request to repeat the context and then the context again; a row is worth the
largest attention that any of these rows pays it, over all query heads of its KV head (which is how grouped queries are
handled) and all rows. Section 3.4: done in chunks of 2,048 tokens; a chunk's rows compete with the sinks and with the
repetition itself only, so that the cost is linear, and later chunks are asked for by their first words.

A stream under a budget differs from the paper in this:
- The paper compresses a finished context once. Here that happens whenever the budget is full, and frees the share
  `free` of it at a time. Only text that came since the last time is repeated: a chunk's worth does not depend on other
  chunks, so rows that stayed keep theirs. While repeating, the model sees what earlier compressions left.
- Every head of every layer keeps as many rows (the paper's uniform variant; its best lets heads compete).
- The request is a turn of the conversation in the model's own chat format, the repetition its answer; without a text
  side there is no request.
The rows of the repetition exist while it lasts and are no slots; the model's pass counts into `selection_flops`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from megacontext.baselines.evicting import EvictingCache, Positions
from megacontext.baselines.limits import Limits, TextSide
from megacontext.baselines.repeating import REPEAT_ROWS, Repetition
from megacontext.errors import BudgetError, ConfigError
from nanochat.hook import BaseModel, ModelSpec, Stream

FIRST = "Repeat the previous context exactly."
LATER = "Repeat the part of the previous context exactly, starting with"
CUE = 8  # tokens before a chunk that tell which one is meant


@dataclass(frozen=True)
class KVzipConfig:
    """chunk: most tokens repeated at a time. sinks: first rows that stay. free: share of the slots that a compression
    frees at least. recent, positions: as in KeyDiffConfig.
    """

    chunk: int = 2048
    sinks: int = 4
    free: float = 0.25
    recent: int = 0
    positions: Positions = "text"

    def __post_init__(self) -> None:
        """Raises ConfigError for numbers that make no sense."""
        if not 0 < self.free < 1:
            raise ConfigError(f"free is {self.free}: give it a share of the slots between 0 and 1")
        if self.chunk < 1:
            raise ConfigError(f"chunk is {self.chunk}: give it at least 1 token")


class KVzip(EvictingCache):
    """The last rows of every head are those of `unread`, the tokens that came since the last compression.

    keep: rows that a compression leaves.
    """

    tracks: ClassVar[tuple[str, ...]] = ("worth",)

    def __init__(
        self, spec: ModelSpec, limits: Limits, config: KVzipConfig = KVzipConfig(), text: TextSide | None = None
    ) -> None:
        """Raises ConfigError for a model whose positions are learned: it has none to repeat a text at."""
        if not spec.relocatable:
            raise ConfigError(f"KVzip repeats a text after its end, and {spec.family} has no positions for that")
        self.config, self.text = config, text
        super().__init__(spec, limits, positions=config.positions, sinks=config.sinks, recent=config.recent)
        self.keep = min(int(limits.slots * (1 - config.free)), limits.slots - 2 * limits.chunk)
        if self.keep <= config.sinks + config.recent:
            raise BudgetError(f"KVzip with free={config.free} keeps {self.keep} of {limits.slots} slots: give it more")

    def reset(self) -> None:
        super().reset()
        self.unread = self._cue = torch.empty(0, dtype=torch.int64, device=self.spec.device)
        self._since = 0  # place of the first unread token

    # --- a pass ---

    def begin(self, stream: Stream) -> Tensor:
        """Raises ValueError for rows that are no tokens: they cannot be repeated."""
        if stream.tokens is None:
            raise ValueError("KVzip repeats the text, so it needs the tokens of every row")
        positions = super().begin(stream)
        self.unread = torch.cat([self.unread, stream.tokens[0]])
        return positions

    def forget_notes(self) -> None:
        self.unread = self.unread[: self.length - self._since].clone()

    def shrink(self, layer: int, keep: int) -> None:
        """Only the model can tell what may leave, and it is not here. Raises ValueError."""
        raise ValueError(f"{self.limits.slots} slots are full: KVzip makes room in `maintain`, call it after each pass")

    def maintain(self, model: BaseModel, *, prompt: int = 0, words: tuple[int, int] | None = None) -> None:
        super().maintain(model, prompt=prompt, words=words)
        if self.slots[self.spec.memory_layers[0]].count + self.limits.chunk > self.limits.slots:
            self.compress(model)

    # --- compression ---

    @torch.no_grad()
    def compress(self, model: BaseModel) -> None:
        """Let the model say the unread text again, note what it looks at, keep that."""
        for start in range(0, len(self.unread), self.config.chunk):
            self._repeat(model, start, self.unread[start : start + self.config.chunk])
        for layer in self.spec.memory_layers:
            self.slots[layer].keep(self.select(layer, self.keep))
            self._close_up(self.slots[layer])
        self._since, self._cue, self.unread = self.length, self.unread[-CUE:].clone(), self.unread[:0].clone()

    def _repeat(self, model: BaseModel, start: int, chunk: Tensor) -> None:
        """Notes what the rows of `chunk`, which begins at `start` of the unread text, are worth."""
        first = self.slots[self.spec.memory_layers[0]].count - len(self.unread) + start
        cue = torch.cat([self._cue, self.unread[:start]])[-CUE:]
        spoken = torch.cat([torch.tensor(self.request(cue), dtype=torch.int64, device=chunk.device), chunk])
        repetition = Repetition(self, first, len(chunk))
        for rows in spoken.split(REPEAT_ROWS):
            model.forward(model.embed(rows[None]), repetition)
        for layer, most in repetition.most.items():
            self.slots[layer].tracks["worth"][:, first : first + len(chunk)] = most
        self.selection_flops += repetition.flops

    def request(self, cue: Tensor) -> list[int]:
        """Tokens that ask for the text, or for the part of it that follows the tokens `cue`."""
        if self.text is None:
            return []
        said = f"{LATER}{self.text.decode(cue.tolist())}" if len(cue) else FIRST
        return self.text.chat.user(said)

    def worth(self, layer: int) -> Tensor:
        slots = self.slots[layer]
        return slots.tracks["worth"][:, : slots.count]
