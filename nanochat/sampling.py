"""From logits to tokens."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def sample_next_token(
    logits: Tensor, rng: torch.Generator | None, temperature: float = 1.0, top_k: int | None = None
) -> Tensor:
    """logits (B, V) -> ids (B, 1). All rows draw from one call to `rng`.

    temperature 0 takes the most likely id; top_k None or 0 draws from the whole vocabulary. A negative temperature is
    an AssertionError, as upstream.
    """
    if temperature < 0:
        raise AssertionError(f"temperature is {temperature}; it must be 0 (greedy) or more")
    if temperature == 0:
        return logits.argmax(-1, keepdim=True)
    if top_k is None or top_k <= 0:
        return torch.multinomial((logits / temperature).softmax(-1), 1, generator=rng)
    best, ids = logits.topk(min(top_k, logits.shape[-1]), -1)
    choice = torch.multinomial((best / temperature).softmax(-1), 1, generator=rng)
    return ids.gather(-1, choice)


class Sampler:
    """One row's sampler: logits (1, V) -> id. Seeded, on whichever device the logits are."""

    def __init__(self, temperature: float = 1.0, top_k: int | None = None, seed: int = 42) -> None:
        if temperature < 0:
            raise ValueError(f"temperature is {temperature}; it must be 0 (greedy) or more")
        self.temperature, self.top_k, self.seed = temperature, top_k, seed
        self._rng: torch.Generator | None = None

    def __call__(self, logits: Tensor) -> int:
        if self._rng is None:
            self._rng = torch.Generator(logits.device)
            self._rng.manual_seed(self.seed)
        return int(sample_next_token(logits, self._rng, self.temperature, self.top_k))
