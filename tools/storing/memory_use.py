"""What this process holds in memory, as far as the system tells (Linux), and how large plain values are."""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path
from typing import Any, NamedTuple

STATUS = Path("/proc/self/status")


class MemoryUse(NamedTuple):
    """Bytes. anonymous: what nothing but this process holds; mapped files are not among it. peak: the most so far."""

    anonymous: int
    peak: int


def memory_use() -> MemoryUse | None:
    """Now, after collecting garbage and giving free memory back; None where the system does not tell."""
    gc.collect()
    if not STATUS.exists():
        return None
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines() if ":" in line)
    return MemoryUse(*(1024 * int(fields[name].split()[0]) for name in ("RssAnon", "VmHWM")))


def forget_peak() -> None:
    """Let `peak` begin anew."""
    path = Path("/proc/self/clear_refs")
    if path.exists():
        path.write_text("5")


def deep_size(value: Any) -> int:
    """Bytes of nested tuples and lists, each object counted once."""
    seen: dict[int, int] = {}
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if id(item) not in seen:
            seen[id(item)] = sys.getsizeof(item)
            waiting.extend(item if isinstance(item, (tuple, list)) else ())
    return sum(seen.values())
