"""`python -m nanochat.chat`: flags first, everything heavy after."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nanochat.chat.flags import parse_flags

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code (flags.EPILOG lists them)."""
    try:
        flags = parse_flags(sys.argv[1:] if argv is None else argv)
        from nanochat.chat.run import run

        return run(flags)
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else 1
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
