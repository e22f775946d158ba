"""A run as one picture, and its panels one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from megacontext.plotting.figures import (
    FAINT,
    HEALTHY,
    INK,
    TOLERABLE,
    as_svg,
    key_line,
    key_patch,
    new_figure,
    plain_text,
)
from megacontext.telemetry.events import ModelLoaded, Turn
from nanochat.harmless import snippet
from tools.event_log import EventLog
from tools.run_plots.panels import Panel, dress, panels_of
from tools.run_plots.series import Course

if TYPE_CHECKING:
    from megacontext.plotting.figures import Figure

WIDTH, ROW, HEAD, FOOT = 10.0, 2.45, 0.72, 0.3  # inches: the picture, a row of panels, the title's room, the turns'
AXIS_NAMES = {"tokens": "history, tokens", "ticks": "ticks"}
MOST_TURNS = 4  # named below the picture


def whole_picture(log: EventLog, course: Course) -> Figure:
    """All panels, two in a row, under one title."""
    panels = panels_of(course)
    rows = [panels[i : i + 2] for i in range(0, len(panels), 2)]
    names = [[row[0].name, row[-1].name] for row in rows]
    height = ROW * len(rows) + HEAD + FOOT
    figure, axes = new_figure(names, (WIDTH, height), head=HEAD / height, foot=FOOT / height)
    for index, panel in enumerate(panels):
        panel.draw(axes[panel.name], course)
        dress(axes[panel.name], panel, course)
        if panel.along and not any(later.along for later in panels[index + 2 :: 2]):
            axes[panel.name].set_xlabel(AXIS_NAMES[course.axis], fontsize=8, color=FAINT)
    _frame(figure, log, course, height)
    return figure


def _frame(figure: Figure, log: EventLog, course: Course, height: float) -> None:
    """Title above, the key below it, the turns at the foot."""
    plain_text(figure, (0.012, 1 - 0.1 / height), headline(log), fontsize=14, fontweight="bold", color=INK, va="top")
    plain_text(figure, (0.012, 1 - 0.42 / height), subtitle(log), fontsize=8.5, color=FAINT, va="top")
    figure.legend(
        handles=_key(course), loc="upper right", bbox_to_anchor=(0.995, 1 - 0.34 / height), ncols=4, frameon=False,
        fontsize=8.5, labelcolor=INK, handlelength=1.4, columnspacing=1.4, handletextpad=0.5, borderaxespad=0,
    )  # fmt: skip
    words = turn_words([turn for _, turn in course.turns])
    plain_text(figure, (0.012, 0.09 / height), words, fontsize=8, color=FAINT, va="bottom")


def _key(course: Course) -> list[Any]:
    """What shading, diamonds and dashed lines mean."""
    entries: list[Any] = [key_patch(HEALTHY, "healthy"), key_patch(TOLERABLE, "tolerable")]
    if course.prompts:
        entries.append(key_line("prompt ended: few pages on purpose", marker="D"))
    if course.turns:
        entries.append(key_line("turn ended", dashed=True))
    return entries


def panel_svg(panel: Panel, course: Course) -> str:
    """One panel as an element of a page, without the title, which the page has."""
    figure, axes = new_figure([[panel.name]], (6.0, 2.3))
    panel.draw(axes[panel.name], course)
    dress(axes[panel.name], panel._replace(title="", note=""), course)
    if panel.along:
        axes[panel.name].set_xlabel(AXIS_NAMES[course.axis], fontsize=8, color=FAINT)
    return as_svg(figure, panel.name, panel.alt(course))


# --- words ---


def headline(log: EventLog) -> str:
    """`megacontext_demo: 9,702 tokens in a view of 1,024 slots`."""
    history = max((event.history_tokens for event in log.of(Turn)), default=0)
    budget = (log.start.config.get("memory") or {}).get("budget")
    tokens = f"{history:,} tokens" if history else "no finished turn"
    return f"{log.run}: {tokens} in a view of {budget:,} slots" if budget else f"{log.run}: {tokens}"


def subtitle(log: EventLog) -> str:
    """Model, time, and whether the run came to its end."""
    models = [event.name for event in log.of(ModelLoaded)]
    words = [*models[:1], f"{log.times[0][:16].replace('T', ' ')} UTC"]
    if log.interrupted:
        words.append("INTERRUPTED: the log has no run_end")
    return "   ".join(words)


def turn_words(turns: list[Turn]) -> str:
    """`turns:  1 first.txt, 5,013 tokens   2 prompt 22, reply 256`."""
    words = [f"{turn.turn} {turn_name(turn)}" for turn in turns[:MOST_TURNS]]
    more = len(turns) - MOST_TURNS
    return "turns:   " + "    ".join([*words, *([f"and {more} more"] if more > 0 else [])]) if turns else ""


def turn_name(turn: Turn) -> str:
    """A turn in a few words."""
    if not turn.generated_tokens:
        return f"{snippet(turn.name or 'a text', 24)}, {turn.prompt_tokens:,} tokens"
    return f"prompt {turn.prompt_tokens:,}, reply {turn.generated_tokens:,}"
