"""Rotary frequencies of the Llama family, as transformers computes them (`modeling_rope_utils.py`).

Scaling changes the frequencies once, at load time; positions stay whole numbers. What depends on the length of the
text at hand (dynamic, yarn, longrope) is not here: the memory keeps every position inside the trained range anyway.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from megacontext.errors import ConfigError


def rope_frequencies(head_dim: int, base: float, scaling: Mapping[str, Any] | None = None) -> Tensor:
    """(head_dim / 2,) float32, radians a position.

    scaling: the `rope_scaling` (or `rope_parameters`) block of a config.json; kinds: default, linear, llama3.
    Raises ConfigError for any other kind and for a missing or senseless number.
    """
    channel = torch.arange(0, head_dim, 2, dtype=torch.int64).float()
    plain = 1.0 / (base ** (channel / head_dim))
    kind = (scaling or {}).get("rope_type", (scaling or {}).get("type", "default"))
    if scaling is None or kind in ("default", "none"):
        return plain
    if kind == "linear":
        return plain / _number(scaling, "factor")
    if kind == "llama3":
        return _llama3(plain, scaling)
    raise ConfigError(f"rope scaling of type {kind!r} is not supported; use a model with default, linear or llama3")


def _llama3(plain: Tensor, scaling: Mapping[str, Any]) -> Tensor:
    """Llama 3.1: long waves slowed by `factor`, short ones kept, a ramp in between."""
    factor, trained = _number(scaling, "factor"), _number(scaling, "original_max_position_embeddings")
    low, high = _number(scaling, "low_freq_factor"), _number(scaling, "high_freq_factor")
    if high <= low:
        raise ConfigError(f"rope scaling: high_freq_factor {high} must be greater than low_freq_factor {low}")
    wavelength = 2 * math.pi / plain
    slowed = torch.where(wavelength > trained / low, plain / factor, plain)
    ramp = (trained / wavelength - low) / (high - low)
    between = (wavelength >= trained / high) & (wavelength <= trained / low)
    return torch.where(between, (1 - ramp) * slowed / factor + ramp * slowed, slowed)


def _number(scaling: Mapping[str, Any], key: str) -> float:
    value = scaling.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (0 < value < math.inf):
        raise ConfigError(f"rope scaling needs {key!r} as a positive number, found {value!r}")
    return float(value)
