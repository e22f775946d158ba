"""What a log and a user are told about a model: plain values."""

from __future__ import annotations

from typing import Any, Protocol

from nanochat.hook import BaseModel


class Adapter(BaseModel, Protocol):
    """A model with what a summary asks for."""

    @property
    def parameters(self) -> int:
        """How many numbers the model has; a tied head counts once."""

    @property
    def weight_bytes(self) -> int:
        """Bytes that the weights occupy in memory."""


def summarise(model: Adapter, name: str, stored: str) -> dict[str, Any]:
    """stored: the number format in the file."""
    spec = model.spec
    return {
        "name": name,
        "family": spec.family,
        "parameters": model.parameters,
        "layers": spec.layers,
        "heads": spec.heads,
        "kv_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "vocab": spec.vocab,
        "max_position": spec.max_position,
        "stored_as": stored,
        "dtype": str(spec.dtype).removeprefix("torch."),
        "device": str(spec.device),
        "weight_bytes": model.weight_bytes,
        "fingerprint": spec.fingerprint,
    }
