"""Sections as one page of HTML: pictures inline, tables that scroll, no scripts, nothing from outside."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from megacontext.evaluation.reporting.blocks import Block, Picture, Points, Section, Table
from megacontext.plotting.page import Strong, document, text
from megacontext.plotting.page import table as plain_table

STYLE = """
body { max-width: 84rem; } h3 { margin: 1.6rem 0 .4rem; } h4 { margin: 1.4rem 0 .3rem; font-size: .95rem; }
nav { columns: 16rem; font-size: .85rem; margin: 1rem 0; } nav a { display: block; color: var(--blue); }
nav a.deep { padding-left: 1rem; } p { max-width: 60rem; } figure { max-width: 62rem; margin: 1rem 0 2rem; }
th:first-child, td:first-child { position: sticky; left: 0; background: var(--paper); }
td strong { color: var(--blue); }
summary { cursor: pointer; font-size: .9rem; margin: .4rem 0; } code { font-size: .95em; }
"""


def whole(title: str, sections: Sequence[Section]) -> str:
    """The report as one page."""
    parts = [f"<h1>{text(title)}</h1>", _links(sections)]
    for number, one in enumerate(sections):
        parts += _section(one, number)
    return document(title, parts, style=STYLE)


def _links(sections: Sequence[Section]) -> str:
    links = (
        f'<a{" class=deep" * (one.level > 2)} href="#section-{number}">{text(one.title)}</a>'
        for number, one in enumerate(sections)
    )
    return f"<nav>{''.join(links)}</nav>"


def _section(one: Section, number: int) -> Iterator[str]:
    yield f'<h{one.level} id="section-{number}">{text(one.title)}</h{one.level}>'
    for block in one.blocks:
        yield _block(block)


def _block(block: Block) -> str:
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Picture):
        caption = f"<strong>{text(block.title)}</strong> {text(block.alt)}"
        return f"<figure><figcaption>{caption}</figcaption>{block.svg}</figure>"
    if isinstance(block, Points):
        return f"<ul>{''.join(f'<li>{text(words)}</li>' for words in block.words)}</ul>"
    return f"<p>{_words(block)}</p>"


def _table(one: Table) -> str:
    if not one.rows:
        return f"<p class='faint'>{text(one.title)}: no rows</p>"
    rows = [[Strong(cell.text) if cell.best else cell.text for cell in row] for row in one.rows]
    found = plain_table(one.heads, rows, range(one.words, len(one.heads)))
    note = f'<p class="faint">{text(one.note)}</p>' if one.note else ""
    title = text(one.title)
    if one.folded:
        return f"<details><summary>{title}</summary>{found}{note}</details>"
    return (f"<p><strong>{title}</strong></p>" if title else "") + found + note


def _words(paragraph: str) -> str:
    """Code and bold, as they are written in the report's own sentences."""
    words = re.sub(r"`([^`]*)`", r"<code>\1</code>", text(paragraph))
    return re.sub(r"\*\*([^*]*)\*\*", r"<strong>\1</strong>", words)
