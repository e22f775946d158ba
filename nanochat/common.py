"""What every script needs: the base folder, logging, processes, downloads. Importing it does no work.

COMPUTE_DTYPE and COMPUTE_DTYPE_REASON are worked out when first read, because asking a GPU is work.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nanochat.files import FileLock, atomic_write
from nanochat.hardware import (
    DEVICES,
    autodetect_device_type,
    get_peak_bandwidth,
    get_peak_flops,
    has_device,
    resolve_dtype,
    upstream_dtype,
)

__all__ = [
    "COMPUTE_DTYPE",
    "COMPUTE_DTYPE_REASON",
    "ColoredFormatter",
    "DummyWandb",
    "autodetect_device_type",
    "compute_cleanup",
    "compute_init",
    "download_file_with_lock",
    "get_base_dir",
    "get_dist_info",
    "get_peak_bandwidth",
    "get_peak_flops",
    "is_ddp_initialized",
    "is_ddp_requested",
    "print0",
    "print_banner",
    "resolve_dtype",
    "setup_default_logging",
]

COMPUTE_DTYPE: torch.dtype
COMPUTE_DTYPE_REASON: str

_REQUESTED_DTYPE = os.environ.get("NANOCHAT_DTYPE")  # read once, as upstream does


def __getattr__(name: str) -> Any:
    if name not in {"COMPUTE_DTYPE", "COMPUTE_DTYPE_REASON"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    dtype, reason = upstream_dtype(_REQUESTED_DTYPE)
    globals().update(COMPUTE_DTYPE=dtype, COMPUTE_DTYPE_REASON=reason)
    return globals()[name]


# Logging --------------------------------------------------------------------------------------------------------------


class ColoredFormatter(logging.Formatter):
    """Colours the level, and the figures of INFO lines, for a terminal."""

    COLORS = {"DEBUG": "\033[36m", "INFO": "\033[32m", "WARNING": "\033[33m", "ERROR": "\033[31m"}  # noqa: RUF012
    RESET, BOLD = "\033[0m", "\033[1m"

    def format(self, record: logging.LogRecord) -> str:
        """The line, with escape codes. The record itself stays as it is, for other handlers."""
        colour = self.COLORS.get(record.levelname, "\033[35m")
        line = super().format(record)
        line = line.replace(record.levelname, f"{colour}{self.BOLD}{record.levelname}{self.RESET}", 1)
        if record.levelname == "INFO":
            line = re.sub(r"(\d+\.?\d*\s*(?:GB|MB|KB|%|docs))", rf"{self.BOLD}\1{self.RESET}", line)
        return line


def setup_default_logging() -> None:
    """INFO and above to stderr, coloured. For scripts; a library never calls it."""
    handler = logging.StreamHandler()
    handler.setFormatter(ColoredFormatter("%(asctime)s - %(name)s - %(levelname)s - %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def print0(s: str = "", **kwargs: Any) -> None:
    """Print on rank 0 only."""
    if int(os.environ.get("RANK", 0)) == 0:
        print(s, **kwargs)


def print_banner() -> None:
    """Say which program this is."""
    print0("\n  n a n o c h a t\n  -------------------------------------------\n")


class DummyWandb:
    """A run that forgets what is logged to it: Weights & Biases is opt-in."""

    def log(self, *args: Any, **kwargs: Any) -> None: ...

    def finish(self) -> None: ...


# Folders and downloads ------------------------------------------------------------------------------------------------


def get_base_dir() -> str:
    """$NANOCHAT_BASE_DIR, else ~/.cache/nanochat. Made if it is not there."""
    folder = Path(os.environ.get("NANOCHAT_BASE_DIR") or Path.home() / ".cache" / "nanochat")
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder)


def download_file_with_lock(
    url: str,
    filename: str,
    postprocess_fn: Callable[[str], Any] | None = None,
    *,
    sha256: str | None = None,
    timeout: float = 60.0,
) -> str:
    """Bring `url` to `filename` in the base folder, once, however many processes ask. Returns its path.

    postprocess_fn is called with the path after the download. timeout: seconds without a byte.
    Raises ValueError if the content is not the one of `sha256`; a failed download leaves nothing behind.
    """
    path = Path(get_base_dir(), filename)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(path.name + ".lock"))
    if path.exists():
        return str(path)
    lock.acquire(wait=True)
    try:
        if not path.exists():  # another process may have brought it while this one waited
            _download(url, path, sha256, timeout)
            if postprocess_fn is not None:
                postprocess_fn(str(path))
    finally:
        lock.release()
    return str(path)


def _download(url: str, path: Path, sha256: str | None, timeout: float) -> None:
    digest = hashlib.sha256()
    with urllib.request.urlopen(url, timeout=timeout) as response, atomic_write(path) as file:
        while chunk := response.read(1 << 20):
            digest.update(chunk)
            file.write(chunk)
        if sha256 is not None and digest.hexdigest() != sha256:
            raise ValueError(f"{url} has sha256 {digest.hexdigest()}, expected {sha256}: not kept")


# Processes ------------------------------------------------------------------------------------------------------------


def is_ddp_requested() -> bool:
    """Whether torchrun started this process: RANK, LOCAL_RANK and WORLD_SIZE are set."""
    return all(name in os.environ for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))


def is_ddp_initialized() -> bool:
    """Whether there is a process group."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def get_dist_info() -> tuple[bool, int, int, int]:
    """(distributed, rank, local rank, world size)."""
    if not is_ddp_requested():
        return False, 0, 0, 1
    rank, local_rank, world = (int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    return True, rank, local_rank, world


def compute_init(device_type: str = "cuda") -> tuple[bool, int, int, int, torch.device]:
    """Seed with 42, choose the device, join the process group on CUDA. Returns get_dist_info() and the device.

    Raises ValueError for an unknown device type, RuntimeError for one that is not there.
    """
    _check_device(device_type)
    torch.manual_seed(42)
    distributed, rank, local_rank, world = get_dist_info()
    device = torch.device(device_type)
    if device_type == "cuda":
        torch.set_float32_matmul_precision("high")
        if distributed:
            device = torch.device("cuda", local_rank)
            torch.cuda.set_device(device)
            torch.distributed.init_process_group(backend="nccl", device_id=device)
            torch.distributed.barrier()
    return distributed, rank, local_rank, world, device


def _check_device(device_type: str) -> None:
    if device_type not in DEVICES:
        raise ValueError(f"unknown device type {device_type!r}; choose one of {', '.join(DEVICES)}")
    if not has_device(device_type):
        raise RuntimeError(
            f"device {device_type} is not there; `autodetect_device_type()` says {autodetect_device_type()}"
        )


def compute_cleanup() -> None:
    """Leave the process group, if there is one."""
    if is_ddp_initialized():
        torch.distributed.destroy_process_group()
