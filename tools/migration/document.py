"""MIGRATION.md as values: its rows, its counts, and what is wrong with the way it is written.

A row stands in a table `| earlier | here | state | shown by |` under a `## ` heading. Knows nothing of tests or
commands: whether what a row says is true is asked in `evidence.py` and `named.py`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

STATES = ("done", "partial", "planned", "dropped")
COLUMNS = ("earlier", "here", "state", "shown by")
COUNTS = re.compile(r"(?<=<!-- counts -->\n).*?(?=<!-- /counts -->)", re.DOTALL)
TEST_ID = re.compile(r"tests/[\w/.-]+\.py(?:::\w+)+(?:\[\S*)?")
_CELL_END = re.compile(r"(?<!\\)\|")
_RULE = re.compile(r"[\s|:-]+")


class Problem(NamedTuple):
    """Something that is not so. line: from 1."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


class Row(NamedTuple):
    """One promise. reason: what the state's cell says after its colon; tests: ids of pytest."""

    section: str
    line: int
    earlier: str
    here: str
    state: str
    reason: str
    tests: tuple[str, ...]


@dataclass
class Document:
    """All rows in order, and the problems of form."""

    name: str
    rows: list[Row] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def sections(self) -> dict[str, Counter[str]]:
        """Section -> state -> rows."""
        found: dict[str, Counter[str]] = {}
        for row in self.rows:
            found.setdefault(row.section, Counter())[row.state] += 1
        return found


def parse(text: str, name: str = "MIGRATION.md") -> Document:
    """Never raises: what cannot be read becomes a problem with its line."""
    document = Document(name)
    for section, line, cells in _table_lines(text):
        if len(cells) != len(COLUMNS):
            reason = f"a table here, and each of its rows, has the columns {' | '.join(COLUMNS)}"
            document.problems.append(Problem(name, line, reason))
            continue
        state, _, reason = (part.strip() for part in cells[2].partition(":"))
        named = [piece for piece in re.split(r"<br>|[\s,]+", cells[3].replace("`", "")) if piece]
        tests = tuple(piece for piece in named if TEST_ID.fullmatch(piece))
        row = Row(section, line, cells[0], cells[1], state, reason, tests)
        document.rows.append(row)
        faults = [*_faults(row), *(f"{piece!r} is no id of a test" for piece in named if piece not in tests)]
        document.problems += [Problem(name, line, fault) for fault in faults]
    if not document.rows:
        document.problems.append(Problem(name, 1, f"no table with the columns {' | '.join(COLUMNS)}"))
    return document


def counts_table(document: Document) -> str:
    """Rows by section and state, as the document shows them between its markers."""
    sections = document.sections()
    lines = ["| section | " + " | ".join(STATES) + " | rows |", "|---" * (len(STATES) + 2) + "|"]
    lines += [_counts_line(section, counts) for section, counts in sections.items()]
    lines.append(_counts_line("all", sum(sections.values(), Counter())))
    return "\n".join(lines) + "\n"


def check_counts(text: str, document: Document) -> Iterator[Problem]:
    """The counts that stand in the document, if it has a place for them, are those of its rows."""
    block = COUNTS.search(text)
    if block and block[0] != counts_table(document):
        line = text.count("\n", 0, block.start()) + 1
        yield Problem(document.name, line, "the counts are not those of the rows: `--write` writes them anew")


def without_first_cells(text: str) -> str:
    """The text with the first cell of every table row blanked, line for line: what it says of today, not of earlier."""
    lines = text.split("\n")
    return "\n".join(_blank_first_cell(line) if _is_row(line) else line for line in lines)


def _table_lines(text: str) -> Iterator[tuple[str, int, list[str]]]:
    """(section, line, cells) of every row of every table but the counts; a header is checked by its columns' number."""
    block = COUNTS.search(text)
    inside = range(text.count("\n", 0, block.start()), text.count("\n", 0, block.end())) if block else range(0)
    section, header = "", True
    for index, line in enumerate(text.splitlines()):
        section = line[3:].strip() if line.startswith("## ") else section
        if not _is_row(line) or index in inside:
            header = True
            continue
        cells = _cells(line)
        if not header and not _RULE.fullmatch(line):
            yield section, index + 1, cells
        elif header and tuple(cells) != COLUMNS:
            yield section, index + 1, []
        header = False


def _faults(row: Row) -> Iterable[str]:
    if row.state not in STATES:
        yield f"unknown state {row.state!r}: one of {', '.join(STATES)}, then a colon and the reason"
    elif row.state != "done" and not row.reason:
        yield f"{row.state} gives no reason: `{row.state}: what is missing or different, or why`"
    if row.state == "done" and not row.tests:
        yield "done names no test: `tests/FILE.py::test_name` in the last column"


def _is_row(line: str) -> bool:
    return line.lstrip().startswith("|")


def _cells(line: str) -> list[str]:
    inner = line.strip().removeprefix("|").removesuffix("|")
    return [cell.replace("\\|", "|").strip() for cell in _CELL_END.split(inner)]


def _blank_first_cell(line: str) -> str:
    start = line.index("|") + 1
    end = _CELL_END.search(line, start)
    stop = end.start() if end else len(line)
    return line[:start] + " " * (stop - start) + line[stop:]


def _counts_line(name: str, counts: Counter[str]) -> str:
    figures: Sequence[int] = [counts[state] for state in STATES]
    return f"| {name} | {' | '.join(map(str, figures))} | {counts.total()} |"
