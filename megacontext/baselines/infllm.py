"""InfLLM: first tokens, a local window, and the blocks of the past that the pass asks for, all at one distance.

Xiao, Zhang, Han, Xiao, Lin, Zhang, Liu, Sun: InfLLM: Training-Free Long-Context Extrapolation for LLMs with an
Efficient Context Memory (NeurIPS 2024, arXiv 2402.04617), section 3: what leaves the local window becomes blocks of 128
tokens; a block is found by its 4 representative tokens, those that the queries of the window attended to most; the
blocks whose representatives match the pass's queries best are read, and all tokens beyond the window stand at one
distance, further than any in it. Sizes as in section 4.1 and the authors' `mistral-inf-llm.yaml`.

Other than in the paper:
- Its parts take 6,272 slots. Where there are fewer, window, blocks and first tokens shrink in proportion; a block
  becomes smaller only where not even one would fit.
- A pass of several rows keeps the distance of its first row (the paper turns each query by itself).
- As in the authors' code, a block is found by the mean of its representatives' keys, all heads of a layer together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from megacontext.baselines.evicting import attention_weights, flops_of_scores
from megacontext.baselines.keeping import KeepingCache
from megacontext.baselines.limits import Limits, TextSide
from megacontext.errors import BudgetError
from nanochat.hook import KVView, ModelSpec


@dataclass(frozen=True)
class InfLLMConfig:
    """initial: first tokens. local: tokens of the window. block: tokens of a block. blocks: most that are read.

    representatives: tokens that stand for a block.
    """

    initial: int = 128
    local: int = 4096
    block: int = 128
    blocks: int = 16
    representatives: int = 4

    def fitted(self, slots: int) -> InfLLMConfig:
        """The same in proportion, in at most `slots` slots."""
        whole = self.initial + self.local + self.blocks * self.block
        if slots >= whole:
            return self
        far = self.blocks * self.block * slots // whole
        block = max(min(self.block, far), 1)
        initial, blocks = self.initial * slots // whole, min(far // block, self.blocks)
        return InfLLMConfig(initial, slots - initial - blocks * block, block, blocks, min(self.representatives, block))


class InfLLM(KeepingCache):
    """Block i is the tokens initial + i * block and on; near are all tokens after the last block that is sealed."""

    rotated = False

    def __init__(
        self, spec: ModelSpec, limits: Limits, config: InfLLMConfig = InfLLMConfig(), text: TextSide | None = None
    ) -> None:
        """Raises BudgetError if no window is left beside the blocks and a pass."""
        fitted = config.fitted(limits.slots)
        left = limits.slots - fitted.initial - fitted.blocks * fitted.block - (fitted.block - 1) - limits.chunk
        self.local = min(fitted.local, left)  # a block is sealed only when it has left the window as a whole
        if self.local < 1 or fitted.blocks < 1:
            raise BudgetError(
                f"infllm cannot work with {limits.slots} slots: {fitted.blocks} blocks of {fitted.block}, one that is "
                f"not yet whole and a pass of {limits.chunk} rows leave {self.local} for its window; give more, or "
                "smaller blocks"
            )
        self.config = fitted
        self.distance = fitted.initial + self.local + fitted.block  # no near row is further away
        super().__init__(spec, limits)

    def reset(self) -> None:
        super().reset()
        self.sealed = 0  # blocks
        heads, width = self.spec.heads, self.spec.head_dim
        self.found = {layer: self._zeros(heads, 0, width) for layer in self.rows}  # (H, blocks, d): a block's key
        self.chosen: dict[int, list[int]] = {}  # blocks that the last pass read, where it read any
        self._settled = 0  # rows that `settle` has seen
        self._mass = {layer: torch.zeros(heads, 0, device=self.spec.device) for layer in self.rows}
        self._notes: list[tuple[int, Tensor]] = []
        self._blocks = 0  # that this pass reads
        self._turns: Any = None  # of what it reads, and of its own rows
        self._own_turns: Any = None

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=self.spec.dtype, device=self.spec.device)

    # --- what a pass reads ---

    @property
    def near(self) -> int:
        """The first token that is near; until a block is sealed, the first tokens are near too."""
        return self.config.initial + self.sealed * self.config.block if self.sealed else 0

    def far_slots(self, rows: int) -> tuple[int, int]:
        """(first tokens, blocks) that are read beside the near tokens and `rows` new rows."""
        if not self.sealed:
            return 0, 0
        left = self.limits.slots - self.config.initial - (self.length - self.near) - rows
        return self.config.initial, max(min(self.sealed, self.config.blocks, left // self.config.block), 0)

    def read_slots(self, rows: int) -> int:
        initial, blocks = self.far_slots(rows)
        return initial + blocks * self.config.block + self.length - self.near

    def prepare(self, rows: int) -> None:
        initial, self._blocks = self.far_slots(rows)
        far, stop = initial + self._blocks * self.config.block, self.length + rows
        if far + stop - self.near > self.limits.slots:
            raise ValueError(f"{stop - self._settled} rows since the last maintain have no room; call it in between")
        start = self.distance - self._settled  # positions are counted from the oldest that may be near
        near = torch.arange(start + self.near, start + stop, device=self.spec.device)
        self._turns = self.turn(torch.cat([torch.zeros(far, dtype=near.dtype, device=near.device), near]))
        self._own_turns = self.turn(near[-rows:])

    def read(self, layer: int, q: Tensor) -> KVView:
        rows, rotate = self.rows[layer], self.spec.rotation.rotate
        turned = rotate(q, self._own_turns)
        places = self._far(layer, turned)
        keys, values = (
            torch.cat([*(x[:, :, start:stop] for start, stop in places), x[:, :, self.near :]], 2)
            for x in (rows.first, rows.second)
        )
        view = KVView(turned, rotate(keys, self._turns), values)
        self._note(layer, view)
        return view

    def _far(self, layer: int, turned: Tensor) -> list[tuple[int, int]]:
        """Tokens [start, stop) of the first ones and of the blocks that this pass asks for, in time order."""
        self.chosen.pop(layer, None)
        if not self.sealed:
            return []
        initial, block = self.config.initial, self.config.block
        self.chosen[layer] = self._choose(layer, turned, self._blocks)
        starts = [initial + i * block for i in self.chosen[layer]]
        return [(0, initial), *((start, start + block) for start in starts)]

    def _choose(self, layer: int, turned: Tensor, blocks: int) -> list[int]:
        """By the product of the mean query and the block's key, summed over heads; ascending."""
        if self.sealed <= blocks:
            return list(range(self.sealed))
        found = self.found[layer]
        score = (turned[0].mean(1, keepdim=True) * found).sum((0, 2))
        self.selection_flops += 2 * found.numel()
        return sorted(score.topk(blocks).indices.tolist())

    # --- how blocks are made ---

    def _note(self, layer: int, view: KVView) -> None:
        """What this pass attended to, (H, near tokens)."""
        mass = attention_weights(view).sum(1)
        self.selection_flops += flops_of_scores(view)
        self._notes.append((layer, mass[:, mass.shape[1] - (self.length - self.near) :]))

    def settle(self) -> None:
        for layer, mass in self._notes:
            before = self._mass[layer]
            self._mass[layer] = mass.clone()
            self._mass[layer][:, : before.shape[1]] += before
        self._notes.clear()
        self._settled = self.length
        while self.length - self.near >= self.local + self.config.block + self._start:
            self._seal()

    @property
    def _start(self) -> int:
        """Where the next block begins among the near tokens: the first tokens are near until there is a block."""
        return 0 if self.sealed else self.config.initial

    def _seal(self) -> None:
        """The oldest near tokens become a block."""
        near, block = self.near + self._start, self.config.block
        group = self.spec.heads // self.spec.kv_heads
        for layer, rows in self.rows.items():
            mass = self._mass[layer][:, self._start :]
            best = mass[:, :block].topk(self.config.representatives, dim=1).indices
            keys = rows.first[0, :, near : near + block].repeat_interleave(group, 0)
            key = keys.gather(1, best[:, :, None].expand(-1, -1, keys.shape[2])).mean(1, keepdim=True)
            self.found[layer] = torch.cat([self.found[layer], key], 1)
            self._mass[layer] = mass[:, block:].clone()
        self.sealed += 1

    def forget(self) -> None:
        self._notes.clear()
