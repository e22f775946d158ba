"""What a session takes on disk, and how to make sure that it is read from there."""

from __future__ import annotations

import os
from pathlib import Path


def disk_use(folder: Path) -> dict[str, int]:
    """Bytes on disk by file; those of a folder inside together."""
    found: dict[str, int] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = path.relative_to(folder).parts[0]
            status = path.stat()
            found[name] = found.get(name, 0) + 512 * getattr(status, "st_blocks", -(-status.st_size // 512))
    return found


def drop_from_cache(path: Path) -> bool:
    """Let the system forget what it has read of a file, or of all files of a folder. False where it cannot."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for file in [path] if path.is_file() else [found for found in path.rglob("*") if found.is_file()]:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # what is not on disk yet cannot be forgotten
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
    return True
