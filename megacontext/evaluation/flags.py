"""What the command lines of measuring programs share: their manners, and the flags that all of them have."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

from nanochat.streams import note, reader_left, use_utf8

__all__ = ["INTERRUPTED", "Parser", "add_common", "guarded", "lengths", "note", "use_utf8", "whole_number"]

INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """Answers an unknown flag with the nearest one, and exits with 2."""

    def __init__(self, prog: str, doc: str) -> None:
        description = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=prog, description=doc, formatter_class=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        note(f"error: {message}\n{self.prog} --help lists the flags.")
        raise SystemExit(2)

    def parse(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """Raises SystemExit: 0 after --help, 2 for a flag that does not exist or lacks its value."""
        flags, unknown = self.parse_known_args(argv)
        if unknown:
            options = [option for action in self._actions for option in action.option_strings]
            near = get_close_matches(unknown[0].partition("=")[0], options, n=1, cutoff=0.5)
            self.error(f"unknown flag or argument {unknown[0]}.{f' Did you mean {near[0]}?' if near else ''}")
        return flags


def add_common(parser: Parser) -> None:
    """--text, --set, --json, --out."""
    parser.add_argument(
        "--text", action="append", default=[], type=Path, metavar="FILE", help="read this instead; repeatable, .gz too"
    )
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.FIELD=VALUE", help="model or memory")
    parser.add_argument("--json", action="store_true", help="one JSON row a line on stdout, instead of a table")
    parser.add_argument("--out", type=Path, metavar="FILE", help="keep finished rows here, one JSON row a line")


def whole_number(least: int) -> Callable[[str], int]:
    """An argparse type: integers from `least` on."""

    def parse(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is too few: at least {least}")
        return value

    parse.__name__ = "whole number"  # argparse names the type in its message
    return parse


def lengths(least: int, example: str) -> Callable[[str], list[int]]:
    """An argparse type: '1024,16384' -> ascending lengths of history, from `least` on."""

    def parse(text: str) -> list[int]:
        found = sorted({int(part.replace("_", "")) for part in text.split(",")})
        if found[0] < least:
            raise argparse.ArgumentTypeError(
                f"{text}: a length is a whole number from {least} on, for example {example}"
            )
        return found

    parse.__name__ = "lengths"  # argparse names the type in its message
    return parse


def guarded(work: Callable[[argparse.Namespace], int], parser: Parser, argv: Sequence[str] | None) -> int:
    """Parse, work, and turn what went wrong into an exit code."""
    from megacontext.errors import MegaContextError

    try:
        use_utf8()
        return work(parser.parse(argv))
    except MegaContextError as error:
        note(f"error: {error}")
        return error.exit_code
    except BrokenPipeError:  # `| head -1`
        return reader_left()
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else 1
    except KeyboardInterrupt:
        note("interrupted")
        return INTERRUPTED
