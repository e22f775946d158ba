"""What the machine can do: device, dtype, peak speed. Nothing is asked of the hardware before a function is called."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

import torch

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
DEVICES = ("cuda", "mps", "cpu")


def autodetect_device_type() -> str:
    """cuda, else mps, else cpu."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def has_device(device_type: str) -> bool:
    """Whether this machine has a device of a type in DEVICES."""
    if device_type == "cpu":
        return True
    return torch.cuda.is_available() if device_type == "cuda" else torch.backends.mps.is_available()


def dtype_named(name: str) -> torch.dtype:
    """The dtype called `name`. Raises ValueError naming the choices."""
    if name not in DTYPES:
        raise ValueError(f"unknown dtype {name!r}; choose one of {', '.join(DTYPES)}")
    return DTYPES[name]


def resolve_dtype(name: str, device: str | torch.device) -> torch.dtype:
    """The dtype called `name`; "auto" is bfloat16 where `device` computes in it natively, else float32.

    Raises ValueError for an unknown name.
    """
    if name != "auto":
        return dtype_named(name)
    kind = torch.device(device).type
    native = (kind == "cuda" and cuda_has_bfloat16()) or (kind == "cpu" and cpu_has_bfloat16())
    return torch.bfloat16 if native else torch.float32


def upstream_dtype(requested: str | None) -> tuple[torch.dtype, str]:
    """Upstream's COMPUTE_DTYPE and its reason: NANOCHAT_DTYPE, else bfloat16 on CUDA from SM 80, else float32."""
    if requested:
        return dtype_named(requested), f"set by NANOCHAT_DTYPE={requested}"
    if not torch.cuda.is_available():
        return torch.float32, "auto-detected: no CUDA, float32"
    major, minor = torch.cuda.get_device_capability()
    if (major, minor) >= (8, 0):
        return torch.bfloat16, f"auto-detected: CUDA SM {major}{minor} has bfloat16"
    return torch.float32, f"auto-detected: CUDA SM {major}{minor} has no bfloat16"


def cuda_has_bfloat16() -> bool:
    """NVIDIA from SM 80 (Ampere); AMD wherever torch says so."""
    if not torch.cuda.is_available():
        return False
    if torch.version.hip:
        return torch.cuda.is_bf16_supported()
    return torch.cuda.get_device_capability() >= (8, 0)


@cache
def cpu_has_bfloat16() -> bool:
    """Whether this CPU has bfloat16 instructions and torch's kernels (oneDNN) use them.

    oneDNN's own answer is not enough on x86: it also says yes where it emulates them with AVX-512, slower than float32.
    On macOS torch has no oneDNN, so the answer is no.
    """
    if not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return False
    if platform.machine().lower() in {"x86_64", "amd64", "i386", "x86"}:
        return _x86_has_bfloat16()
    return True


def _x86_has_bfloat16() -> bool:
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    if probe is not None:
        return bool(probe()) or bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())
    cpuinfo = Path("/proc/cpuinfo")  # torch before 2.6
    words = cpuinfo.read_text().split() if cpuinfo.exists() else []
    return "avx512_bf16" in words or "amx_bf16" in words


# Peaks ----------------------------------------------------------------------------------------------------------------

# (words that must occur in the device's name, dense bf16 FLOP/s, bytes/s), from the makers' data sheets. The first
# row that fits wins, so the narrower name comes first.
_PEAKS = [
    (("gb300",), 2.5e15, 8.0e12),
    (("b300",), 2.25e15, 8.0e12),
    (("gb200",), 2.5e15, 8.0e12),
    (("b200",), 2.25e15, 8.0e12),
    (("b100",), 1.8e15, 8.0e12),
    (("h200", "nvl"), 836e12, 4.8e12),
    (("h200",), 989e12, 4.8e12),
    (("gh200",), 989e12, 4.0e12),
    (("h100", "nvl"), 835e12, 3.9e12),
    (("h100", "pcie"), 756e12, 2.0e12),
    (("h100",), 989e12, 3.35e12),
    (("h800",), 989e12, 3.35e12),
    (("h20",), 148e12, 4.0e12),
    (("a100", "40gb"), 312e12, 1.555e12),
    (("a100",), 312e12, 2.039e12),
    (("a800",), 312e12, 2.039e12),
    (("a40",), 149.7e12, 0.696e12),
    (("a30",), 165e12, 0.933e12),
    (("a10",), 125e12, 0.6e12),
    (("l40s",), 362e12, 0.864e12),
    (("l40",), 181e12, 0.864e12),
    (("l4",), 121e12, 0.3e12),
    (("mi355",), 2.5e15, 8.0e12),
    (("mi325",), 1.3074e15, 6.0e12),
    (("mi300x",), 1.3074e15, 5.3e12),
    (("mi300a",), 980.6e12, 5.3e12),
    (("mi250x",), 383e12, 3.277e12),
    (("mi250",), 362.1e12, 3.277e12),
    (("5090",), 209.5e12, 1.792e12),
    (("4090",), 165.2e12, 1.008e12),
    (("3090",), 71e12, 0.936e12),
]


def _peak(device_name: str) -> tuple[float, float]:
    name = device_name.lower()
    for words, flops, bandwidth in _PEAKS:
        if all(word in name for word in words):
            return flops, bandwidth
    return float("inf"), float("inf")


def get_peak_flops(device_name: str) -> float:
    """Dense bf16 FLOP/s of a GPU by its name; inf if unknown, so that a utilisation reads 0 and not something wrong."""
    return _peak(device_name)[0]


def get_peak_bandwidth(device_name: str) -> float:
    """Memory bytes/s of a GPU by its name; inf if unknown."""
    return _peak(device_name)[1]
