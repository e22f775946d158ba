"""Makes the report of a comparison: tables and pictures as Markdown and PNG, and one page of HTML that needs nothing.

    python -m megacontext.evaluation.report artifacts/results/bench.jsonl --out docs/results
    python -m megacontext.evaluation.report rows.jsonl speed.jsonl --out FOLDER --into docs/results.md

Reads rows of `megacontext.evaluation.compare` and of `megacontext.evaluation.speed` from any number of files. Into the
folder go report.md, report.html, and a PNG for quality against bytes, recall against history and milliseconds against
history, as far as there are rows. Rows of other models, number formats or texts are kept apart; rows of the
development split are left out, or reported alone with --split dev. --into fills the places of another document that
are marked <!-- tables: NAME --> ... <!-- /tables: NAME -->, NAME being best, summary, losses, gaps, methods, speed or
a task as in `task late_recall`.

Exit codes: 0 written, 2 a file cannot be read or holds no rows, 3 matplotlib is missing (the tables are written).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from megacontext.evaluation.flags import Parser, guarded, note

if TYPE_CHECKING:
    from megacontext.evaluation.reporting.blocks import Section
    from megacontext.evaluation.reporting.contents import Pictures
    from megacontext.evaluation.reporting.reading import Found
    from megacontext.evaluation.reporting.study import Part

DEFAULT_OUT = Path("docs/results")


def build_parser() -> Parser:
    parser = Parser("python -m megacontext.evaluation.report", __doc__ or "")
    parser.add_argument("rows", nargs="+", type=Path, metavar="FILE", help="rows, one JSON row a line")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, metavar="FOLDER", help=f"({DEFAULT_OUT.as_posix()})")
    parser.add_argument("--into", type=Path, metavar="FILE", help="fill the marked places of this Markdown file, too")
    parser.add_argument("--split", choices=("test", "dev"), default="test", help="which rows (test)")
    return parser


def report(flags: argparse.Namespace) -> int:
    """Read, make, write. Returns the exit code."""
    from megacontext.errors import MissingAsset
    from megacontext.evaluation.reporting.reading import read_files
    from megacontext.evaluation.reporting.study import parts_of

    found = read_files(flags.rows, flags.split)
    for words in found.notes:
        note(words)
    parts = parts_of(found.compared)
    pictures: Pictures = {}
    missing: MissingAsset | None = None
    try:
        pictures = _draw(parts, found, flags.out)
    except MissingAsset as error:
        missing = error
        found.notes.append(f"There are no pictures: {error}")
    _write(parts, found, pictures, flags)
    if missing is not None:
        raise missing
    return 0


def _draw(parts: Sequence[Part], found: Found, out: Path) -> Pictures:
    """Every picture as a PNG, and for the page."""
    from megacontext.evaluation.reporting.pictures import pictures_of
    from megacontext.plotting.figures import save_png

    pictures: Pictures = {}
    for number, part in enumerate([*parts, None]):
        drawn = pictures_of(part, found.timed, f"_{number + 1}" if part and number else "")
        pictures["speed" if part is None else part.setting.heading] = [one.picture for one in drawn]
        for one in drawn:
            save_png(one.figure, out / f"{one.picture.name}.png")
            note(f"wrote {out / one.picture.name}.png")
    return pictures


def _write(parts: Sequence[Part], found: Found, pictures: Pictures, flags: argparse.Namespace) -> None:
    from megacontext.evaluation.reporting import markdown, webpage
    from megacontext.evaluation.reporting.contents import TITLE, sections_of
    from megacontext.plotting.figures import save_text

    sections = sections_of(parts, found.timed, pictures, found.notes)
    for name, made in (("report.md", markdown.whole), ("report.html", webpage.whole)):
        save_text(made(TITLE, sections), flags.out / name)
        note(f"wrote {flags.out / name}")
    if flags.into is not None:
        _fill(flags.into, sections)


def _fill(path: Path, sections: Sequence[Section]) -> None:
    """Raises ConfigError if the document cannot be read or has no place for tables."""
    from megacontext.errors import ConfigError
    from megacontext.evaluation.reporting.markdown import put_into
    from megacontext.plotting.figures import save_text

    try:
        before = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--into {path}: cannot be read ({error.strerror})") from error
    after, names = put_into(before, sections)
    if not names:
        raise ConfigError(f"--into {path}: no place for tables; write <!-- tables: summary --> and its end into it")
    save_text(after, path)
    note(f"{path}: filled {', '.join(names)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return guarded(report, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
