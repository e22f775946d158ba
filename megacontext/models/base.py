"""What every model file has to offer, whatever its format: named weights, a fingerprint, a text side."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from megacontext.errors import MegaContextError

if TYPE_CHECKING:
    from torch import Tensor

    from megacontext.models.text import TextModel
    from nanochat.hook import BaseModel

SAMPLE = 4096  # bytes of each end of a tensor that go into a fingerprint


class ModelFileError(MegaContextError):
    """A model file is damaged, or of a kind that is not supported."""


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for use. summary: plain values for logs and for the user (family, parameters, dtype, ...)."""

    model: BaseModel
    text: TextModel
    name: str
    summary: dict[str, Any] = field(default_factory=dict)


class Weights(Protocol):
    """Named tensors of a model file, one at a time, under their names in transformers."""

    @property
    def fingerprint(self) -> str:
        """Identifies the contents of the file."""

    def __contains__(self, name: str) -> bool: ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Without reading the tensor."""

    def tensor(self, name: str) -> Tensor:
        """Read (and dequantise) one tensor. Raises ModelFileError when it is not there or damaged."""


def fingerprint(parts: Iterable[bytes]) -> str:
    """32 hex digits of SHA-256 over `parts`, each preceded by its length."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()[:32]
