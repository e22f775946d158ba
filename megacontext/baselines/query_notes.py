"""Queries that a layer has asked since the cache was last maintained, until it is certain that they stay."""

from __future__ import annotations

import torch
from torch import Tensor


class QueryNotes:
    """noted: per layer, (place of the first row in the text, queries (H, T, d) not rotated) of each pass."""

    is_part = True

    def __init__(self) -> None:
        self.noted: dict[int, list[tuple[int, Tensor]]] = {}

    def add(self, layer: int, first: int, queries: Tensor) -> None:
        """Rows first, first + 1 ... of the text asked `queries` (1, H, T, d)."""
        self.noted.setdefault(layer, []).append((first, queries[0].clone()))

    def drop_from(self, length: int) -> None:
        """The text ends at `length` again: passes that began there or later never were."""
        for layer, passes in self.noted.items():
            self.noted[layer] = [note for note in passes if note[0] < length]

    def take(self) -> dict[int, tuple[Tensor, Tensor]]:
        """Per layer, places (T,) and queries (H, T, d) of all that was noted, which is forgotten here."""
        taken = {}
        for layer, passes in self.noted.items():
            if passes:
                rows = [torch.arange(first, first + q.shape[1], device=q.device) for first, q in passes]
                taken[layer] = torch.cat(rows), torch.cat([q for _, q in passes], 1)
        self.noted = {}
        return taken
