"""A session as text: its head, its turns, history as strips by level, and the view run by run. Values in, lines out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from megacontext.context import WorkingContext
from megacontext.edit_ledger import explain
from megacontext.session import Turn
from megacontext.sessions.stored import StoredSession
from megacontext.span import Span
from tools.inspection.logged import LoggedView
from tools.inspection.words import Words

SHADES = " ░▒▓█"  # none, up to a quarter, a half, three quarters, all of a column's tokens
LABEL = 8
MOST_TURNS, MOST_RUNS = 12, 40
INDENT = 28 * " "


def head_lines(session: StoredSession) -> list[str]:
    """Name, model, size, damage."""
    sizes = f"{len(session.tokens):,} tokens   {len(session.turns):,} turns   damage: {session.damage or 'none'}"
    return [f"session {session.name}   {session.model}   {sizes}", f"  begun {session.created} in {session.folder}"]


def turn_lines(session: StoredSession, words: Words | None, width: int, *, everything: bool) -> list[str]:
    """Range, role and first words of each turn, the newest last."""
    shown = session.turns if everything else session.turns[-MOST_TURNS:]
    lines = [f"  ({len(session.turns) - len(shown):,} earlier turns)"] if len(shown) < len(session.turns) else []
    for turn in shown:
        line = f"  [{turn.start:>9,}, {turn.stop:>9,})  {turn.role:<9} {turn.stop - turn.start:>8,} tok"
        text = words.turn(turn.start, turn.stop, turn.role, width - len(line) - 2) if words else ""
        lines.append(f"{line}  {text}".rstrip())
    return ["turns", *(lines or ["  none yet"])]


# --- strips ---


class Strip(NamedTuple):
    """History cut into `columns` equal pieces."""

    tokens: int
    columns: int

    @property
    def piece(self) -> float:
        """Tokens of a column."""
        return self.tokens / self.columns

    def shades(self, ranges: Sequence[tuple[int, int]]) -> str:
        """How much of each column lies in these ranges, which do not overlap."""
        covered = [0.0] * self.columns
        for start, stop in ranges:
            first, last = int(start / self.piece), min(int(stop / self.piece), self.columns - 1)
            for column in range(first, last + 1):
                low, high = column * self.piece, (column + 1) * self.piece
                covered[column] += max(min(stop, high) - max(start, low), 0.0)
        return "".join(SHADES[_shade(tokens / self.piece)] for tokens in covered)

    def letters(self, turns: Sequence[Turn]) -> str:
        """The first letter of whom each column's middle is from: d(ocument), u(ser), a(ssistant)."""
        middles = [(column + 0.5) * self.piece for column in range(self.columns)]
        return "".join(next((t.role[0] for t in turns if t.start <= at < t.stop), " ") for at in middles)


def _shade(share: float) -> int:
    """Quarters, rounded up; what is there at all is seen."""
    return 0 if share <= 0 else min(int(share * 4 - 1e-9) + 1, 4)


def strip_lines(context: WorkingContext | None, session: StoredSession, width: int) -> list[str]:
    """History from left to right, a row for each level in view: where it is exact, where it is folded."""
    tokens = len(session.tokens) if context is None else context.history
    if not tokens:
        return []
    strip = Strip(tokens, width - LABEL - 2)
    scale = f"{'0':<{strip.columns // 2}}{f'{tokens:,}':>{strip.columns - strip.columns // 2}}"
    lines = [f"{'':{LABEL}} {scale}", _row("turns", strip.letters(session.turns))]
    for level, ranges in _by_level(context).items():
        lines.append(_row(f"LOD{level}", strip.shades(ranges)))
    shades = "; ░ ▒ ▓ █: up to a quarter, half, three quarters, all of it" if context else ""
    return [*lines, f"{'':{LABEL}} a column: {strip.piece:,.3g} tokens{shades}"]


def _by_level(context: WorkingContext | None) -> dict[int, list[tuple[int, int]]]:
    """Ranges of history by the level that shows them, exact first; the tail is exact."""
    if context is None:
        return {}
    shown: dict[int, list[tuple[int, int]]] = {0: [(context.sealed, context.history)] if context.tail else []}
    for entry in context.entries:
        shown.setdefault(entry.level, []).append((entry.start, entry.end))
    return dict(sorted(shown.items()))


def _row(label: str, cells: str) -> str:
    return f"{label:>{LABEL - 1}} |{cells}|"


def tree_lines(context: WorkingContext) -> list[str]:
    """The levels of history, and how much of it each shows."""
    lines = ["tree     tokens a node      nodes    in view     tokens shown"]
    for level in range(context.levels + 1):
        width = context.grid.width(level)
        entries = [entry for entry in context.entries if entry.level == level]
        if level > 1 and width > context.sealed:
            break
        nodes, shown = context.sealed // width, sum(entry.end - entry.start for entry in entries)
        kind = "exact" if level == 0 else "folded"
        lines.append(f"  LOD{level}   {width:>13,} {nodes:>10,} {len(entries):>10,} {shown:>16,}  {kind}")
    return [*lines, f"  tail   {'':>13} {'':>10} {'':>10} {context.tail:>16,}  exact"]


# --- the view ---


def view_lines(view: LoggedView, words: Words | None, width: int, *, everything: bool) -> list[str]:
    """What is in view, as runs of one level and, if exact, one reason."""
    context = view.context
    head = [f"view     {context.slots:,} of {context.budget:,} slots", f"  {when(view)}"]
    runs = [(level, why, list(entries)) for (level, why), entries in groupby(context.entries, lambda e: _kind(view, e))]
    shown = runs if everything else runs[-MOST_RUNS:]
    lines = [f"  ({len(runs) - len(shown)} earlier runs; --all shows them)"] if len(shown) < len(runs) else []
    for level, why, entries in shown:
        lines += _run_lines(context, level, why, entries, words, width)
    tail = (
        f"  [{context.sealed:>9,}, {context.history:>9,})  tail           {context.tail:>6,} slots  exact: not full yet"
    )
    return [*head, *lines, tail]


def when(view: LoggedView) -> str:
    """After which tick, and what came since."""
    tick = view.at.tick
    sums = f" (one line sums ticks {view.at.first_tick:,} to {tick.tick:,})" if tick.ticks > 1 else ""
    later = view.context.history - view.at.context.history
    since = f", and {later:,} tokens since, which are exact" if later else ""
    return f"after tick {tick.tick:,}, {tick.reason}{sums}{since}; from {view.log.path.name}"


def _kind(view: LoggedView, entry: Span) -> tuple[int, str]:
    if entry.level:
        return entry.level, "folded away" if view.context.cost(entry) == 0 else "folded to a gist"
    return 0, explain(entry, view.context, view.protected, view.edits)


def _run_lines(
    context: WorkingContext, level: int, why: str, entries: list[Span], words: Words | None, width: int
) -> list[str]:
    noun = "page" if level == 0 else "gist"
    what = f"{len(entries)} {noun}{'s' if len(entries) > 1 else ''}"
    slots = sum(map(context.cost, entries))
    line = f"  [{entries[0].start:>9,}, {entries[-1].end:>9,})  LOD{level} {what:<9} {slots:>6,} slots"
    lines = [f"{line}  {why}"] if len(line) + len(why) + 2 <= width else [line, f"{INDENT}{why}"]
    if words is not None and "expanded" in why:
        lines.append(f"{INDENT}{words.glance(entries[0].start, entries[-1].end, width - len(INDENT))}")
    return lines
