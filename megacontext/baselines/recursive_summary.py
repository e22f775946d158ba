"""Recursive summary: what no longer fits is summarised by the model itself, together with the former summary.

A text-space control, after Wang, Fu, Cao, Wang, Tian, Ding: Recursively Summarizing Enables Long-Term Dialogue Memory
in Large Language Models (arXiv 2308.15022), section 3: new memory = model(former memory, what was said since); and
Packer, Wooders, Lin, Fang, Patil, Stoica, Gonzalez: MemGPT (arXiv 2310.08560), section 2: when the window is full, half
of it leaves and the summary that stands first is made anew.

The summary is written greedily, so it is the same every time, in the same slots: the window is emptied for it and the
newest text is read anew behind it. A model without a chat format is given the text and `Summary:`.

Other than in the papers: the instruction is ours and short, for any text rather than for two speakers; the summary has
at most so many tokens, and no more than a quarter of the slots.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from megacontext.baselines.limits import Limits, TextSide
from megacontext.baselines.rereading import RereadingCache, Tokens
from megacontext.errors import BudgetError, ConfigError
from nanochat.hook import BaseModel, ModelSpec

HEAD, END = "Summary so far: ", "\n\n"
ASK = "Summarize all of this in a few sentences. Keep names and numbers."
ASK_BASE = "Summary:"
LEAST = 16  # tokens of text that one summary must be able to take in
SHORTEST = 8  # tokens of a summary


@dataclass(frozen=True)
class RecursiveSummaryConfig:
    """summary: most tokens of a summary. evict: share of the newest text that leaves when the window is full."""

    summary: int = 128
    evict: float = 0.5


class RecursiveSummary(RereadingCache):
    """summary: tokens of the summary as it stands. recent: the first token of history that stands as itself."""

    def __init__(
        self,
        spec: ModelSpec,
        limits: Limits,
        config: RecursiveSummaryConfig = RecursiveSummaryConfig(),
        text: TextSide | None = None,
    ) -> None:
        """Raises ConfigError without a text side, ValueError for a bad share, BudgetError for too few slots."""
        if text is None:
            raise ConfigError("recursive_summary writes text: give it the model's text side")
        if not 0 < config.evict <= 1 or config.summary < 1:
            raise ValueError(f"evict {config.evict} must be in (0, 1], summary {config.summary} at least 1 token")
        self.text, self.evict = text, config.evict
        self.plain = _is_plain(text)
        around = len(self._request(_of([]), _of([]))) + len(text.encode(HEAD)) + len(text.encode(END))
        self.most = min(config.summary, limits.slots // 4, (limits.slots - around - LEAST) // 2)
        if self.most < min(config.summary, SHORTEST) or limits.slots < 2 * (self.most + limits.chunk):
            raise BudgetError(
                f"recursive_summary cannot work with {limits.slots} slots: the request takes {around}, two summaries "
                f"{2 * SHORTEST}, text {LEAST}; give it as many, and more than four passes of {limits.chunk}"
            )
        super().__init__(spec, limits)

    def reset(self) -> None:
        super().reset()
        self.summary: Tokens = _of([])
        self.recent = 0

    def refresh(self, model: BaseModel, query: Tokens | None) -> None:
        """The question does not matter: what a summary leaves out is gone."""
        if not self.full:
            return
        leaving = max(int(self.evict * (self.length - self.recent)), 1)
        while leaving > 0:
            leaving -= self._summarise(model, leaving)
        head = self._head()
        room = self.limits.slots - 2 * self.limits.chunk - len(head)
        while self.length - self.recent > room:
            self._summarise(model, self.length - self.recent - room)
            head = self._head()
        self.read(model, np.concatenate([head, self.tokens[self.recent :]]))

    def _head(self) -> Tokens:
        """The summary as it stands in the prompt."""
        return np.concatenate([_of(self.text.encode(HEAD)), self.summary, _of(self.text.encode(END))])

    # --- a summary ---

    def _summarise(self, model: BaseModel, tokens: int) -> int:
        """A new summary, of the former one and at most `tokens` tokens after it; how many it took in."""
        request, taken = self._fitting(tokens)
        self.summary = self._written(model, request)
        self.recent += taken
        return taken

    def _fitting(self, tokens: int) -> tuple[Tokens, int]:
        """The request with as many of the oldest `tokens` tokens as its prompt has room for, and how many they are.

        Text that was cut anywhere may take more tokens than it came in: then the beginning of it is left out.
        """
        summary, taken, cut = self.summary, tokens, 0
        while True:
            request = self._request(summary, self.tokens[self.recent + cut : self.recent + taken])
            over = len(request) - (self.limits.slots - self.most)
            if over <= 0:
                return request, taken
            if taken > LEAST:
                taken = max(taken - over, LEAST)
            elif len(summary):
                summary = summary[over:]
            else:
                cut += over

    def _request(self, summary: Tokens, text: Tokens) -> Tokens:
        said = self.text.decode(summary.tolist()).strip()
        former = f"{HEAD}{said}{END}" if said else ""
        asked = f"{former}{self.text.decode(text.tolist()).strip()}{END}{ASK_BASE if self.plain else ASK}"
        return _of(self.text.encode(asked) if self.plain else self.text.chat.user(asked))

    def _written(self, model: BaseModel, request: Tokens) -> Tokens:
        """The likeliest answer, token by token, up to the end of the reply or the most tokens."""
        last, written = self.read(model, request), list[int]()
        while len(written) < self.most:
            token = int(model.logits(last)[0, -1].argmax())
            if token in self.text.stop_ids:
                break
            written.append(token)
            last = self.more(model, _of([token]))
        return _of(written)


def _of(ids: list[int]) -> Tokens:
    return np.array(ids, dtype=np.int32)


def _is_plain(text: TextSide) -> bool:
    """Whether a turn is ordinary text: a base model, without a chat format."""
    turn = text.chat.user("x")
    return text.encode(text.decode(turn)) == turn
