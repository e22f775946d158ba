"""What a baseline is given by whoever compares it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from megacontext.errors import BudgetError


@dataclass(frozen=True)
class Limits:
    """slots: most rows a head may hold, those of the running pass included. chunk: most rows of one pass.

    spare: slots that an eviction leaves free when a single row comes, so that not every token costs an eviction.
    """

    slots: int
    chunk: int = 32
    spare: int = 16

    def demand(self, least: int, name: str, why: str) -> None:
        """Raises BudgetError if there are fewer than `least` slots beside one pass."""
        needed = least + max(self.chunk, self.spare)
        if self.slots < needed:
            raise BudgetError(f"{name} cannot work with {self.slots} slots: {why} take {needed}; give it as many")


class ChatSide(Protocol):
    """How a conversation is written down."""

    def user(self, text: str, *, reply: bool = True) -> list[int]: ...

    def close(self) -> list[int]: ...


class TextSide(Protocol):
    """What a memory that works on text needs of a model's text side."""

    @property
    def stop_ids(self) -> frozenset[int]: ...

    @property
    def chat(self) -> ChatSide: ...

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...
