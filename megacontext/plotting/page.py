"""A page of HTML that needs nothing else: its style, light and dark, tables, text that cannot become markup.

Knows nothing of what stands on it. No scripts, no network.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from megacontext.plotting.figures import css_variables
from nanochat.harmless import harmless

STYLE = """
:root { --paper: #ffffff; --card: #f6f6f6; LIGHT color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181b; --card: #1f2226; DARK } }
body { margin: 2rem auto; max-width: 72rem; padding: 0 1rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 0; color: var(--ink); }
.faint, figcaption { color: var(--faint); font-size: .85rem; margin: 0; }
.alarm { border-left: 4px solid var(--vermilion); padding: .4rem .8rem; background: var(--card); }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: 1.5rem; }
figure { margin: 0; } svg { width: 100%; height: auto; display: block; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; }
th, td { text-align: left; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--grid); vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
"""


def document(title: str, parts: Iterable[str], *, style: str = "") -> str:
    """The whole page from its parts, which are HTML. style: CSS of its own, after what all pages share."""
    shared = STYLE.replace("LIGHT", css_variables(dark=False)).replace("DARK", css_variables(dark=True))
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{shared}{style}</style>"
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{chr(10).join(parts)}\n</body></html>\n'


def table(heads: Sequence[Any], rows: Iterable[Sequence[Any]], numbers: Iterable[int] = ()) -> str:
    """numbers: the columns that stand at the right."""
    right = set(numbers)

    def line(cells: Sequence[Any], tag: str) -> str:
        marks = (f'{tag} class="n"' if index in right else tag for index in range(len(cells)))
        return "<tr>" + "".join(f"<{m}>{cell(c)}</{tag}>" for m, c in zip(marks, cells, strict=True)) + "</tr>"

    body = "\n".join(line(row, "td") for row in rows)
    return f'<div class="scroll"><table><thead>{line(heads, "th")}</thead><tbody>\n{body}\n</tbody></table></div>'


class Strong(str):
    """A cell's words that stand out."""

    __slots__ = ()


def cell(value: Any) -> str:
    """A figure to four digits, whole numbers in groups of three; None is empty."""
    if value is None:
        return ""
    if isinstance(value, Strong):
        return f"<strong>{text(value)}</strong>"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return text(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def text(value: Any) -> str:
    """Words as they are written: nothing in them is markup."""
    return escape(harmless(str(value)))
