"""Sections as Markdown: a file of their own, and put into the marked places of another document.

A place is a pair of lines, `<!-- tables: NAME -->` and `<!-- /tables: NAME -->`; what stands between them is replaced.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from megacontext.errors import ConfigError
from megacontext.evaluation.reporting.blocks import Block, Cell, Picture, Points, Section, Table
from nanochat.harmless import harmless

PLACE = re.compile(r"(<!-- tables: (?P<name>[^\n]*?) -->\n).*?(<!-- /tables: (?P=name) -->)", re.DOTALL)
MARKUP = re.compile(r"[\\|*<`]|(?<!\w)_|_(?!\w)|\](?=[(\[:])")
OPENING = re.compile(r"<!-- tables: ([^\n]*?) -->")


def whole(title: str, sections: Iterable[Section]) -> str:
    """The report as one document."""
    return f"# {title}\n\n" + "\n".join(section(one) for one in sections)


def section(one: Section) -> str:
    return f"{'#' * one.level} {_plain(one.title)}\n\n" + body(one)


def body(one: Section) -> str:
    """A section without its title, ending in a line's end."""
    return "".join(f"{_block(block)}\n" for block in one.blocks)


def _block(block: Block) -> str:
    if isinstance(block, Table):
        return table(block)
    if isinstance(block, Picture):
        return f"![{_plain(block.alt)}]({block.name}.png)\n"
    if isinstance(block, Points):
        return "".join(f"- {_plain(words)}\n" for words in block.words)
    return f"{harmless(block)}\n"


def table(one: Table) -> str:
    """With its title above and its note below."""
    if not one.rows:
        return f"{one.title}: no rows\n"
    title = f"**{_plain(one.title)}**\n\n" if one.title else ""
    rule = ["---" if index < one.words else "---:" for index in range(len(one.heads))]
    lines = [[_plain(head) for head in one.heads], rule, *([_cell(cell) for cell in row] for row in one.rows)]
    note = f"\n{_plain(one.note)}\n" if one.note else ""
    return title + "".join(f"| {' | '.join(line)} |\n" for line in lines) + note


def _cell(cell: Cell) -> str:
    words = _plain(cell.text)
    return f"**{words}**" if cell.best and words.strip() else words


def _plain(words: str) -> str:
    """Nothing in it is markup, or ends a cell. Underscores within words are none, nor are brackets without a link."""
    return MARKUP.sub(r"\\\g<0>", harmless(words).replace("\n", " "))


def put_into(document: str, sections: Sequence[Section]) -> tuple[str, list[str]]:
    """The document with its places filled, and their names. Several sections of one name come one after the other.

    Raises ConfigError for a place that is not closed, or that no section is named like.
    """
    closed = [match["name"] for match in PLACE.finditer(document)]
    asked = OPENING.findall(document)
    if len(asked) != len(closed):
        lost = next(name for name in asked if name not in closed or asked.count(name) > closed.count(name))
        raise ConfigError(f"<!-- tables: {lost} --> is not closed: write <!-- /tables: {lost} --> below it")
    there = dict.fromkeys(one.name for one in sections)
    for name in closed:
        if name not in there:
            raise ConfigError(f"<!-- tables: {name} -->: these rows make no such section; there are {', '.join(there)}")
    return PLACE.sub(lambda match: _filled(match, sections), document), closed


def _filled(match: re.Match[str], sections: Sequence[Section]) -> str:
    mine = [one for one in sections if one.name == match["name"]]
    words = body(mine[0]) if len(mine) == 1 else "\n".join(section(one) for one in mine)
    return f"{match[1]}{words}{match[3]}"
