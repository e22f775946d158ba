"""What a report is made of, in no format: sections with paragraphs, tables and pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class Cell(NamedTuple):
    """best: it is the best, or may be as good."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Table:
    """heads: one a column. words: so many columns, from the first, are words; figures follow. title: may be empty.

    folded: a page may show it closed.
    """

    heads: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    words: int = 1
    title: str = ""
    note: str = ""
    folded: bool = False


class Points(NamedTuple):
    """A list of sentences."""

    words: tuple[str, ...]


class Picture(NamedTuple):
    """name: of its file. alt: what is to be seen, in a sentence. svg: as an element of a page."""

    name: str
    title: str
    alt: str
    svg: str = ""


Block = str | Points | Table | Picture


@dataclass(frozen=True)
class Section:
    """name: short, for links and for the places of a document that a section is put into."""

    title: str
    name: str
    level: int = 2
    blocks: list[Block] = field(default_factory=list)


def cells(*words: str) -> tuple[Cell, ...]:
    return tuple(Cell(word) for word in words)


def without_empty_columns(table: Table) -> Table:
    """The table without columns in which no row has anything."""
    kept = [index for index in range(len(table.heads)) if any(row[index].text not in ("", "-") for row in table.rows)]
    rows = tuple(tuple(row[index] for index in kept) for row in table.rows)
    words = sum(index < table.words for index in kept)
    return Table(tuple(table.heads[i] for i in kept), rows, words, table.title, table.note, table.folded)
