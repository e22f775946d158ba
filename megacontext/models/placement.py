"""Where a model runs, and in which number format, when the configuration says `auto`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from megacontext.errors import ConfigError

if TYPE_CHECKING:
    from megacontext.config import ModelConfig


def pick_device(config: ModelConfig) -> str:
    """`auto`: a GPU if there is one. Raises ConfigError for a device that this machine lacks."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if config.device == "auto":
        return next(device for device in ("cuda", "mps", "cpu") if there[device])
    if not there.get(config.device, False):
        raise ConfigError(f"model.device is {config.device!r}, but this machine has none; use 'auto' or 'cpu'")
    return config.device


def pick_dtype(config: ModelConfig) -> torch.dtype:
    """`auto`: bf16 on a GPU or where the CPU has bf16 instructions, else fp32."""
    if config.dtype != "auto":
        return getattr(torch, config.dtype)
    device = pick_device(config)
    fast = torch.cuda.is_bf16_supported() if device == "cuda" else device == "cpu" and cpu_has_bf16()
    return torch.bfloat16 if fast else torch.float32


def cpu_has_bf16() -> bool:
    """AVX512-BF16 or AMX-BF16. Without them bf16 is emulated and slower than fp32."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # private to torch: may go away
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
