"""Where a model runs, in which number format and on how many threads."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from megacontext.errors import ConfigError
from nanochat.hardware import autodetect_device_type, has_device, resolve_dtype

if TYPE_CHECKING:
    from megacontext.config import ModelConfig


class Placement(NamedTuple):
    """pack: lay matrices out for the CPU (faster; sums in another order)."""

    device: str
    dtype: torch.dtype
    pack: bool


def place(config: ModelConfig) -> Placement:
    """`auto`: a GPU if there is one; bf16 where the hardware computes in it, else fp32. Sets torch's thread count.

    fp32 asked for by name is for comparisons: its matrices stay plain, so that sums run in the reference's order.
    Raises ConfigError for a device that this machine lacks.
    """
    device = autodetect_device_type() if config.device == "auto" else config.device
    if not has_device(device):
        raise ConfigError(f"model.device is {config.device!r}, but this machine has none; use 'auto' or 'cpu'")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    return Placement(device, resolve_dtype(config.dtype, device), config.dtype != "float32")
