"""Which code a figure was measured with: one hash of all source files, so that rows of other code can be told."""

from __future__ import annotations

import hashlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("megacontext", "nanochat")


def code_hash(root: Path = ROOT) -> str:
    """Twelve hex digits; line endings do not count."""
    digest = hashlib.sha256()
    for path in sorted(path for package in PACKAGES for path in (root / package).rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()[:12]
