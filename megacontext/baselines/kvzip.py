"""KVzip: what the model needs to say the text again stays. It is asked of the model itself, and of no question.

Kim, Kim, Kwon, Lee, Yun, Song: KVzip: Query-Agnostic KV Cache Compression with Context Reconstruction (2025, arXiv
2505.23416), section 3: the model reads a request to repeat the context and then the context again; a row is worth the
largest attention that any of these rows pays it, over all query heads of its KV head (which is how grouped queries are
handled) and all rows. Section 3.4: done in chunks of 2,048 tokens; a chunk's rows compete with the sinks and with the
repetition itself only, so that the cost is linear, and later chunks are asked for by their first words.

Heads and layers compete for the budget, as in the paper: those in which text is copied keep nearly all their rows. A
layer's slots are as many as its largest head has; the others are padded with slots that nobody sees. `resident_slots`
and `read_slots` are the mean over layers and heads without that padding; `nbytes` counts it. `heads="even"` is the
paper's uniform variant: every head of every layer keeps as many rows.

A stream under a budget differs from the paper in this:
- The paper compresses a finished context once. Here that happens whenever the budget is full, and frees the share
  `free` of it at a time. Only text that came since the last time is repeated: a chunk's worth does not depend on other
  chunks, so rows that stayed keep theirs. While repeating, the model sees what earlier compressions left.
- The request is a turn of the conversation in the model's own chat format, the repetition its answer; without a text
  side there is no request.
The rows of the repetition exist while it lasts and are no slots; the model's pass counts into `selection_flops`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from megacontext.baselines.evicting import EvictingCache, Positions
from megacontext.baselines.limits import Limits, TextSide
from megacontext.baselines.repeating import REPEAT_ROWS, Repetition
from megacontext.errors import BudgetError, ConfigError
from nanochat.hook import BaseModel, CacheUsage, ModelSpec, Stream

Heads = Literal["uneven", "even"]
HIDDEN = float("-inf")  # bias of a padded slot
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
    heads: Heads = "uneven"
    free: float = 0.25
    recent: int = 0
    positions: Positions = "text"

    def __post_init__(self) -> None:
        """Raises ConfigError for numbers that make no sense."""
        if not 0 < self.free < 1:
            raise ConfigError(f"free is {self.free}: give it a share of the slots between 0 and 1")
        if self.heads not in get_args(Heads):
            raise ConfigError(f"heads is {self.heads!r}; it is one of {', '.join(get_args(Heads))}")
        if self.chunk < 1:
            raise ConfigError(f"chunk is {self.chunk}: give it at least 1 token")


class KVzip(EvictingCache):
    """The last rows of every head are those of `unread`, the tokens that came since the last compression.

    keep: rows that a compression leaves, in the mean over layers and heads.
    """

    tracks: ClassVar[tuple[str, ...]] = ("worth", "hidden")

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
        self._kept = 0  # rows that the last compression left, in the mean
        self._padded = False

    # --- a pass ---

    def begin(self, stream: Stream) -> Tensor:
        """Raises ValueError for rows that are no tokens: they cannot be repeated."""
        if stream.tokens is None:
            raise ValueError("KVzip repeats the text, so it needs the tokens of every row")
        if self._kept + len(self.unread) + stream.rows > self.limits.slots:
            raise ValueError(
                f"{self.limits.slots} slots are full; KVzip makes room in `maintain`: call it after a pass"
            )
        positions = super().begin(stream)
        self.unread = torch.cat([self.unread, stream.tokens[0]])
        return positions

    def bias(self, layer: int) -> Tensor | None:
        slots = self.slots[layer]
        return slots.tracks["hidden"][:, : slots.count] if self._padded else None

    def forget_notes(self) -> None:
        self.unread = self.unread[: self.length - self._since].clone()

    def maintain(self, model: BaseModel, *, prompt: int = 0, words: tuple[int, int] | None = None) -> None:
        super().maintain(model, prompt=prompt, words=words)
        if self._kept + len(self.unread) + self.limits.chunk > self.limits.slots:
            self.compress(model)

    @property
    def usage(self) -> CacheUsage:
        mean = self._kept + len(self.unread)
        return CacheUsage(self.length, mean, mean, super().usage.nbytes)

    # --- compression ---

    @torch.no_grad()
    def compress(self, model: BaseModel) -> None:
        """Let the model say the unread text again, note what it looks at, keep that."""
        for start in range(0, len(self.unread), self.config.chunk):
            self._repeat(model, start, self.unread[start : start + self.config.chunk])
        each = min(self.keep, self._kept + len(self.unread))
        worths = [self.worth(layer) for layer in self.spec.memory_layers]
        for layer, stays in zip(self.spec.memory_layers, rows_that_stay(worths, each, self.config.heads), strict=True):
            self._close_ranks(layer, stays)
        self._kept, self._since = each, self.length
        self._cue, self.unread = self.unread[-CUE:].clone(), self.unread[:0].clone()

    def _close_ranks(self, layer: int, stays: Tensor) -> None:
        """Only the rows that stay are left, at the end of each head's slots but for the sinks; padding between."""
        slots, count = self.slots[layer], stays.shape[1]
        most = int(stays.sum(1).max())
        rows = torch.arange(count, device=stays.device).expand_as(stays)
        index = torch.where(stays, rows + count, rows).topk(most, dim=1).indices
        seen = stays.gather(1, index)
        place = torch.where(seen & (index >= self.sinks), index + count, torch.where(seen, index, self.sinks))
        order = place.argsort(1)
        slots.keep(index.gather(1, order))
        slots.tracks["hidden"][:, :most] = torch.where(seen.gather(1, order), 0.0, HIDDEN)
        slots.reserve(most + self.limits.slots - self.keep, exact=True)
        self._close_up(slots)
        self._padded = self._padded or self.config.heads == "uneven"

    def _repeat(self, model: BaseModel, start: int, chunk: Tensor) -> None:
        """Notes what the rows of `chunk`, which begins at `start` of the unread text, are worth."""
        back = len(self.unread) - start
        cue = torch.cat([self._cue, self.unread[:start]])[-CUE:]
        spoken = torch.cat([torch.tensor(self.request(cue), dtype=torch.int64, device=chunk.device), chunk])
        repetition = Repetition(self, back, len(chunk))
        for rows in spoken.split(REPEAT_ROWS):
            model.forward(model.embed(rows[None]), repetition)
        for layer, most in repetition.most.items():
            first = self.slots[layer].count - back
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
        worth = slots.tracks["worth"][:, : slots.count] + slots.tracks["hidden"][:, : slots.count]
        worth[:, : self.sinks] = float("inf")
        worth[:, slots.count - self.recent :] = float("inf")
        return worth


def rows_that_stay(worths: Sequence[Tensor], each: int, heads: Heads) -> list[Tensor]:
    """worths: (Hk, n) of each layer -> (Hk, n) bool: the best of all or of each head, `each` a head in the mean."""
    if heads == "even":
        best = (worth.topk(each, dim=1).indices for worth in worths)
        pairs = zip(worths, best, strict=True)
        return [torch.zeros_like(worth, dtype=torch.bool).scatter_(1, index, True) for worth, index in pairs]
    flat = torch.cat([worth.flatten() for worth in worths])
    stays = torch.zeros_like(flat, dtype=torch.bool)
    stays[flat.topk(each * sum(len(worth) for worth in worths)).indices] = True
    parts = stays.split([worth.numel() for worth in worths])
    return [part.view_as(worth) for part, worth in zip(parts, worths, strict=True)]
