"""Standard output and standard error of a command line. Standard library only."""

from __future__ import annotations

import os
import sys
from typing import Any

from nanochat.harmless import harmless

PREFIX = "MegaContext> "


def use_utf8() -> None:
    """Standard streams speak UTF-8 whatever the locale; what cannot be shown becomes a question mark."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(encoding="utf-8", errors="replace")


def note(text: str) -> None:
    """One or more lines on stderr, made harmless."""
    print(harmless(text), file=sys.stderr, flush=True)


def say(text: str) -> None:
    """A piece of text on stdout, made harmless, at once."""
    sys.stdout.write(harmless(text))
    sys.stdout.flush()


def reader_left() -> int:
    """Whoever read our stdout is gone (`| head -1`): nothing more to say, and no complaint at exit. The exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
