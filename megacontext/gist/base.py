"""What a gist is: a node's stand-in inside attention, and who makes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from megacontext.arena import Page


class Gist(NamedTuple):
    """A few slots: keys (not rotated) and values (L, Hk, g, d); mass (L, Hk, g): attention they received.

    A slot that stands for many tokens will need a log-mass bias here; a top token stands for itself.
    """

    keys: Tensor
    values: Tensor
    mass: Tensor

    @property
    def nbytes(self) -> int:
        return sum(t.untyped_storage().nbytes() for t in self)


class GistMaker(ABC):
    """Makes gists. `fingerprint` names maker and settings: derived data of another one is never used."""

    fingerprint: str

    @abstractmethod
    def of_page(self, page: Page, mass: Tensor, slots: int) -> Gist:
        """From a block's exact K/V. mass: (L, Hk, n) attention that its tokens received while they were recent."""

    @abstractmethod
    def of_gists(self, children: Sequence[Gist], slots: int) -> Gist:
        """From the gists of a node's children."""
